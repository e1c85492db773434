"""The host's side of a machine's command: streams, signals, terminal and end. The test is the guest."""

from __future__ import annotations

import os
import signal

import pytest

from overlaykit.errors import Error
from overlaykit.machine.session import End, Failed, Protocol
from overlaykit.namespace import Terminal
from overlaykit.views import guest

from .host import host


def test_both_outputs_arrive_whole_before_the_guest_is_let_go() -> None:
    with host() as one:
        one.says("ready")
        one.says("exited 3 6 5")
        one.stderr.sendall(b"wrong")
        one.stdout.sendall(b"output")
        assert one.line() == "quit"
        assert (one.shown.read(100), one.errors.read(100)) == (b"output", b"wrong")
        one.end()
        assert one.result() == (0, End(status=3))


def test_input_waits_for_the_command_and_its_end_is_told() -> None:
    with host() as one:
        one.given.write(b"input")
        one.says("ready")
        assert one.stdin.recv(100) == b"input"
        one.given.write(b"more")
        one.given.close()
        assert one.line() == "end 9"
        assert one.stdin.recv(100) == b"more"


def test_a_standard_input_that_cannot_be_read_is_an_empty_one() -> None:
    with host(has_input=False) as one:
        one.says("ready")
        assert one.line() == "end 0"


def test_input_that_the_guest_does_not_take_does_not_hold_the_end() -> None:
    with host() as one:
        one.stdin.close()
        one.given.write(b"input")
        one.says("ready")
        assert one.line() == "end 5"
        one.says("full")
        one.says("killed 9 0 0")
        assert one.line() == "quit"
        one.end()
        assert one.result() == (0, End(status=137, disk_full=True))


def test_signals_reach_the_command_and_those_of_a_terminal_its_group() -> None:
    with host() as one:
        one.says("ready")
        one.given.close()
        assert one.line() == "end 0"  # it has read "ready"
        one.signal(signal.SIGTERM)
        assert one.line() == "signal 15"
        one.signal(signal.SIGCONT)
        one.signal(signal.SIGINT)
        assert one.line() == "group 2"


def test_a_signal_before_the_command_runs_ends_the_machine() -> None:
    with host() as one:
        one.signal(signal.SIGTERM)
        assert one.result() == (signal.SIGTERM, None)


def test_the_command_learns_the_size_of_the_terminal() -> None:
    with host(Terminal(interactive=True), (24, 80)) as one:
        assert one.line() == "size 24 80"
        one.signal(signal.SIGWINCH)
        assert one.line() == "size 24 80"
        one.says("ready")
        assert one.line() == "size 24 80"


def test_a_terminal_without_input_leaves_that_of_the_caller_alone() -> None:
    with host(Terminal(interactive=False)) as one:
        one.given.write(b"not for the command")
        one.says("ready")
        assert one.line() == "end 0"


def test_output_that_is_not_read_any_more_does_not_hold_the_end() -> None:
    with host() as one:
        one.shown.close()
        one.errors.close()
        one.says("ready")
        one.stdout.sendall(b"output")
        one.stderr.sendall(b"wrong")
        one.says("exited 0 100 100")
        assert one.line() == "quit"


def test_what_a_guest_wrote_before_it_was_killed_is_not_lost() -> None:
    with host() as one:
        written = b"x" * 150000  # more than a pipe and a buffer
        one.stdout.sendall(written)
        one.end()
        shown = b""
        while len(shown) < len(written) and (read := one.shown.read(1 << 16)):
            shown += read
        assert shown == written
        assert one.result() == (0, None)


def test_a_guest_that_has_not_read_its_lines_has_ended_all_the_same() -> None:
    with host(Terminal(interactive=False), (24, 80)) as one:
        one.says("ready")
        one.control.recv(1)  # a line is there: the rest of it is lost with the guest
        one.end()
        assert one.result() == (0, None)


def test_the_end_of_the_mount_ends_the_relay() -> None:
    mount, end = os.pipe()
    os.close(end)
    with host(watched=(mount,)) as one:
        os.close(mount)
        assert one.result() == (0, None)


def test_a_line_that_is_none_is_an_error() -> None:
    with host() as one:
        one.says("what is this")
        with pytest.raises(Protocol, match="what is this"):
            one.result()


def test_a_step_that_fails_is_told_with_its_word() -> None:
    with host() as one:
        one.says("failed 2 mount /a path")
        one.end()
        assert one.result() == (0, Failed(errno=2, step="mount", word="/a path"))


@pytest.mark.parametrize(
    ("end", "messages", "line"),
    [
        (Failed(errno=2, step="mount", word="/disk"), "", "cannot start: mount /disk: No such"),
        (Failed(errno=2, step="DIRECTORY", word="/there"), "", "/there"),
        (Failed(errno=2, step="LOOKUP", word="tool"), "", "tool: no such command"),
        (Failed(errno=13, step="EXECUTE", word="/bin/tool"), "", "tool: cannot be executed"),
        (None, "[1] Kernel panic - not syncing: why\r\n", "its kernel panicked: why$"),
        (None, "overlaykit: virtiofsd ended\n", "virtiofsd ended, which serves its files"),
        (None, "first\nqemu: last\n\n", ": qemu: last$"),
        (None, "", "QEMU was ended"),
    ],
)
def test_a_machine_without_a_result_is_told_in_one_line(
    end: Failed | None, messages: str, line: str
) -> None:
    with pytest.raises(Error, match=line) as caught:
        guest.status(end, messages, "tool", "/there", print)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_told_beside_the_status() -> None:
    notes: list[str] = []
    assert guest.status(End(status=4, disk_full=True), "", "tool", "/", notes.append) == 4
    assert notes == ["the disk of the machine is full: give it a larger --disk"]
