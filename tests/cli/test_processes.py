"""The processes of a view: what they cannot reach outside, how they are started, and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest

from ..views.fixtures import with_both_drivers
from ..views.user import TestUser, command
from .terminals import Terminal


@with_both_drivers
def test_a_process_outside_can_be_neither_signalled_nor_traced_nor_seen(user: TestUser) -> None:
    outside = subprocess.Popen(["sleep", "infinity"])
    program = (
        "import errno, os, signal, sys\n"
        "for number in {os.getppid() + 2, int(sys.argv[1]), 1 << 21}:\n"
        "    for act in (lambda: os.kill(number, 0), lambda: os.kill(number, 9), lambda: os.pidfd_open(number)):\n"
        "        try: act()\n"
        "        except OSError as error: print(errno.errorcode[error.errno])\n"
        "    print(os.path.exists(f'/proc/{number}'))\n"
    )
    try:
        # No process of the view has the number: it has a handful of them.
        assert outside.pid > 20
        seen = user.succeeds("run", "--", "python3", "-c", program, str(outside.pid)).split()
        assert outside.poll() is None
    finally:
        outside.kill()
        outside.wait()
    assert sorted(set(seen)) == ["ESRCH", "False"]
    assert len(seen) == 12


def test_a_view_shows_its_own_processes_and_the_machine_all(user: TestUser) -> None:
    with user.start("run", "--", "sh", "-c", "ps -A -o pid= | wc -l; read line") as view:
        assert view.stdout is not None
        inside = int(view.stdout.readline())
        outside = len(user.program(["ps", "-A", "-o", "pid="]).split())
        view.communicate("end\n")
    # init, the shell, ps and wc
    assert inside <= 4
    assert outside >= inside


def test_a_signal_is_the_commands_alone_and_may_be_survived(user: TestUser) -> None:
    script = (
        "trap 'echo theirs' TERM; (trap 'echo also theirs; exit' TERM; sleep infinity & wait) &"
        " echo ready; read line; echo went on"
    )
    with user.start("run", "--", "sh", "-c", script) as view:
        assert view.stdout is not None
        assert view.stdin is not None
        assert view.stdout.readline() == "ready\n"
        view.send_signal(signal.SIGTERM)
        assert view.stdout.readline() == "theirs\n"
        assert view.communicate("end\n")[0] in ("went on\n", "")


def test_with_a_grace_period_every_process_is_asked_to_end(user: TestUser) -> None:
    script = (
        "(trap 'echo asked; exit' TERM; echo on; while :; do sleep 0.1; done) &"
        " trap 'wait; exit 3' TERM; echo on; wait"
    )
    with user.start("run", "--stop-timeout", "1000", "--", "sh", "-c", script) as view:
        assert view.stdout is not None
        assert [view.stdout.readline() for _ in range(2)] == ["on\n", "on\n"]
        view.send_signal(signal.SIGTERM)
        assert view.communicate()[0] == "asked\n"
        assert view.returncode == 3


@pytest.mark.parametrize("options", [(), ("-t",)])
def test_what_is_left_after_the_grace_period_is_killed(
    user: TestUser, options: tuple[str, ...]
) -> None:
    script = "trap '' TERM; echo on; while :; do sleep 0.1; done"
    with user.start("run", *options, "--stop-timeout", "0.2", "--", "sh", "-c", script) as view:
        assert view.stdout is not None
        assert view.stdout.readline().strip() == "on"
        view.send_signal(signal.SIGTERM)
        view.communicate()
        assert view.returncode == 128 + signal.SIGKILL


def test_a_new_session_has_no_terminal(user: TestUser) -> None:
    script = (
        "ps -o sid= -p $$; echo $$; (: </dev/tty) 2>&- && echo a terminal; test -t 0 && echo input"
    )
    arguments = user._with_layers(("run", "--new-session", "--", "sh", "-c", script))
    with Terminal(command(), *arguments) as terminal:
        assert terminal.finish() == 0
    session, own, *rest = terminal.output.split()
    assert session == own
    assert rest == ["input"]


def test_the_entry_point_gets_the_words_as_arguments(user: TestUser) -> None:
    assert user.succeeds("run", "--entrypoint", "echo", "--", "a", "b") == "a b\n"
    assert user.succeeds("run", "--entrypoint", "/bin/echo") == "\n"


def piped(user: TestUser, text: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command with descriptor 9 on a pipe that holds a text, and 8 on a file."""
    reader, writer = os.pipe()
    os.write(writer, text)
    os.close(writer)
    words = [command(), *user._with_layers(arguments)]
    try:
        return subprocess.run(
            ["bash", "-c", f'exec "$@" 9<&{reader} 8>{user.path("status")}', "sh", *words],
            pass_fds=(reader,),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    finally:
        os.close(reader)


def test_options_come_from_a_descriptor(user: TestUser) -> None:
    options = b"-e\0A=two words\0--hostname-is-none\0"
    done = piped(user, options, "run", "--args", "9", "--", "sh", "-c", "echo $A")
    assert done.returncode == 125
    assert b"--hostname-is-none" in done.stderr
    script = "echo $A $B; ls /proc/self/fd | grep -c 9"
    done = piped(
        user, b"-e\0A=two words\0", "run", "-e", "B=b", "--args=9", "--", "sh", "-c", script
    )
    assert done.stdout == b"two words b\n0\n"
    assert user.refused("run", "--args", "77", "--", "true").startswith(
        "--args: descriptor 77 is not open"
    )


@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("kill -9 $$", 137)])
def test_the_status_is_told_as_bubblewrap_tells_it(user: TestUser, script: str, code: int) -> None:
    words = f"test ! -e /proc/self/fd/8 || exit 99; {script}"
    done = piped(user, b"", "run", "--json-status-fd", "8", "--", "sh", "-c", words)
    assert done.returncode == code
    with open(user.path("status")) as file:
        start, end = map(json.loads, file)
    assert start.keys() == {"child-pid"}
    assert start["child-pid"] > 1
    assert end == {"exit-code": code}


def test_a_command_that_is_not_executed_has_no_exit_code(user: TestUser) -> None:
    assert piped(user, b"", "run", "--json-status-fd", "8", "--", "no-such").returncode == 127
    with open(user.path("status")) as file:
        assert [json.loads(line).keys() for line in file] == [{"child-pid"}]
