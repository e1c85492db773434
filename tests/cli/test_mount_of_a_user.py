"""`overlaykit mount` by an ordinary user outside of any user namespace: what modes and owners of a lower's files do."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from overlaykit.fuse import unmount
from overlaykit.procfs import children
from overlaykit.views import Registry

from ..patience import patience
from ..processes import thread_statuses
from ..views.fixtures import only_as
from ..views.serving import kept_mount
from ..views.user import AS_ORDINARY, ORDINARY, TestUser, command, reachable_by_others


@only_as("ordinary user")
@pytest.mark.parametrize("mode", [0o000, 0o444])
def test_a_mode_does_not_keep_a_user_from_its_own_files_of_a_lower(
    user: TestUser, mode: int
) -> None:
    lower = user.directory("lower", file="of a file")
    below = user.directory("lower", "d", below="of one below")
    for path in (os.path.join(lower, "file"), below):
        os.chmod(path, mode)
    upper, work, target = (user.directory(name) for name in ("upper", "work", "merged"))
    user.succeeds("mount", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", target)
    try:
        for name in ("file", "d"):
            os.chmod(os.path.join(target, name), 0o700)
        user.write(os.path.join(target, "d", "new"), "new")
        for name, contents in {"file": "of a file", "d/below": "of one below"}.items():
            with open(os.path.join(target, name)) as file:
                assert file.read() == contents
    finally:
        user.succeeds("umount", target)
        user.succeeds("run", "--", "true")  # removes the record
    os.chmod(below, 0o700)  # so that the fixture can remove it


@only_as("ordinary user")
@pytest.mark.parametrize("restart", ["on", "off"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_daemon_of_a_mount_by_fusermount3_is_confined_and_unmounts_when_told_to(
    user: TestUser, number: int, restart: str
) -> None:
    lower = user.directory("lower", file="x" * (3 << 20))
    upper, work, target = (user.directory(name) for name in ("upper", "work", "merged"))
    user.expects_log = True
    options = f"lowerdir={lower},upperdir={upper},workdir={work},restart={restart}"
    user.succeeds("mount", "-o", options, target)
    about = kept_mount(target) if restart == "on" else Registry().find(target).about
    first, daemon = about.daemons[0], about.daemon
    # The copy-up and the sync run in threads.
    with open(os.path.join(target, "file"), "r+b") as file:
        file.write(b"new")
        file.flush()
        os.fsync(file.fileno())
    for status in thread_statuses(daemon):
        assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
    processes = list(map(os.pidfd_open, {first, daemon, *children(first)}))
    assert len(processes) == (3 if restart == "on" else 2)
    # A keeper takes its daemon along.
    os.kill(daemon if number == signal.SIGTERM else first, number)
    for process in processes:
        assert unmount.readable_within(process, patience(30))
        os.close(process)
    assert os.path.ismount(target) == (number == signal.SIGKILL)
    if number == signal.SIGKILL:
        user.succeeds("umount", target)
        user.succeeds("run", "--", "true")  # removes the record


@only_as("root")
@pytest.mark.parametrize("squash", ["", f",squash_to_uid={ORDINARY},squash_to_gid={ORDINARY}"])
def test_a_user_changes_files_of_others_if_they_are_shown_as_its_own(
    user: TestUser, squash: str
) -> None:
    os.chmod(user.scratch, 0o755)
    paths = [user.directory(name) for name in ("lower", "upper", "work", "merged")]
    lower, upper, work, target = paths
    for path in paths:
        os.chown(path, ORDINARY, ORDINARY)
    for name, size in {"file": 1, "large": 2 << 20}.items():
        os.chmod(user.write(os.path.join(lower, name), "x" * size), 0o666)
    environment = {**os.environ, "HOME": "/nonexistent"}
    options = f"lowerdir={lower},upperdir={upper},workdir={work}{squash}"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*AS_ORDINARY, *arguments], env=environment, check=False, capture_output=True, text=True
        )

    with reachable_by_others():
        assert run(command(), "mount", "-o", options, target).returncode == 0
        try:
            for name in ("file", "large"):
                # The shell does not report an error of close(2).
                appended = run("sh", "-c", f"echo more >> {target}/{name}")
                assert appended.returncode == (0 if squash else 2)
                assert ("Operation not permitted" in appended.stderr) == (not squash)
        finally:
            assert run(command(), "umount", target).returncode == 0
    assert sorted(os.listdir(upper)) == (["file", "large"] if squash else [])


@only_as("root")
def test_a_file_that_another_user_made_set_id_does_not_become_set_id_as_ones_own(
    user: TestUser,
) -> None:
    """Others may run any file in the upper."""
    os.chmod(user.scratch, 0o755)
    paths = [user.directory(name) for name in ("lower", "upper", "work", "merged")]
    lower, upper, work, target = paths
    for path in paths:
        os.chown(path, ORDINARY, ORDINARY)
    for name, owner in {"others": ORDINARY + 1, "own": ORDINARY}.items():
        path = user.write(os.path.join(lower, name), "x")
        os.chown(path, owner, owner)
        os.chmod(path, 0o6755)
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    options += f",squash_to_uid={ORDINARY},squash_to_gid={ORDINARY}"
    environment = {**os.environ, "HOME": "/nonexistent"}

    def succeeds(*arguments: str) -> None:
        subprocess.run([*AS_ORDINARY, *arguments], env=environment, check=True)

    with reachable_by_others():
        succeeds(command(), "mount", "-o", options, target)
        try:
            for name in ("others", "own"):
                succeeds("mv", os.path.join(target, name), os.path.join(target, f"{name} moved"))
        finally:
            succeeds(command(), "umount", target)
    for name, mode in {"others moved": 0o755, "own moved": 0o6755}.items():
        st = os.stat(os.path.join(upper, name))
        assert (st.st_mode & 0o7777, st.st_uid) == (mode, ORDINARY)
