"""Limits of the shell that mounts do not bind programs that use the mount."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import subprocess
from collections.abc import Iterator

import pytest

from overlaykit import privilege

from ..posix.refusals import refused
from ..views.fixtures import only_as, with_both_drivers
from ..views.user import TestUser, command

LARGE = b"x" * (1 << 20)

CAP_SYS_RESOURCE = 24


BOUND = (
    "overlaykit: no file can be written to beyond 32768 bytes, this shell's hard limit:"
    " raise it as root ('ulimit -Hf unlimited'), or use another shell\n"
)


def may_raise_limits(user: TestUser) -> bool:
    return user.is_root and CAP_SYS_RESOURCE in privilege.capabilities()


def stderr_with_limits(limits: str, *arguments: str) -> str:
    """The standard error of our command in a shell with these limits."""
    done = subprocess.run(
        ["sh", "-c", f'{limits} && exec "$@"', "sh", command(), *arguments],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stderr


@contextlib.contextmanager
def mount_with_limits(user: TestUser, limits: str) -> Iterator[str]:
    """A mount made by a shell with these limits. Yields: its mountpoint."""
    names = ("lower", "upper", "work", "target")
    lower, upper, work, target = map(user.directory, names)
    user.write(os.path.join(lower, "large"), LARGE)
    for number in range(400):
        user.write(os.path.join(lower, str(number)), b"%d" % number)
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    stderr_with_limits(limits, "mount", "-o", options, target)
    try:
        yield target
    finally:
        user.succeeds("umount", target)


def daemon(user: TestUser) -> int:
    (mount,) = json.loads(user.succeeds("ps", "--json"))
    pid = mount["daemon"]
    assert isinstance(pid, int)
    return pid


def test_soft_limits_of_the_shell_bind_no_program(user: TestUser) -> None:
    soft = "ulimit -S -n 64 && ulimit -S -f 64 && ulimit -S -s 512 && ulimit -S -c 0"
    with mount_with_limits(user, soft) as target:
        with open(f"/proc/{daemon(user)}/limits") as file:
            for line in file.readlines()[1:]:
                assert line[26:47].strip() == line[47:68].strip(), line
        user.write(os.path.join(target, "new"), LARGE)
        user.write(os.path.join(target, "large"), LARGE)  # copied up in a thread
        with contextlib.ExitStack() as files:
            for number in range(200):
                opened = files.enter_context(open(os.path.join(target, str(number)), "rb"))
                assert opened.read() == b"%d" % number


@only_as("root")
def test_a_hard_limit_binds_no_program_if_the_daemon_may_raise_it(user: TestUser) -> None:
    with mount_with_limits(user, "ulimit -f 64"):
        limit = resource.RLIM_INFINITY if may_raise_limits(user) else 64 * 512
        assert resource.prlimit(daemon(user), resource.RLIMIT_FSIZE) == (limit, limit)


def test_a_hard_limit_that_binds_every_program_is_reported_by_the_mount(user: TestUser) -> None:
    lower, upper, work, target = map(user.directory, ("lower", "upper", "work", "target"))
    bound = not may_raise_limits(user)
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    assert stderr_with_limits("ulimit -f 64", "mount", "-o", options, target) == (
        BOUND if bound else ""
    )
    try:
        full = os.path.join(target, "full")
        user.write(full, b"x" * 32768)
        with refused(errno.EFBIG, errno.EIO) if bound else contextlib.nullcontext():
            user.write(full, b"x" * 32769)
    finally:
        user.succeeds("umount", target)
    limits = "ulimit -f 64 && ulimit -n 1000"
    assert stderr_with_limits(limits, "mount", "-o", f"lowerdir={lower}", target) == ""
    user.succeeds("umount", target)
    said = stderr_with_limits("ulimit -t 1000", "mount", "-o", f"lowerdir={lower}", target)
    user.succeeds("umount", target)
    assert ("1000 seconds" in said and "-Ht" in said) == bound


def test_a_hard_limit_that_binds_every_program_is_reported_by_a_view(user: TestUser) -> None:
    said = BOUND if not may_raise_limits(user) else ""
    assert stderr_with_limits("ulimit -f 64", "run", "true") == said
    assert stderr_with_limits("ulimit -S -f 64", "run", "true") == ""
    assert stderr_with_limits("ulimit -f 64", "run", "--read-only", "true") == ""


def test_a_plan_may_be_larger_than_the_limit_on_files(user: TestUser) -> None:
    variable = ("-e", f"LONG={'x' * 100_000}")
    assert stderr_with_limits("ulimit -f 8", "run", "--read-only", *variable, "true") == ""


@only_as("root")
def test_a_low_priority_of_the_shell_delays_no_program(user: TestUser) -> None:
    with mount_with_limits(
        user, "renice -n 19 $$ >/dev/null && echo 900 >/proc/self/oom_score_adj"
    ):
        pid = daemon(user)
        assert os.getpriority(os.PRIO_PROCESS, pid) == 0
        with open(f"/proc/{pid}/oom_score_adj") as file:
            assert file.read() == "0\n"


def test_a_program_with_many_open_files_keeps_no_other_from_opening_any(user: TestUser) -> None:
    """If the hard limit cannot be raised, the daemon shares its descriptors among all files."""
    with mount_with_limits(user, "ulimit -n 128") as target, contextlib.ExitStack() as files:
        soft, hard = resource.prlimit(daemon(user), resource.RLIMIT_NOFILE)
        assert soft == hard
        readers = [
            files.enter_context(open(os.path.join(target, str(number)), "rb"))
            for number in range(300)
        ]
        writers = [
            files.enter_context(open(os.path.join(target, f"new{number}"), "w+b", buffering=0))
            for number in range(150)
        ]
        for number, writer in enumerate(writers):
            writer.write(b"first %d\n" % number)
        os.rename(os.path.join(target, "new7"), os.path.join(target, "renamed"))
        os.chmod(os.path.join(target, "new8"), 0)
        os.unlink(os.path.join(target, "new9"))
        os.mkdir(os.path.join(target, "directory"))
        os.rename(os.path.join(target, "new10"), os.path.join(target, "directory", "new10"))
        for number, writer in enumerate(writers):
            os.fsync(writer.fileno())
            writer.write(b"second %d\n" % number)
        for file in (*readers, *writers):
            # The next read is a request to the daemon.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        for number, reader in enumerate(readers):
            assert reader.read() == b"%d" % number
        for number, writer in enumerate(writers):
            writer.seek(0)
            assert writer.read() == b"first %d\nsecond %d\n" % (number, number)
        user.program(["cat", os.path.join(target, "399")])
        user.program(["find", target, "-name", "new*"])


def test_a_limit_too_low_for_a_mount_is_reported(user: TestUser) -> None:
    lower, target = user.directory("lower"), user.directory("target")
    script = 'ulimit -n 30 && exec "$@"'
    mount = ["sh", "-c", script, "sh", command(), "mount", "-o", f"lowerdir={lower}", target]
    done = subprocess.run(
        mount, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:  # as root with CAP_SYS_RESOURCE
        user.succeeds("umount", target)
        return
    assert done.stderr == (
        "overlaykit: the limit of 30 open files leaves too few for a mount:"
        " raise it with 'ulimit -n 1024'\n"
    )
    assert os.listdir(target) == []


@with_both_drivers
@pytest.mark.parametrize("limit", [9, 12, 16, 20, 24, 28])
def test_too_low_a_limit_of_open_files_names_the_way_out(user: TestUser, limit: int) -> None:
    before = user.leftovers()
    shell = ("sh", "-c", f'ulimit -n {limit} && exec "$@"', "sh", command())
    view = ("run", "-l", user.small_system(), "-v", "/usr:/usr:ro", "--", "true")
    done = subprocess.run([*shell, *view], capture_output=True, text=True, check=False)
    assert done.returncode == 125
    assert done.stderr.startswith("overlaykit: ")
    assert done.stderr.count("\n") == 1
    assert f"{limit} open files" in done.stderr
    assert "'ulimit -n 1024'" in done.stderr
    assert user.leftovers() == before
