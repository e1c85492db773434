"""`run -t` and `run -it`: a terminal of the view's own, as a user at a real terminal meets it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from overlaykit import procfs

from ..views.fixtures import with_both_drivers
from ..views.user import TestUser, command, read_to_end
from .terminals import Terminal, wait_for_state

LINES = 30000
"""More than all buffers between a view and its reader hold."""


def interactive(
    user: TestUser, *argv: str, options: tuple[str, ...] = ("-it",), **how: object
) -> Terminal:
    """`overlaykit run -it` in a new terminal."""
    arguments = user._with_layers(("run", *options, "--", *argv))
    return Terminal(command(), *arguments, **how)  # type: ignore[arg-type]


def in_shell(user: TestUser, *argv: str) -> tuple[str, ...]:
    """The words of `overlaykit run -it` for a shell."""
    return (command(), *user._with_layers(("run", "-it", "--", *argv)))


@with_both_drivers
def test_the_command_has_a_terminal_of_the_views_own(user: TestUser) -> None:
    script = (
        "tty; test -t 0 && test -t 1 && test -t 2 && echo all three; echo by name >/dev/tty;"
        " echo on the console >/dev/console; ls /dev/pts | sort | tr '\\n' ' '; exit 3"
    )
    with interactive(user, "sh", "-c", script) as terminal:
        assert terminal.finish() == 3
    assert terminal.output.splitlines() == [
        "/dev/pts/0",
        "all three",
        "by name",
        "on the console",
        "0 ptmx ",
    ]


def test_the_command_leads_a_session_that_is_not_the_callers(user: TestUser) -> None:
    with interactive(user, "sh", "-c", "ps -o sid=,pgid=,tpgid= -p $$; echo $$") as terminal:
        assert terminal.finish() == 0
    *_, own = words = terminal.output.split()
    assert words[:2] == [own, own]


def test_the_size_of_the_window_is_there_at_once_and_follows(user: TestUser) -> None:
    script = "trap 'stty size; exit' WINCH; stty size; echo ready; while :; do sleep 0.1; done"
    with interactive(user, "sh", "-c", script, rows=31, columns=97) as terminal:
        assert "31 97" in terminal.read_until("ready")
        terminal.resize(40, 120)
        assert "40 120" in terminal.read_until("40 120")
        assert terminal.finish() == 0


def test_ctrl_c_interrupts_the_command_and_not_the_view(user: TestUser) -> None:
    script = "trap 'echo caught; exit 7' INT; echo ready; while :; do sleep 0.1; done"
    with interactive(user, "sh", "-c", script) as terminal:
        terminal.read_until("ready")
        terminal.type("\x03")
        terminal.read_until("caught")
        assert terminal.finish() == 7
    assert terminal.output.count("caught") == 1


def test_a_shell_inside_stops_and_resumes_its_jobs(user: TestUser) -> None:
    with interactive(user, "bash", "--norc", "-i", env={"PS1": "inside> "}) as terminal:
        terminal.read_until("inside> ")
        # What is typed while the shell changes the mode may be lost.
        terminal.type("sh -c 'echo read\"\"y; exec cat'\n")
        terminal.read_until("ready\r\n")
        terminal.type("first\n")
        terminal.read_until("first", times=2)
        terminal.type("\x1a")
        terminal.read_until("Stopped")
        terminal.read_until("inside> ")
        terminal.type("jobs\n")  # not bg: cat would stop again at a moment of its own
        terminal.read_until("inside> ")
        terminal.type("fg\n")
        wait_for_state("cat", "S")
        terminal.type("second\n")
        terminal.read_until("second", times=2)
        terminal.type("\x04")
        terminal.read_until("inside> ")
        terminal.type("exit 5\n")
        assert terminal.finish() == 5


def test_end_of_file_ends_the_command_as_at_any_terminal(user: TestUser) -> None:
    with interactive(user, "sh", "-c", "echo ready; cat; echo done") as terminal:
        terminal.read_until("ready")
        terminal.type("line\n")
        terminal.read_until("line", times=2)
        terminal.type("\x04")
        terminal.read_until("done")
        assert terminal.finish() == 0


@pytest.mark.parametrize(
    ("argv", "status"),
    [(("true",), 0), (("no-such-command",), 127), (("sh", "-c", "kill -9 $$"), 137)],
)
def test_the_callers_terminal_is_as_before(
    user: TestUser, argv: tuple[str, ...], status: int
) -> None:
    with interactive(user, *argv) as terminal:
        assert terminal.finish() == status
        assert terminal.mode() == terminal.before


@pytest.mark.parametrize("group", [False, True])
def test_the_callers_terminal_is_as_before_when_the_supervisor_is_killed(
    user: TestUser, group: bool
) -> None:
    with interactive(user, "sh", "-c", "echo ready; exec sleep infinity") as terminal:
        terminal.read_until("ready")
        assert terminal.is_raw()
        supervisor = terminal.supervisor()
        with pidfds(*procfs.descendants(supervisor)) as family:
            if group:
                os.killpg(supervisor, signal.SIGKILL)
            else:
                os.kill(supervisor, signal.SIGKILL)
            assert terminal.finish() == -signal.SIGKILL
            for one in family:
                select.select([one], [], [])
        assert terminal.mode() == terminal.before


def test_a_mode_that_was_set_after_the_supervisors_death_stays(user: TestUser) -> None:
    with interactive(user, "sh", "-c", "echo ready; exec sleep infinity") as terminal:
        terminal.read_until("ready")
        supervisor = terminal.supervisor()
        subprocess.run(["stty", "-echo", "icanon"], stdin=terminal.slave, check=True)
        chosen = terminal.mode()
        with pidfds(*procfs.descendants(supervisor)) as family:
            os.kill(supervisor, signal.SIGKILL)
            terminal.finish()
            for one in family:
                select.select([one], [], [])
        assert terminal.mode() == chosen


def test_a_stopped_view_gives_the_terminal_back_and_takes_it_again(user: TestUser) -> None:
    with Terminal("bash", "--norc", "-i", env={"PS1": "outside> "}) as terminal:
        terminal.read_until("outside> ")
        words = in_shell(user, "sh", "-c", "echo ready; read line; echo got $line")
        terminal.type(" ".join(f"'{word}'" for word in words) + "\n")
        terminal.read_until("ready\r\n")
        assert terminal.is_raw()
        os.kill(terminal.supervisor(), signal.SIGTSTP)
        terminal.read_until("Stopped")
        terminal.read_until("outside> ")
        terminal.type("stty -a | grep -o ' icanon'; fg\n")
        terminal.read_until(" icanon\r\n")
        terminal.type("the line\n")
        terminal.read_until("got the line")
        terminal.read_until("outside> ")
        terminal.type("exit 4\n")
        assert terminal.finish() == 4


@pytest.mark.parametrize("text", ["one\ntwo\n", "one\ntwo", ""])
def test_a_pipe_as_input_ends_as_if_the_user_pressed_ctrl_d(user: TestUser, text: str) -> None:
    done = user.overlaykit("run", "-it", "--", "cat", stdin=None, input=text)
    assert (done.returncode, done.stderr) == (0, "")
    # Echoed, and copied.
    assert [done.stdout.count(word) for word in text.split()] == [2] * len(text.split())


def test_a_shell_reads_all_of_a_piped_script(user: TestUser) -> None:
    done = user.overlaykit(
        *("run", "-it", "--", "bash", "--norc", "-i"), stdin=None, input="echo a$((1+1))b\n"
    )
    assert done.returncode == 0
    assert "a2b" in done.stdout


def test_an_input_that_has_ended_stays_so(user: TestUser) -> None:
    script = "cat >/dev/null; cat; echo both"
    done = user.overlaykit("run", "-it", "--", "sh", "-c", script, stdin=None, input="a line\n")
    assert done.returncode == 0
    assert done.stdout.endswith("both\n")


def test_a_file_is_passed_on_in_full(user: TestUser) -> None:
    name = user.write(user.path("input"), "".join(f"{number}\n" for number in range(LINES)))
    with open(name) as file:
        done = user.overlaykit("run", "-it", "--", "sh", "-c", "stty -echo; wc -l", stdin=file)
    assert done.returncode == 0
    assert done.stdout.split()[-1] == str(LINES)


def test_output_to_a_file_is_complete(user: TestUser) -> None:
    expected = b"".join(b"%d\r\n" % number for number in range(1, LINES + 1))
    with open(user.path("output"), "w+b") as file:
        file.write(b"before\n")
        file.flush()
        done = user.overlaykit(
            *("run", "-t", "--", "seq", str(LINES)),
            stdout=file,
            stderr=subprocess.PIPE,
            capture_output=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        file.seek(0)
        assert file.read() == b"before\n" + expected


@pytest.mark.parametrize("kind", ["pipe", "socket", "terminal"])
def test_a_slow_reader_loses_nothing(user: TestUser, kind: str) -> None:
    """Nothing is read before the command has ended, or waits for its reader."""
    expected = b"".join(b"%d\r\n" % number for number in range(1, LINES + 1))
    with ExitStack() as stack:
        if kind == "pipe":
            reader, writer = os.pipe()
        elif kind == "socket":
            import socket

            pair = [one.detach() for one in socket.socketpair()]
            reader, writer = pair
        else:
            reader, writer = os.openpty()
            subprocess.run(["stty", "raw"], stdin=writer, check=True)
        stack.callback(os.close, reader)
        process = user.start("run", "-t", "--", "seq", str(LINES), stdout=writer)
        stack.callback(process.communicate)
        if kind != "terminal":
            os.close(writer)
            assert read_to_end(reader) == expected
        else:
            stack.callback(os.close, writer)
            shown = b""
            while len(shown) < len(expected):
                shown += os.read(reader, 100)
            assert shown == expected
        assert process.wait() == 0


def test_a_reader_that_has_gone_hangs_the_terminal_up(user: TestUser) -> None:
    reader, writer = os.pipe()
    process = user.start("run", "-t", "--", "yes", stdout=writer)
    os.close(writer)
    assert os.read(reader, 3) == b"y\r\n"
    os.close(reader)
    process.communicate()
    assert process.returncode in (1, 128 + signal.SIGHUP)


def test_output_that_cannot_be_written_is_reported(user: TestUser) -> None:
    with open("/dev/full", "wb") as full:
        done = user.overlaykit(
            *("run", "-t", "--", "echo", "text"),
            stdout=full,
            stderr=subprocess.PIPE,
            capture_output=False,
        )
    assert done.returncode == 125
    assert done.stderr == "overlaykit: cannot write to standard output: No space left on device\n"


def test_a_hang_up_of_the_callers_terminal_reaches_the_command(user: TestUser) -> None:
    shared = user.directory("shared")
    script = (
        f"trap 'echo hung up >{shared}/seen; exit' HUP; echo ready; while :; do sleep 0.1; done"
    )
    with interactive(
        user, "sh", "-c", script, options=("-it", "-v", f"{shared}:{shared}")
    ) as terminal:
        terminal.read_until("ready")
        terminal.hang_up()
        terminal.process.wait()
    with open(os.path.join(shared, "seen")) as file:
        assert file.read() == "hung up\n"


def test_a_terminal_that_all_have_closed_can_be_opened_again(user: TestUser) -> None:
    script = "echo before; exec <&- >&- 2>&-; sleep 0.2; echo after >/dev/console; exit 4"
    with interactive(user, "sh", "-c", script) as terminal:
        assert terminal.finish() == 4
    assert terminal.output == "before\r\nafter\r\n"


def test_nothing_is_lost_that_a_command_leaves_behind_for_others_to_hold(user: TestUser) -> None:
    """The leader of the session ends while another process has the terminal open."""
    reader, writer = os.pipe()
    process = user.start(
        "run", "-t", "--", "sh", "-c", f"sleep 1000 & seq {LINES}; echo last", stdout=writer
    )
    os.close(writer)
    assert read_to_end(reader).split()[-2:] == [str(LINES).encode(), b"last"]
    os.close(reader)
    process.communicate()
    assert process.returncode == 0


def test_input_alone_changes_nothing(user: TestUser) -> None:
    done = user.overlaykit(
        "run", "-i", "--", "sh", "-c", "test -t 0 || cat", stdin=None, input="one\ntwo"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "one\ntwo", "")


def test_without_i_the_callers_terminal_is_left_alone_and_interrupts(user: TestUser) -> None:
    script = "trap 'echo caught; exit 7' INT; echo ready; while :; do sleep 0.1; done"
    with interactive(user, "sh", "-c", script, options=("-t",)) as terminal:
        terminal.read_until("ready")
        assert terminal.mode() == terminal.before
        terminal.type("\x03")
        terminal.read_until("caught")
        assert terminal.finish() == 7
    assert terminal.output.count("caught") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_from_outside_reaches_the_command_once(
    user: TestUser, number: signal.Signals
) -> None:
    name = number.name.removeprefix("SIG")
    script = (
        f"trap 'echo got it' {name}; trap 'exit 6' USR2; echo ready; while :; do sleep 0.1; done"
    )
    with interactive(user, "sh", "-c", script) as terminal:
        terminal.read_until("ready")
        os.kill(terminal.supervisor(), number)
        terminal.read_until("got it")
        os.kill(terminal.supervisor(), signal.SIGUSR2)
        assert terminal.finish() == 6
    assert terminal.output.count("got it") == 1


@pytest.mark.parametrize(("kind", "seen"), [("vt100", "vt100"), (None, "xterm")])
def test_the_kind_of_terminal_is_the_callers(
    user: TestUser, kind: str | None, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TERM", raising=False)
    env = {} if kind is None else {"TERM": kind}
    with interactive(user, "printenv", "TERM", env=env) as terminal:
        assert terminal.finish() == 0
    assert terminal.output == f"{seen}\r\n"


def test_a_command_in_a_running_view_has_a_terminal_as_well(user: TestUser) -> None:
    with interactive(
        user, "sh", "-c", "echo on; read line", options=("-it", "--rm", "--name", "v")
    ) as view:
        view.read_until("on\r\n")
        with Terminal(command(), "exec", "-it", "v", "--", "sh", "-c", "tty; exit 8") as terminal:
            assert terminal.finish() == 8
            assert terminal.mode() == terminal.before
        assert terminal.output == "/dev/pts/1\r\n"
        view.type("end\n")
        assert view.finish() == 0


def test_streams_that_the_caller_has_closed_are_no_obstacle(user: TestUser) -> None:
    words = user._with_layers(("run", "-it", "--", "sh", "-c", "test -t 1 && exit 9"))
    done = subprocess.run(
        ["sh", "-c", '"$@" <&- >&-', "sh", command(), *words],
        stderr=subprocess.PIPE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (9, b"")


@contextmanager
def pidfds(*processes: int) -> Iterator[list[int]]:
    """Descriptors that are readable once the processes have ended."""
    with ExitStack() as stack:
        found = []
        for process in processes:
            found.append(os.pidfd_open(process))
            stack.callback(os.close, found[-1])
        yield found
