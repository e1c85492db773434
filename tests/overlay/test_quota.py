"""The quota: what is counted is what the disk holds, and what exceeds the limit fails before it is written."""

from __future__ import annotations

import errno
import os
import random

import pytest

from overlaykit.overlay import originals
from overlaykit.overlay.attributes import Changes
from overlaykit.overlay.filesystem import Filesystem
from overlaykit.overlay.quota import Quota
from overlaykit.overlay.stack import MergeOptions

from ..posix.table import File
from .inside import as_root
from .stack import Stack
from .view import View, refused

MIB = 1 << 20
BLOCK = 4096


def options(stack: Stack, limit: int) -> MergeOptions:
    return MergeOptions(userxattr=stack.unprivileged, limit=limit)


def quota_of(filesystem: Filesystem) -> Quota:
    quota = filesystem.tree.quota
    assert quota is not None
    return quota


def taken_on_disk(*directories: str) -> int:
    """The bytes that trees take, each inode once."""
    seen = {}
    for directory in directories:
        for path, names, files in os.walk(directory):
            for one in (path, *(os.path.join(path, name) for name in (*names, *files))):
                st = os.lstat(one)
                seen[st.st_ino] = st.st_blocks * 512
    return sum(seen.values())


def counted(stack: Stack, view: View) -> tuple[int, int]:
    """What the quota counts, and what the disk holds."""
    quota = quota_of(view.filesystem)
    quota.free()
    return quota.used, taken_on_disk(stack.upper, os.path.join(stack.work, "index"))


def test_what_a_quota_does_not_count_is_not_kept(stack: Stack) -> None:
    stack.add({"a": File(b"text")})
    os.makedirs(stack.work, exist_ok=True)
    originals.prepare(stack.work)
    with stack.open(options=options(stack, MIB)) as view:
        view.write("a", b"x")
    assert os.listdir(os.path.join(stack.work, "originals")) == []


@as_root
def test_metacopies_are_counted_as_what_they_take(stack: Stack) -> None:
    for name in ("a", "b", "c"):
        stack.add({name: File(b"x" * (MIB // 2))})
    limit = MergeOptions(metacopy=True, limit=MIB)
    with stack.open(options=limit) as view:
        for name in ("a", "b", "c"):
            view.change(name, Changes(mode=0o600))
        held, on_disk = counted(stack, view)
        assert held == on_disk < MIB // 4
        view.write("a", b"y")
        with view.opened("b") as handle:
            view.unlink("b")
            assert view.filesystem.files.read(handle, 0, 1) == b"x"
        with refused(errno.ENOSPC):
            view.write("c", b"y" * (MIB // 2))
        held, on_disk = counted(stack, view)
        assert on_disk <= held <= on_disk + 2 * BLOCK
        assert view.read("c") == b"x" * (MIB // 2)


def test_a_write_over_the_limit_fails_with_what_fits_written(stack: Stack) -> None:
    stack.add({})
    with stack.open(options=options(stack, MIB)) as view:
        view.create("f")
        with refused(errno.ENOSPC):
            view.write("f", b"x" * (2 * MIB))
        held, on_disk = counted(stack, view)
        assert held == on_disk
        assert MIB - 2 * BLOCK < held <= MIB + BLOCK
        with refused(errno.ENOSPC):
            view.write("f", b"y" * BLOCK, 2 * MIB)
        # What is there already can be written over.
        view.write("f", b"z" * (MIB // 2))
        assert view.read("f").startswith(b"z" * (MIB // 2) + b"x")


def test_removal_gives_back_what_a_file_took(stack: Stack) -> None:
    stack.add({})
    with stack.open(options=options(stack, MIB)) as view:
        for _ in range(3):
            view.create("f")
            view.write("f", b"x" * (MIB * 3 // 4))
            view.unlink("f")
        view.create("f")
        with view.opened("f", os.O_RDWR) as handle:
            view.filesystem.files.write(handle, 0, b"x" * (MIB * 3 // 4))
            view.unlink("f")
            view.create("g")
            # It is there as long as it is open.
            with refused(errno.ENOSPC):
                view.write("g", b"x" * (MIB * 3 // 4))
            view.unlink("g")
        view.create("g")
        view.write("g", b"x" * (MIB * 3 // 4))
        assert len(set(counted(stack, view))) == 1


def test_truncation_gives_back_and_holes_take_nothing(stack: Stack) -> None:
    stack.add({})
    with stack.open(options=options(stack, MIB)) as view:
        view.create("f")
        view.write("f", b"x" * (MIB * 3 // 4))
        view.change("f", Changes(size=0))
        view.change("f", Changes(size=64 * MIB))
        view.write("f", b"x" * (MIB // 2), 32 * MIB)
        with view.opened("f", os.O_RDWR | os.O_TRUNC):
            pass
        view.create("g")
        view.write("g", b"x" * (MIB * 3 // 4))
        held, on_disk = counted(stack, view)
        assert held == on_disk


def test_copy_up_counts_without_the_holes_of_the_lower(stack: Stack) -> None:
    lower = stack.add({"large": File(b"x" * (MIB * 3 // 4)), "other": File(b"y" * (MIB // 2))})
    with open(os.path.join(lower, "sparse"), "wb") as file:
        file.truncate(64 * MIB)
        file.seek(32 * MIB)
        file.write(b"z" * BLOCK)
    with stack.open(options=options(stack, MIB)) as view:
        view.change("sparse", Changes(mode=0o600))
        view.change("large", Changes(mode=0o600))
        with refused(errno.ENOSPC):
            view.change("other", Changes(mode=0o600))
        assert view.read("other") == b"y" * (MIB // 2)
        view.unlink("large")
        view.change("other", Changes(mode=0o600))
        held, on_disk = counted(stack, view)
        assert held == on_disk


def test_a_large_file_is_not_opened_for_writing_if_its_copy_has_no_room(stack: Stack) -> None:
    stack.add({"large": File(b"x" * (3 * MIB))})
    with stack.open(options=options(stack, MIB)) as view:
        assert not view.filesystem.files.may_copy_later(view.file("large"))
        with refused(errno.ENOSPC):
            view.filesystem.files.open(view.file("large"), os.O_RDWR)
        with view.opened("large", os.O_RDWR | os.O_TRUNC):
            assert view.read("large") == b""


def test_what_the_upper_holds_already_counts(stack: Stack) -> None:
    stack.add({})
    with stack.open() as view:
        for name in ("f", "g"):
            view.create(name)
            view.write(name, b"x" * (MIB * 3 // 4))
        view.link("f", "same")
    with stack.open(options=options(stack, MIB)) as view:
        held, on_disk = counted(stack, view)
        assert held == on_disk
        assert quota_of(view.filesystem).free() == 0
        for make in (view.create, view.mkdir, lambda name: view.link("f", name)):
            with refused(errno.ENOSPC):
                make("new")
        with refused(errno.ENOSPC):
            view.setxattr("f", "user.a", b"x")
        view.unlink("f")
        with refused(errno.ENOSPC):
            view.create("new")
        view.unlink("same")
        view.create("new")


def test_the_view_shows_the_limit_as_the_size_of_its_file_system(stack: Stack) -> None:
    stack.add({})
    with stack.open(options=options(stack, MIB)) as view:
        shown = view.filesystem.tree.statfs()
        assert shown.f_blocks * shown.f_frsize == MIB
        view.create("f")
        view.write("f", b"x" * (MIB // 2))
        less = view.filesystem.tree.statfs()
        assert (shown.f_bfree - less.f_bfree) * shown.f_frsize == MIB // 2
        assert less.f_bavail <= less.f_bfree
        with refused(errno.ENOSPC):
            view.write("f", b"x" * (2 * MIB))
        assert view.filesystem.tree.statfs().f_bfree <= 1


def test_deep_and_wide_directories_count(stack: Stack) -> None:
    stack.add({})
    with stack.open(options=options(stack, 64 * MIB), remount=False, as_kernel=False) as view:
        path = ""
        for _ in range(20):
            path = os.path.join(path, "d" * 200)
            view.mkdir(path)
        view.mkdir("wide")
        for number in range(600):
            view.create(f"wide/{number:060d}")
        quota = quota_of(view.filesystem)
        quota.free()
        before = quota.used
        quota.recount()
        assert quota.used - BLOCK <= before <= quota.used
        for number in range(600):
            view.unlink(f"wide/{number:060d}")
        view.rmdir("wide")
        quota.recount()
        after = quota.used
        view.mkdir("wide")
        view.rmdir("wide")
        assert quota.used == after


@pytest.mark.parametrize("seed", range(4))
def test_after_random_operations_the_count_is_that_of_the_disk(stack: Stack, seed: int) -> None:
    chosen = random.Random(seed)
    names = [f"f{number}" for number in range(12)]
    stack.add({name: File(b"l" * chosen.randrange(300_000)) for name in names[:6]})
    limit = MIB * 5 // 8
    refusals = 0
    with stack.open(options=options(stack, limit), remount=False, as_kernel=False) as view:
        handles: list[int] = []

        def keep_open(name: str) -> None:
            handles.append(view.filesystem.files.open(view.file(name), os.O_RDWR))

        def write_to_open(_: str) -> None:
            if handles:
                size, offset = chosen.randrange(300_000), chosen.randrange(1_000_000)
                view.filesystem.files.write(chosen.choice(handles), offset, b"w" * size)

        def close_one(_: str) -> None:
            if handles:
                view.filesystem.files.release(handles.pop(chosen.randrange(len(handles))))

        actions = (
            view.create,
            view.unlink,
            view.unlink,
            keep_open,
            write_to_open,
            write_to_open,
            close_one,
            lambda name: view.link(name, chosen.choice(names)),
            lambda name: view.rename(name, chosen.choice(names)),
            lambda name: view.change(name, Changes(size=chosen.randrange(400_000))),
            lambda name: view.setxattr(name, "user.a", b"a" * chosen.randrange(3000)),
            lambda name: view.write(name, b"v" * chosen.randrange(200_000)),
        )
        for _ in range(400):
            try:
                chosen.choice(actions)(chosen.choice(names))
            except OSError as error:
                refusals += error.errno == errno.ENOSPC
                if error.errno not in (errno.ENOSPC, errno.ENOENT, errno.EEXIST):
                    raise
        while handles:
            close_one("")
        held, on_disk = counted(stack, view)
        assert held == on_disk
        assert on_disk <= limit + 8 * BLOCK
    assert refusals
