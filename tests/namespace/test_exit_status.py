"""A script that runs a command in a view must be able to trust its exit status."""

from __future__ import annotations

import errno
import os
import signal
import sys

import pytest

from overlaykit import namespace
from overlaykit.namespace import launcher, plan

from .harness import LaunchHarness


def test_the_commands_own_status_comes_out(harness: LaunchHarness) -> None:
    assert harness.run("true") == 0
    assert harness.run("false") == 1
    assert harness.run("sh", "-c", "exit 42") == 42


def test_a_command_ended_by_a_signal_gives_128_and_its_number(harness: LaunchHarness) -> None:
    assert harness.run("sh", "-c", "kill -KILL $$") == 128 + signal.SIGKILL
    assert harness.run("sh", "-c", "kill -SEGV $$") == 128 + signal.SIGSEGV


def test_a_command_that_exists_nowhere_is_127_and_named(harness: LaunchHarness) -> None:
    with pytest.raises(
        namespace.CommandNotFound, match=r"^no-such-thing: no such command"
    ) as caught:
        harness.launch("no-such-thing")
    assert caught.value.exit_code == 127
    with pytest.raises(namespace.CommandNotFound, match=r"^\nno-such-thing: no such command"):
        harness.run("\nno-such-thing")
    with pytest.raises(namespace.CommandNotFound, match=r"^/no/such/thing: no such command"):
        harness.launch("/no/such/thing")


def test_a_file_that_cannot_be_executed_is_126_and_named(harness: LaunchHarness) -> None:
    plain = os.path.join(harness.scratch, "plain")
    with open(plain, "w") as file:
        file.write("text\n")
    with pytest.raises(
        namespace.CommandNotExecutable, match=r"plain: .*Permission denied"
    ) as caught:
        harness.launch(plain)
    assert caught.value.exit_code == 126
    os.chmod(plain, 0o755)
    with pytest.raises(namespace.CommandNotExecutable, match=r"Exec format error"):
        harness.launch(plain)
    with open(plain, "w") as file:
        file.write("#!/no/such/interpreter\n")
    with pytest.raises(namespace.CommandNotExecutable, match=r"its interpreter is missing"):
        harness.launch(plain)


def test_commands_are_looked_up_along_the_path_of_their_own_environment(
    harness: LaunchHarness,
) -> None:
    program = os.path.join(harness.scratch, "only-here")
    with open(program, "w") as file:
        file.write("#!/bin/sh\necho found\n")
    os.chmod(program, 0o755)
    path = f"/no/such:{harness.scratch}:/usr/bin"
    assert harness.output("only-here", env={"PATH": path}) == "found\n"
    assert harness.run("true", env={}) == 0


def test_a_wanted_directory_that_is_missing_is_an_error_and_an_unwanted_one_is_not(
    harness: LaunchHarness,
) -> None:
    assert harness.output("pwd", cwd=harness.scratch, cwd_required=True) == f"{harness.scratch}\n"
    assert harness.output("pwd", cwd="/no/such/directory") == "/\n"
    with pytest.raises(namespace.WorkingDirectoryMissing, match=r"^-w /no/such/directory: "):
        harness.launch("pwd", cwd="/no/such/directory", cwd_required=True)


def test_a_command_starts_with_the_signals_and_descriptors_of_a_fresh_program(
    harness: LaunchHarness,
) -> None:
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup(1) has it
    os.set_inheritable(os.open("/", os.O_RDONLY), True)
    umask = os.umask(0o027)
    try:
        status = harness.output("cat", "/proc/self/status")
        assert "SigBlk:\t0000000000000000" in status
        # 32, 33: glibc's own, which its posix_spawn(3) leaves ignored
        assert ignored(status) - {32, 33} == {signal.SIGHUP}
        assert "Umask:\t0027" in status
        assert harness.output("sh", "-c", "echo /proc/self/fd/*").split() == [
            f"/proc/self/fd/{n}"
            for n in (0, 1, 2, 3)  # 3: the directory that sh itself is reading
        ]
    finally:
        os.umask(umask)


def ignored(status: str) -> set[int]:
    """The numbers of the signals that a process ignores, from /proc/PID/status."""
    mask = next(int(line.split()[1], 16) for line in status.splitlines() if "SigIgn" in line)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def test_output_is_not_written_twice_by_what_is_forked(harness: LaunchHarness) -> None:
    with harness.piped() as reader:
        with os.fdopen(os.dup(1), "w") as buffered:
            buffered.write("once\n")
            assert harness.run("true") == 0
        harness.stop_writing()
        assert os.read(reader, 100) == b"once\n"


def test_the_interpreter_of_this_very_test_runs_in_a_view(harness: LaunchHarness) -> None:
    assert harness.output(sys.executable, "-c", "print(6 * 7)") == "42\n"


@pytest.mark.parametrize("length", [1 << 20, plan.LARGEST])
def test_arguments_that_are_too_long_are_refused_by_name(
    harness: LaunchHarness, length: int
) -> None:
    """The kernel refuses the shorter one (execve(2)), the plan has no room for the longer one."""
    with pytest.raises(namespace.CommandNotExecutable, match=os.strerror(errno.E2BIG)):
        harness.launch("/bin/true", "a" * length)


def test_a_program_of_another_version_is_refused_whole(
    harness: LaunchHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "VERSION", 1000)
    with pytest.raises(launcher.SupervisorOutdated, match="install overlaykit again"):
        harness.launch("true")
