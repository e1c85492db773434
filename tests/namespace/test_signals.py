"""Signals to the parent reach the command once, and the parent keeps its handlers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import termios
import threading

import pytest

from overlaykit import signals
from overlaykit.procfs import descendants

from .harness import LaunchHarness, line, read_to_end

SAYS_WHAT_IT_GETS = """
import signal, sys

expected = {signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGWINCH}
signal.pthread_sigmask(signal.SIG_BLOCK, expected)
print("ready", flush=True)
while True:
    number = signal.sigwait(expected)
    print(number.name, flush=True)
    if number == signal.SIGTERM:
        sys.exit(5)
"""


def sender(printed: int, target: int) -> int:
    """In a child: send each signal after the command has reported the one before."""
    child = os.fork()
    if child == 0:
        assert line(printed) == b"ready\n"
        for number in (
            signal.SIGHUP,
            signal.SIGINT,
            signal.SIGUSR1,
            signal.SIGWINCH,
            signal.SIGTERM,
        ):
            os.kill(target, number)
            assert line(printed) == number.name.encode() + b"\n"
        os._exit(0)
    return child


def test_signals_sent_to_a_waiting_launcher_reach_the_command(harness: LaunchHarness) -> None:
    with (
        signals.held(),  # the first one may come before the wait
        harness.piped() as printed,
        harness.launch("python3", "-c", SAYS_WHAT_IT_GETS) as running,
    ):
        child = sender(printed, os.getpid())
        assert running.wait() == 5
        assert os.waitpid(child, 0)[1] == 0


def test_a_held_signal_arrives_in_the_wait_for_the_command(harness: LaunchHarness) -> None:
    with (
        signals.held(),
        harness.piped() as printed,
        harness.launch("python3", "-c", SAYS_WHAT_IT_GETS) as running,
    ):
        assert line(printed) == b"ready\n"
        os.kill(os.getpid(), signal.SIGTERM)
        assert running.wait() == 5


def test_a_held_signal_that_comes_before_the_command_ends_the_launch(
    harness: LaunchHarness,
) -> None:
    # A slow lookup.
    lookup = "/no/such/directory:" * 50_000
    with signals.held():
        # Its default action is to do nothing.
        os.kill(os.getpid(), signal.SIGWINCH)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            harness.launch("sleep", "1000", env={"PATH": lookup + "/usr/bin"})
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) >= {signal.SIGINT, signal.SIGTERM}
    for process in descendants(os.getpid()):
        # Init, if it had started: it ends, and is reaped here.
        if process != harness.keeper:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process, 0)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


def test_a_signal_that_the_caller_has_blocked_stays_the_callers(harness: LaunchHarness) -> None:
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    os.kill(os.getpid(), signal.SIGTERM)
    assert harness.run("true") == 0
    assert signal.sigpending() == {signal.SIGTERM}
    assert signal.sigwait({signal.SIGTERM}) == signal.SIGTERM
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def test_a_signal_that_the_launcher_ignores_is_not_passed_on(harness: LaunchHarness) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with (
        signals.held(),  # both may come before the wait
        harness.piped() as printed,
        harness.launch("python3", "-c", SAYS_WHAT_IT_GETS) as running,
    ):
        child = os.fork()
        if child == 0:
            assert line(printed) == b"ready\n"
            os.kill(os.getppid(), signal.SIGHUP)
            os.kill(os.getppid(), signal.SIGTERM)
            assert line(printed) == b"SIGTERM\n"
            os._exit(0)
        assert running.wait() == 5
        assert os.waitpid(child, 0)[1] == 0


def test_a_terminal_that_hangs_up_ends_the_command(harness: LaunchHarness) -> None:
    leader, follower = os.openpty()
    ended, ending = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        os.close(leader)
        for descriptor in (0, 1, 2):
            os.dup2(follower, descriptor)
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        os.close(follower)
        with signals.held(), harness.launch("sh", "-c", "echo ready; exec sleep 1000") as running:
            os.write(ending, b"%d" % running.wait())
        os._exit(0)
    os.close(follower)
    os.close(ending)
    assert line(leader) == b"ready\r\n"
    os.close(leader)
    assert read_to_end(ended) == b"%d" % (128 + signal.SIGHUP)
    os.close(ended)
    assert os.waitpid(child, 0)[1] == 0


def test_a_signal_that_comes_between_launch_and_wait_is_the_callers(harness: LaunchHarness) -> None:
    with harness.launch("sleep", "1000") as running:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        running.signal(signal.SIGTERM)
        assert running.wait() == 128 + signal.SIGTERM


def test_a_signal_can_be_sent_without_waiting(harness: LaunchHarness) -> None:
    with harness.piped() as printed, harness.launch("python3", "-c", SAYS_WHAT_IT_GETS) as running:
        assert line(printed) == b"ready\n"
        running.signal(signal.SIGTERM)
        assert line(printed) == b"SIGTERM\n"
        assert running.wait() == 5
        running.signal(signal.SIGTERM)


def test_the_callers_handlers_and_mask_are_as_before(harness: LaunchHarness) -> None:
    seen: list[int] = []
    signal.signal(signal.SIGUSR2, lambda number, _frame: seen.append(number))
    before = [signal.getsignal(number) for number in signal.valid_signals()]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGURG})
    assert harness.run("true") == 0
    assert signal.pthread_sigmask(signal.SIG_SETMASK, mask) == mask | {signal.SIGURG}
    assert [signal.getsignal(number) for number in signal.valid_signals()] == before
    os.kill(os.getpid(), signal.SIGUSR2)
    assert seen == [signal.SIGUSR2]


def test_a_command_ignores_and_blocks_what_a_child_of_the_caller_would(
    harness: LaunchHarness,
) -> None:
    show = ("grep", "-E", "^Sig(Blk|Ign|Cgt):", "/proc/self/status")
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    plain = subprocess.run(show, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert masks(harness.output(*show)) == masks(plain)


def masks(status: str) -> dict[str, int]:
    """The masks of signals, without glibc's own 32 and 33: make(1) starts tests with these ignored."""
    lines = (line.split() for line in status.splitlines())
    return {name: int(mask, 16) & ~(0b11 << 31) for name, mask in lines}


def test_waiting_works_in_another_thread_too(harness: LaunchHarness) -> None:
    statuses: list[int] = []
    with harness.launch("sh", "-c", "exit 9") as running:
        thread = threading.Thread(target=lambda: statuses.append(running.wait()))
        thread.start()
        thread.join()
    assert statuses == [9]


def test_a_terminals_interrupt_reaches_the_command_once_and_not_the_launcher(
    harness: LaunchHarness,
) -> None:
    leader, follower = os.openpty()
    child = os.fork()
    if child == 0:
        os.setsid()
        for descriptor in (0, 1, 2):
            os.dup2(follower, descriptor)
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        try:
            with harness.launch("python3", "-c", SAYS_WHAT_IT_GETS) as running:
                os._exit(running.wait())
        finally:
            os._exit(99)
    os.close(follower)
    assert line(leader) == b"ready\r\n"
    os.write(leader, b"\x03")
    assert line(leader).endswith(b"SIGINT\r\n")
    os.kill(child, signal.SIGTERM)
    assert line(leader) == b"SIGTERM\r\n"
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
    os.close(leader)


def test_a_program_finds_the_name_of_its_terminal(harness: LaunchHarness) -> None:
    leader, follower = os.openpty()
    before = os.dup(0)
    os.dup2(follower, 0)
    assert harness.output("tty") == "/dev/console\n"
    os.dup2(before, 0)
    for descriptor in (leader, follower, before):
        os.close(descriptor)


def test_a_wait_can_be_aborted_by_a_descriptor(harness: LaunchHarness) -> None:
    reader, writer = os.pipe()
    with harness.launch("sleep", "1000") as running:
        os.close(writer)
        assert running.wait(abort_on=[reader]) == 137
        assert running.count() == 0
    os.close(reader)
