"""What is written in a view without --upper is removed at its end, also if its entry is lost; never before."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from overlaykit import _native
from overlaykit.procfs import descendants

from .fixtures import in_all_variants, only_as, only_with
from .user import TestUser

WRITING = ("sh", "-c", "mkdir /written; seq 50 >/written/new; echo on; read line; cat /written/new")


@contextmanager
def writing_view(user: TestUser) -> Iterator[subprocess.Popen[str]]:
    """A view that has written, and waits for a line."""
    with user.start("run", "--", *WRITING) as view:
        assert view.stdout is not None
        assert view.stdout.readline() == "on\n"
        yield view


def kill_all(user: TestUser) -> None:
    """Kill every process but this one at once, as a power failure does."""
    family = descendants(os.getpid())
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for process in family:
            with suppress(ProcessLookupError):
                os.kill(process, number)
    user.wait_for_descendants()
    assert descendants(os.getpid()) == []


def wait_for_no_registry(user: TestUser) -> None:
    """Wait until the last daemon has removed it."""
    while os.path.exists(user.runtime):
        os.sched_yield()


@in_all_variants
def test_what_was_written_before_a_reboot_is_removed(user: TestUser) -> None:
    with writing_view(user) as view:
        kill_all(user)
        view.wait()
    shutil.rmtree(user.runtime)  # which lies in memory
    (lost,) = os.listdir(user.temporary_uppers)
    user.succeeds("run", "true")
    assert not os.path.exists(os.path.join(user.temporary_uppers, lost))


@in_all_variants
def test_a_view_of_another_registry_keeps_what_it_has_written(user: TestUser) -> None:
    with writing_view(user) as view:
        os.rename(user.runtime, user.runtime + ".other")
        user.succeeds("run", "true")
        user.succeeds("run", "true")
        user.end_server()
        wait_for_no_registry(user)
        os.rename(user.runtime + ".other", user.runtime)
        rest, _ = view.communicate("\n")
        assert rest.split() == [str(number) for number in range(1, 51)]
        assert view.returncode == 0


def test_a_view_of_the_same_name_in_another_registry_keeps_what_it_has_written(
    user: TestUser,
) -> None:
    """The entry of one that was killed names the same directory."""
    stale, current = user.runtime + ".stale", user.runtime + ".current"
    with user.start("run", "--rm", "--name", "same", "--", *WRITING) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "on\n"
        kill_all(user)
    os.rename(user.runtime, stale)
    with user.start("run", "--rm", "--name", "same", "--", *WRITING) as view:
        assert view.stdout is not None
        assert view.stdout.readline() == "on\n"
        os.rename(user.runtime, current)
        os.rename(stale, user.runtime)
        user.succeeds("run", "true")
        user.end_server()
        wait_for_no_registry(user)
        os.rename(current, user.runtime)
        rest, _ = view.communicate("\n")
        assert len(rest.split()) == 50


@pytest.mark.parametrize("kind", ["unmarked", "symlink", "named otherwise"])
def test_directories_of_others_in_the_place_of_scratch_stay(user: TestUser, kind: str) -> None:
    kept = user.directory("kept", file="kept")
    os.makedirs(user.temporary_uppers, 0o700)
    path = os.path.join(user.temporary_uppers, "scratch-view-012345")
    if kind == "symlink":
        os.setxattr(kept, "user.overlaykit.locked", b"y")
        os.symlink(kept, path)
    elif kind == "unmarked":
        shutil.copytree(kept, path)
    else:
        path = path.replace("scratch-", "other-")
        shutil.copytree(kept, path)
        os.setxattr(path, "user.overlaykit.locked", b"y")
    user.succeeds("run", "true")
    with open(os.path.join(path, "file")) as file:
        assert file.read() == "kept"
    user.wait_for_descendants()
    shutil.rmtree(user.temporary_uppers)


@only_as("root")
@only_with(driver="fuse", server=False)
def test_a_scratch_that_another_machine_may_use_stays(user: TestUser) -> None:
    """A lock on a file system that others reach may be one of this machine alone."""
    disk, merged = (user.directory("disk", name) for name in ("upper", "cache"))
    work = user.directory("disk", "work")
    user.directory("home", ".cache")
    options = f"lowerdir={merged},upperdir={disk},workdir={work}"
    _native.mount("shared", user.path("home", ".cache"), "overlay", 0, options)
    path = user.directory("home", ".cache", "overlaykit", "scratch-view-012345", file="kept")
    os.chmod(user.temporary_uppers, 0o700)
    os.setxattr(path, "user.overlaykit.locked", b"y")
    user.succeeds("run", "true")
    with open(os.path.join(path, "file")) as file:
        assert file.read() == "kept"
    user.wait_for_descendants()
    _native.umount2(user.path("home", ".cache"), 0)
