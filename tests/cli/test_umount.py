"""`overlaykit umount`: unmounting, its errors and its waits."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from typing import IO

import pytest

from overlaykit import _native
from overlaykit.procfs import descendants

from ..views.fixtures import only_as
from ..views.serving import kept_mount
from ..views.user import TestUser, command


def test_umount_leaves_foreign_mounts_alone(user: TestUser) -> None:
    directory = user.directory("directory")
    for path in directory, "/proc", user.path("missing"):
        assert user.refused("umount", path) == (
            f"{path}: no overlaykit mount is there: 'overlaykit ps' lists those that are"
        )
    assert os.path.isdir("/proc/self")


def test_a_mount_in_use_is_left_mounted_and_its_users_are_named(user: TestUser) -> None:
    lower = user.directory("lower", file="contents\n")
    target = user.directory("target")
    user.succeeds("mount", "-o", f"lowerdir={lower}", target)
    with open(os.path.join(target, "file")) as file:
        with open("/proc/self/comm") as comm:
            us = f"{os.getpid()} ({comm.read().strip()})"
        assert user.refused("umount", target) == (
            f"{target}: in use by {us}: end these, or let the mount end with them:"
            f" 'overlaykit umount --lazy {target}'"
        )
        assert file.read() == "contents\n"
        assert os.listdir(target) == ["file"]
    user.succeeds("umount", target)


@contextlib.contextmanager
def opened(directory: str) -> Iterator[None]:
    """Open it in this process."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        yield
    finally:
        os.close(fd)


@only_as("root")
def test_processes_that_only_see_a_mount_are_not_named_as_its_users(user: TestUser) -> None:
    options, target = prepare_mount(user)
    user.succeeds("mount", "-o", options, target)
    with shell_in_another_namespace("echo ready; read end", target), opened(target):
        assert f"in use by {os.getpid()} (" in (error := user.refused("umount", target))
        assert "(sh)" not in error
        assert error.count("(") == 1
    user.succeeds("umount", target)


def test_umount_from_inside_the_mount_names_itself(user: TestUser) -> None:
    options, target = prepare_mount(user)
    user.succeeds("mount", "-o", options, target)
    assert user.refused("umount", target, cwd=target).startswith(
        f"{target}: in use by this command itself, whose working directory or open files lie there:"
    )
    user.succeeds("umount", target)


def test_concurrent_umounts_succeed_or_find_no_mount(user: TestUser) -> None:
    options, target = prepare_mount(user)
    for how in ([], ["--force"]):
        user.succeeds("mount", "-o", options, target)
        several = [user.start("umount", *how, target, stderr=subprocess.PIPE) for _ in range(2)]
        for process in several:
            _, errors = process.communicate()
            done = process.returncode == 0 and not errors
            assert done or f"{target}: no overlaykit mount is there" in errors, (how, errors)
        assert not os.path.ismount(target)


def test_umount_and_explain_find_the_same_mount_if_a_path_is_also_a_name(
    user: TestUser,
) -> None:
    one, other = user.directory("one", file=""), user.directory("other", file="")
    target, elsewhere_ = user.directory("m"), user.directory("elsewhere")
    user.succeeds("mount", "-o", f"lowerdir={one}", target)
    user.succeeds("mount", "-o", f"lowerdir={other}", "--name", "m", elsewhere_)
    for lower in one, other:
        assert f"{lower}/file" in user.succeeds("explain", "m", "/file", cwd=user.scratch)
        user.succeeds("umount", "m", cwd=user.scratch)


def test_the_target_may_be_relative_or_a_symbolic_link(user: TestUser) -> None:
    lower = user.directory("lower")
    target = user.directory("target")
    os.symlink(target, user.path("link"))
    user.succeeds("mount", "-o", f"lowerdir={lower}", target)
    user.succeeds("umount", "link", cwd=user.scratch)
    user.succeeds("mount", "-o", "lowerdir=lower", "link", cwd=user.scratch)
    user.succeeds("umount", target)


def test_the_upper_is_complete_when_umount_returns(user: TestUser) -> None:
    lower, upper, work, target = map(user.directory, ("lower", "upper", "work", "target"))
    for number in range(5):
        user.succeeds("mount", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", target)
        user.write(os.path.join(target, str(number)), bytes([number]) * 300_000)
        user.succeeds("umount", target)
        with open(os.path.join(upper, str(number)), "rb") as file:
            assert file.read() == bytes([number]) * 300_000


def prepare_mount(user: TestUser) -> tuple[str, str]:
    """The options of a writable mount, and a directory to mount on."""
    lower, upper, work, target = map(user.directory, ("lower", "upper", "work", "target"))
    return f"lowerdir={lower},upperdir={upper},workdir={work}", target


@contextlib.contextmanager
def shell_in_another_namespace(*script: str) -> Iterator[subprocess.Popen[str]]:
    """A shell in a copy of this mount namespace, which prints a line when it is ready."""
    unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-euc"]
    with subprocess.Popen(
        [*unshare, *script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as shell:
        try:
            assert read_line(shell.stdout) == "ready"
            yield shell
        finally:
            shell.communicate("end\n")


def read_line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline().rstrip("\n")


def send_line(shell: subprocess.Popen[str], question: str) -> str:
    """Send one line to the shell. Returns: the line it prints."""
    assert shell.stdin is not None
    shell.stdin.write(question + "\n")
    shell.stdin.flush()
    return read_line(shell.stdout)


def names(user: TestUser) -> list[str]:
    """Of the mounts that run."""
    return [one["name"] for one in json.loads(user.succeeds("ps", "--json"))]


@only_as("root")
def test_a_mount_at_the_same_path_in_another_namespace_is_another_mount(user: TestUser) -> None:
    options, target = prepare_mount(user)
    other = user.directory("other", file="of the other\n")
    script = '"$@"; echo ready; read go; cat "$0/file"; read end'
    mount = (command(), "mount", "--name", "other", "-o", f"lowerdir={other}", target)
    with shell_in_another_namespace(script, target, *mount) as shell:
        user.refused("umount", target)
        user.refused("explain", target, "/file")
        user.succeeds("mount", "--name", "ours", "-o", options, target)
        user.write(os.path.join(target, "mine"), "mine\n")
        assert "/mine" in user.succeeds("explain", target, "/mine")
        table = user.succeeds("ps").splitlines()
        assert table[1].rstrip().endswith(f"{target} (not mounted here)")
        assert table[2].rstrip().endswith(target)
        user.succeeds("umount", target)
        assert names(user) == ["other"]
        assert send_line(shell, "go") == "of the other"
    user.wait_for_descendants()


@only_as("root")
def test_an_upper_has_one_writer_and_the_error_names_the_fix(user: TestUser) -> None:
    options, target = prepare_mount(user)
    second, upper = user.directory("second"), user.path("upper")
    user.succeeds("mount", "--name", "first", "-o", options, target)
    script = """exec 3>"$0/file"; echo ready
        while read word; do echo "$word" >&3; cat "$0/file" >/dev/null 2>&1; echo "$?"; done"""
    with shell_in_another_namespace(script, target) as shell:
        user.program(["umount", target])
        held = f"{shell.pid} (sh)"
        assert send_line(shell, "one") == "0"
        assert user.refused("mount", "-o", options, second) == (
            f"upper {upper} is in use by mount first, which is not mounted here any more but held by {held}:"
            " end these, or the mount with 'overlaykit umount --force first', or choose another upper"
        )
        assert user.refused("umount", target) == (
            f"{target}: not mounted in this mount namespace any more, but held by {held}:"
            " end these, or the mount with 'overlaykit umount --force first'"
        )
        assert send_line(shell, "two") == "0"
        user.succeeds("umount", "--force", "first")
        user.succeeds("mount", "-o", options, second)
        with open(os.path.join(second, "file")) as file:
            assert file.read() == "one\ntwo\n"
        assert send_line(shell, "three") != "0"
        user.succeeds("umount", second)
    with open(os.path.join(upper, "file")) as file:
        assert file.read() == "one\ntwo\n"


@only_as("root")
def test_umount_waits_no_longer_than_its_timeout_and_can_be_interrupted(user: TestUser) -> None:
    options, target = prepare_mount(user)
    script = 'cd "$0"; echo ready; read end'
    user.succeeds("mount", "--name", "first", "-o", options, target)
    with shell_in_another_namespace(script, target) as shell:
        done = user.overlaykit("umount", "--timeout", "0", target)
        assert done.returncode == 125
        assert done.stderr.endswith(
            f"{target}: unmounted here, but its upper and layers stay in use until its last users end: held by"
            f" {shell.pid} (sh); end these, or the mount with 'overlaykit umount --force first'\n"
        )
    user.wait_for_descendants()
    user.succeeds("mount", "-o", options, target)
    with shell_in_another_namespace(script, target):
        umount = user.start("umount", "--timeout", "1000", target, stderr=subprocess.PIPE)
        assert "another mount namespace" in read_line(umount.stderr)
        umount.terminate()
        umount.communicate()
        assert umount.returncode == -signal.SIGTERM
    user.wait_for_descendants()


def test_a_mount_in_use_can_be_unmounted_lazily_or_by_force(user: TestUser) -> None:
    options, target = prepare_mount(user)
    for how in "--lazy", "--force":
        user.succeeds("mount", "-o", options, target)
        ended = os.pidfd_open(kept_mount(target).daemon)
        with contextlib.suppress(OSError), open(os.path.join(target, how), "w") as file:
            file.write("written\n")
            file.flush()
            user.succeeds("umount", how, target)
            assert os.listdir(target) == []
            lives = not select.select([ended], [], [], 0)[0]
            assert lives == (how == "--lazy")
            file.write("more\n")
        select.select([ended], [], [])
        os.close(ended)
        with open(user.path("upper", how)) as file:
            assert file.read() == "written\nmore\n"[: None if how == "--lazy" else 8]


def test_a_daemon_that_does_not_answer_is_ended_by_force(user: TestUser) -> None:
    options, target = prepare_mount(user)
    messages: list[str] = []
    # The number of the unmounted device may be that of another test's mount at once, whose users are named then.
    while len(messages) < 5 and (not messages or "held by its daemon alone" not in messages[-1]):
        user.succeeds("mount", "--name", "stuck", "-o", options, target)
        daemon = kept_mount(target).daemon
        os.kill(daemon, signal.SIGSTOP)
        refused = user.overlaykit("umount", "--timeout", "0", target)
        assert refused.returncode == 125
        messages.append(refused.stderr)
        user.succeeds("umount", "--force", "stuck")
    assert f"held by its daemon alone (process {daemon})" in messages[-1]
    user.succeeds("mount", "-o", options, target)
    user.succeeds("umount", target)


@only_as("root")
def test_mounts_inside_a_mount_are_named(user: TestUser) -> None:
    options, target = prepare_mount(user)
    user.succeeds("mount", "-o", options, target)
    inner = os.path.join(target, "inner")
    os.mkdir(inner)
    user.succeeds("mount", "-o", f"lowerdir={user.path('lower')}", inner)
    assert user.refused("umount", target) == (
        f"{target}: other mounts lie in it: unmount these first: {inner}"
    )
    user.succeeds("umount", inner)
    user.succeeds("umount", target)


@only_as("root")
@pytest.mark.parametrize("mounter", [(), ("setpriv", "--reuid=1000", "--clear-groups")])
def test_a_daemon_ends_with_the_mount_namespace_of_its_mount(
    user: TestUser, mounter: tuple[str, ...]
) -> None:
    options, target = prepare_mount(user)
    for name in ("upper", "work", "target"):
        os.chown(user.path(name), 1000, 1000)
    os.chmod(user.scratch, 0o755)
    runtime = user.directory("runtime")
    os.chown(runtime, 1000, 1000)
    script = 'HOME="$0" XDG_RUNTIME_DIR="$0" "$@"; echo ready; read end'
    mount = (*mounter, command(), "mount", "-o", options, target)
    with shell_in_another_namespace(script, runtime, *mount):
        pass
    user.wait_for_descendants()
    user.succeeds("mount", "-o", options, target)
    user.succeeds("umount", target)


def test_an_invalid_timeout_is_refused(user: TestUser) -> None:
    for seconds in "-1", "soon", "nan":
        done = user.overlaykit("umount", f"--timeout={seconds}", user.path("missing"))
        assert done.returncode == 125, done


@only_as("root")
def test_the_disk_of_the_layers_can_be_unmounted_as_soon_as_umount_returns(
    user: TestUser,
) -> None:
    disk, target = user.directory("disk"), user.directory("target")
    options = f"lowerdir={disk}/l,upperdir={disk}/u,workdir={disk}/w"
    subprocess.run(["mount", "-t", "tmpfs", "disk", disk], check=True)
    for name in "luw":
        os.mkdir(os.path.join(disk, name))
    for _ in range(3):
        user.succeeds("mount", "-o", options, target)
        assert user.program(["sh", "-c", f"umount {disk} 2>&1 || echo $?"]).endswith("32\n")
        user.write(os.path.join(target, "file"), "written\n")
        user.succeeds("umount", target)
        _native.umount2(disk, 0)
        subprocess.run(["mount", "-t", "tmpfs", "disk", disk], check=True)
        for name in "luw":
            os.mkdir(os.path.join(disk, name))
    subprocess.run(["umount", disk], check=True)


@only_as("root")
def test_a_mount_is_interrupted_though_its_path_is_mounted_in_another_namespace(
    user: TestUser,
) -> None:
    options, target = prepare_mount(user)
    other = user.directory("other")
    mount = (command(), "mount", "--name", "other", "-o", f"lowerdir={other}", target)
    with shell_in_another_namespace('"$@"; echo ready; read end', "sh", *mount):
        for milliseconds in range(0, 600, 100):
            with user.start("mount", "-o", options, target) as ours:
                ended = os.pidfd_open(ours.pid)
                # The daemon: before it, Python starts. It may also be done already.
                while not (descendants(ours.pid) or select.select([ended], [], [], 0.01)[0]):
                    pass
                select.select([ended], [], [], milliseconds / 1000)
                ours.terminate()
                ours.communicate()
                os.close(ended)
            if ours.returncode == 0:
                user.succeeds("umount", target)
            assert names(user) == ["other"]
    user.wait_for_descendants()


def test_a_mount_that_waits_for_a_disk_can_be_interrupted(user: TestUser) -> None:
    lower, slow, target = map(user.directory, ("lower", "slow", "target"))
    user.succeeds("mount", "--name", "slow", "-o", f"lowerdir={lower}", slow)
    daemon = kept_mount(slow).daemon
    os.kill(daemon, signal.SIGSTOP)
    options = f"lowerdir={os.path.join(slow, 'missing')}"
    with user.start("mount", "-o", options, target, stderr=subprocess.PIPE) as mount:
        ended = os.pidfd_open(mount.pid)
        while not any(map(is_waiting_for_fuse, [mount.pid, *descendants(mount.pid)])):
            assert not select.select([ended], [], [], 0.01)[0]
        os.close(ended)
        mount.terminate()
        assert mount.communicate() == ("", "")
        assert mount.returncode == -signal.SIGTERM
    os.kill(daemon, signal.SIGCONT)
    user.succeeds("umount", slow)
    user.wait_for_descendants()


def is_waiting_for_fuse(process: int) -> bool:
    with contextlib.suppress(OSError), open(f"/proc/{process}/stack") as stack:
        return "request_wait_answer" in stack.read()
    with contextlib.suppress(OSError), open(f"/proc/{process}/wchan") as channel:
        return "request_wait_answer" in channel.read()
    return False
