"""`overlaykit attach`: the output of a detached view from now on, its input, its terminal, and its status."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess

import pytest

from overlaykit.cli.attach import Keys

from ..processes import open_files
from ..views.fixtures import with_both_drivers
from ..views.user import TestUser, command
from .terminals import Terminal
from .test_named import removed

SCRIPT = (
    "trap 'echo caught; exit 7' TERM; mkfifo /tmp/in-fifo; exec 3<>/tmp/in-fifo; echo before; "
    "while :; do read line <&3 && { echo $line; echo $line >&2; }; done"
)
SHELL = ("bash", "--norc", "-i")
PROMPT = "inside> "


def test_keys_are_found_also_where_they_come_apart() -> None:
    keys = Keys(b"\x10\x11")
    assert keys.pass_on(b"ab\x10") == (b"ab", False)
    assert keys.pass_on(b"c\x10\x10") == (b"\x10c\x10", False)
    assert keys.pass_on(b"\x11rest") == (b"", True)
    assert Keys(b"").pass_on(b"\x10\x11") == (b"\x10\x11", False)


@with_both_drivers
def test_output_comes_from_now_on_and_signals_go_to_the_command(user: TestUser) -> None:
    with removed(user, "v"):
        user.succeeds("run", "-d", "--name", "v", "--", "sh", "-c", SCRIPT)
        while user.succeeds("logs", "v") != "before\n":
            pass
        with user.start("attach", "v", stderr=subprocess.PIPE) as attached:
            assert attached.stdout is not None
            assert attached.stderr is not None
            # Until one of them is seen: it says nothing of when it is there.
            user.succeeds(
                "exec",
                "v",
                "sh",
                "-c",
                "(while echo on; do sleep 0.1; done) > /tmp/in-fifo 2> /dev/null &",
            )
            assert attached.stdout.readline() == "on\n"
            assert attached.stderr.readline() == "on\n"
            attached.send_signal(signal.SIGTERM)
            output, _ = attached.communicate()
            assert output.endswith("caught\n")
            assert attached.returncode == 7


def test_the_view_goes_on_without_it(user: TestUser) -> None:
    with removed(user, "v"):
        user.succeeds("run", "-d", "--name", "v", "--", "sleep", "1000")
        with user.start("attach", "v") as attached:
            attached.kill()
        user.succeeds("exec", "v", "true")
        user.succeeds("stop", "v")
        line = user.refused("attach", "v")
        assert line.startswith("v: the view is not running: 'overlaykit start -a v' starts it")
    assert user.refused("attach", "v").startswith("v: there is no view of that name")


@with_both_drivers
def test_clients_have_the_status_of_a_view_that_is_removed_at_its_end(user: TestUser) -> None:
    user.succeeds("run", "-di", "--rm", "--name", "v", "--", "sh", "-c", "read _; exit 5")
    status = os.path.join(user.named_views, "v", "status")
    with (
        user.start("attach", "v", stdin=subprocess.PIPE) as attached,
        user.start("wait", "v") as waiting,
    ):
        while not all(status in open_files(client.pid) for client in (attached, waiting)):
            os.sched_yield()
        attached.communicate("\n")
        assert attached.returncode == 5
        assert waiting.communicate()[0] == "5\n"
    assert user.refused("attach", "v").startswith("v: there is no view of that name")


def test_a_view_in_the_foreground_has_nothing_to_attach_to(user: TestUser) -> None:
    run = ("run", "--name", "v", "--", "sh", "-c", "echo ready; cat")
    with removed(user, "v"), user.start(*run, stdin=subprocess.PIPE) as view:
        assert view.stdout is not None
        assert view.stdout.readline() == "ready\n"
        assert user.refused("attach", "v").startswith("v: the view is in the foreground")
        view.communicate()


@with_both_drivers
def test_an_open_input_stays_open_until_a_client_ends_it(user: TestUser) -> None:
    """Also with names that look like options, two clients, a killed one, and one without descriptors 0, 1 and 2."""
    with removed(user, "v"):
        user.succeeds("run", "-d", "-i", "--name", "v", "--", "sh", "-c", "cat; echo end; exit 3")
        with user.start("attach", "v", stdin=subprocess.PIPE) as first:
            assert first.stdin is not None
            assert first.stdout is not None
            first.stdin.write("from a killed one\nhalf ")
            first.stdin.flush()
            seen = b""
            while not seen.endswith(b"one\nhalf "):  # before the line ends
                seen += os.read(first.stdout.fileno(), 100)
            first.kill()
        bare = f"exec {command()} attach v <&- >&- 2>&-"
        with (
            user.start("attach", "--no-stdin", "v", stdin=subprocess.DEVNULL) as reader,
            subprocess.Popen(["sh", "-c", bare]) as closed,
        ):
            wait_until_attached(reader.pid, closed.pid)
            done = user.overlaykit("attach", "v", stdin=None, input="line\n")
            assert (done.stdout, done.returncode) == ("line\nend\n", 3)
            assert reader.wait() == closed.wait() == 3
        assert user.succeeds("logs", "v") == "from a killed one\nhalf line\nend\n"


def test_a_client_that_does_not_read_holds_nothing_up(user: TestUser) -> None:
    script = "read go; seq 100000; echo done >/tmp/in-done; read end"
    with removed(user, "v"):
        user.succeeds("run", "-dit", "--name", "v", "--", "sh", "-c", script)
        with user.start("attach", "v", stdin=subprocess.PIPE) as idle:
            assert idle.stdin is not None
            idle.stdin.write("go\n")
            idle.stdin.flush()
            user.succeeds(
                "exec", "v", "sh", "-c", "until test -s /tmp/in-done; do sleep 0.05; done"
            )
            idle.stdin.write("end\n")
            output, _ = idle.communicate()
        assert output.count("\n") == 100000 + 2
        assert "100000\n" in user.succeeds("logs", "v")


def test_the_keys_are_found_where_the_view_takes_nothing(user: TestUser) -> None:
    with removed(user, "v"):
        script = "stty -echo; echo ready; sleep 1000"
        user.succeeds("run", "-dit", "--name", "v", "--", "sh", "-c", script)
        while "ready" not in user.succeeds("logs", "v"):
            pass
        with Terminal(command(), "attach", "v") as terminal:
            wait_until_attached(terminal.process.pid)
            while not terminal.is_raw():
                os.sched_yield()
            terminal.type("a line\n" * 40000)
            terminal.type("\x10\x11")
            assert terminal.finish() == 0


@with_both_drivers
def test_a_detached_terminal_is_left_by_its_keys_and_taken_again(user: TestUser) -> None:
    with removed(user, "v"):
        user.succeeds("run", "-dit", "--name", "v", "-e", f"PS1={PROMPT}", "--", *SHELL)
        (about,) = json.loads(user.succeeds("inspect", "v"))
        assert about["about"]["terminal"]
        with Terminal(command(), "attach", "v", rows=31, columns=97) as terminal:
            wait_until_attached(terminal.process.pid)
            terminal.type("\n")
            terminal.read_until(PROMPT)
            assert terminal.is_raw()
            terminal.type("echo a$((1+1))b; stty size\n")
            terminal.read_until("a2b")
            terminal.read_until("31 97")
            terminal.resize(40, 120)
            terminal.type("\x10\x15stty size\n")  # ctrl-p alone is the view's
            with Terminal(command(), "attach", "--no-stdin", "v", rows=40, columns=120) as other:
                wait_until_attached(other.process.pid)
                terminal.read_until("40 120")
                terminal.read_until(PROMPT)
                terminal.type("echo b$((1+1))c\n")
                other.read_until("b2c")
                assert other.mode() == other.before
                other.process.terminate()
                assert other.finish() == -signal.SIGTERM
            terminal.read_until("b2c")
            terminal.type("\x10\x11")
            assert terminal.finish() == 0
            assert terminal.mode() == terminal.before
        with Terminal(command(), "attach", "--detach-keys", "", "v") as terminal:
            wait_until_attached(terminal.process.pid)
            # The shell quotes what follows ctrl-q.
            terminal.type("\x10\x11\x15\x15sh -c 'echo read\"\"y; exec sleep 1000'\n")
            terminal.read_until("ready\r\n")
            terminal.type("\x03")
            terminal.read_until(PROMPT)
            terminal.type("exit 5\n")
            assert terminal.finish() == 5
            assert terminal.mode() == terminal.before
        assert "a2b" in user.succeeds("logs", "v")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_the_callers_terminal_is_restored_and_the_view_goes_on(
    user: TestUser, number: signal.Signals
) -> None:
    with removed(user, "v"):
        user.succeeds("run", "-dit", "--name", "v", "-e", f"PS1={PROMPT}", "--", *SHELL)
        with Terminal(command(), "attach", "v") as terminal:
            wait_until_attached(terminal.process.pid)
            terminal.type("\n")
            terminal.read_until(PROMPT)
            (guardian,) = children_of(terminal.process.pid)
            ended = os.pidfd_open(guardian)
            terminal.process.send_signal(number)
            assert terminal.finish() == -number
            select.select([ended], [], [])
            os.close(ended)
            assert terminal.mode() == terminal.before
        user.succeeds("exec", "v", "true")


def test_a_client_ends_with_a_view_whose_supervisor_is_killed(user: TestUser) -> None:
    with removed(user, "v"):
        user.succeeds("run", "-dit", "--name", "v", "-e", f"PS1={PROMPT}", "--", *SHELL)
        (about,) = json.loads(user.succeeds("inspect", "v"))
        with Terminal(command(), "attach", "v") as terminal:
            wait_until_attached(terminal.process.pid)
            os.kill(about["about"]["supervisor"], signal.SIGKILL)
            terminal.read_until("v: how it ended is not known")
            assert terminal.finish() == 125
            assert terminal.mode() == terminal.before
        user.wait_for_descendants()


def test_a_script_from_a_pipe_is_typed_into_the_terminal(user: TestUser) -> None:
    with removed(user, "v"):
        user.succeeds("run", "-dit", "--name", "v", "--", *SHELL)
        done = user.overlaykit("attach", "v", stdin=None, input="\x10\x11echo a$((1+1))b\nexit 4\n")
        assert done.returncode == 4
        assert "a2b" in done.stdout


def test_a_start_in_the_foreground_gives_the_terminal_its_input(user: TestUser) -> None:
    with removed(user, "v"):
        user.succeeds("create", "--name", "v", "-t", "-e", f"PS1={PROMPT}", "--", *SHELL)
        with Terminal(command(), "start", "-ai", "v") as terminal:
            terminal.read_until(PROMPT)
            terminal.type("exit 6\n")
            assert terminal.finish() == 6


@pytest.mark.parametrize("keys", ["ctrl-", "ctrl-p,", "ab", "ctrl-P", "1"])
def test_odd_keys_are_refused(user: TestUser, keys: str) -> None:
    assert "is no key" in user.refused("attach", f"--detach-keys={keys}", "v")


def wait_until_attached(*processes: int) -> None:
    """A client watches the log."""
    for process in processes:
        while "anon_inode:inotify" not in open_files(process):
            os.sched_yield()


def children_of(process: int) -> list[int]:
    with open(f"/proc/{process}/task/{process}/children") as file:
        return [int(one) for one in file.read().split()]
