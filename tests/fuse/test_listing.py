"""Listings whose requests are of two kinds: with attributes (READDIRPLUS), and of names only (READDIR).

The kernel asks for attributes where a listing begins, and after a lookup in the directory (fs/fuse/readdir.c).
"""

from __future__ import annotations

import contextlib
import os
import platform
import random
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from overlaykit import _native
from overlaykit.fuse.kernel_version import version_of
from overlaykit.fuse.spec import MountOptions

from ..overlay.inside import as_ordinary_user
from ..overlay.stack import Stack
from ..posix.table import Dir, File, Layer, Symlink, Whiteout
from .listed import wrongly_listed
from .mounted import Mounted, mounted

pytestmark = [pytest.mark.usefixtures("sandbox"), as_ordinary_user]

_DIRENT = struct.Struct("=QqHB")
_PAGE = 4096
_MANY = 700

on_both_planes = pytest.mark.parametrize("plane", [True, False], ids=["native", "python"])


class Listed(NamedTuple):
    """An entry of getdents64(2). `position`: for lseek(2), of the entry after it."""

    name: str
    inode: int
    position: int
    kind: int


def _read(fd: int, size: int = _PAGE) -> list[Listed]:
    """The next entries of an open directory; none at its end."""
    buffer = bytearray(size)
    found = []
    at, filled = 0, _native.getdents64(fd, buffer)
    while at < filled:
        inode, position, length, kind = _DIRENT.unpack_from(buffer, at)
        start = at + _DIRENT.size
        name = os.fsdecode(bytes(buffer[start : buffer.index(0, start)]))
        found.append(Listed(name, inode, position, kind))
        at += length
    return found


def _read_all(fd: int, before_each: Callable[[], object] = lambda: None) -> list[Listed]:
    found: list[Listed] = []
    while more := _read(fd):
        found += more
        before_each()
    return found


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def _content(prefix: str, count: int = _MANY) -> Layer:
    return {
        **{f"d/{prefix}{number}": File() for number in range(count)},
        **{f"d/{prefix}-dir{number}/f": File() for number in range(20)},
        **{f"d/{prefix}-link{number}": Symlink("x") for number in range(20)},
    }


def _plain(stack: Stack) -> None:
    stack.add(_content("a"))


def _merged(stack: Stack) -> None:
    stack.add(
        {
            **_content("a", 350),
            "d/b3": Whiteout(),
            "d/b-dir4": Whiteout(),
            **{f"d/b-dir{number}/g": File() for number in range(10, 15)},
            "d/b5": File(b"above"),
        }
    )
    stack.add(_content("b", 350))


def _emptied(stack: Stack) -> None:
    stack.add({"d": Dir()})
    stack.add(_content("a"))


in_each_layout = pytest.mark.parametrize("layout", [_plain, _merged, _emptied])


@contextlib.contextmanager
def _mounted(stack: Stack, plane: bool) -> Iterator[Mounted]:
    options = MountOptions(userxattr=stack.unprivileged, data_plane=plane)
    with mounted(stack, options=options) as mount:
        yield mount


@in_each_layout
@on_both_planes
def test_a_position_in_a_directory_is_the_same_for_each_kind_of_request(
    stack: Stack, layout: Callable[[Stack], None], plane: bool
) -> None:
    layout(stack)
    with _mounted(stack, plane) as mount, _opened(mount.path("d")) as fd:
        everything = _read_all(fd)
        names = [entry.name for entry in everything]
        assert len({*names}) == len(names) > 700
        positions = [0, *(entry.position for entry in everything)]
        assert positions == sorted({*positions})
        mount.forget()
        # The kernel has cached the listing from its start, so a jump to its end is answered here.
        chance = random.Random(1)
        for at in chance.sample(range(1, len(everything)), 40):
            if chance.random() < 0.5:
                os.path.exists(mount.path(f"d/missing{at}"))
            assert os.lseek(fd, positions[at], os.SEEK_SET) == positions[at]
            found = _read(fd)
            assert found
            assert found == everything[at : at + len(found)]
        os.lseek(fd, 0, os.SEEK_SET)
        assert _read_all(fd) == everything


@in_each_layout
@on_both_planes
@pytest.mark.one_in(3)
def test_inode_numbers_and_kinds_are_those_of_stat_in_each_kind_of_request(
    stack: Stack, layout: Callable[[Stack], None], plane: bool
) -> None:
    layout(stack)
    with _mounted(stack, plane) as mount:
        above = mount.path("d")
        for change in (False, True):
            if change:
                for number in range(0, 300, 3):
                    with open(f"{above}/a{number}", "a") as file:
                        file.write("copied up")
                    os.rename(f"{above}/a{number + 1}", f"{above}/renamed{number}")
                    os.mkdir(f"{above}/made{number}")
                    with open(f"{above}/new{number}", "w") as file:
                        file.write("new")
                for number in range(19):
                    with contextlib.suppress(OSError):  # EXDEV: it is in a lower
                        os.rename(f"{above}/a-dir{number}", f"{above}/moved{number}")
                    os.chmod(f"{above}/a-dir{19}", 0o700)
            mount.forget()
            assert wrongly_listed(above) == []
            mount.forget()
            with _opened(above) as fd:
                listed = {entry.name: entry.inode for entry in _read_all(fd)}
            assert listed.pop(".") == os.stat(above).st_ino
            assert listed.pop("..") == os.stat(mount.target).st_ino
            assert listed == {name: os.lstat(f"{above}/{name}").st_ino for name in listed}


@in_each_layout
@on_both_planes
@pytest.mark.one_in(3)
def test_a_listing_of_both_kinds_holds_nothing_once_the_kernel_has_forgotten_it(
    stack: Stack, layout: Callable[[Stack], None], plane: bool
) -> None:
    layout(stack)
    with _mounted(stack, plane) as mount:
        missing = iter(range(1000))

        def look_up() -> None:
            number = next(missing)
            if number % 3:
                os.path.exists(mount.path(f"d/missing{number}"))
                os.path.exists(mount.path(f"d/a{number}"))

        for _ in range(3):
            with _opened(mount.path("d")) as fd:
                _read_all(fd, look_up)
            os.listdir(mount.path("d"))
            mount.forget()
            mount.await_held(nodes=1, nlookup=1, open_files=0)
        # No number is counted too low either: a name that is still in use keeps its inode.
        with open(mount.path("d/a7")) as file, _opened(mount.path("d")) as fd:
            _read_all(fd, look_up)
            number = os.fstat(file.fileno()).st_ino
            mount.forget()
            _read_all(fd, look_up)
            assert os.stat(mount.path("d/a7")).st_ino == os.fstat(file.fileno()).st_ino == number


@in_each_layout
@on_both_planes
@pytest.mark.one_in(3)
@pytest.mark.parametrize("seed", range(3))
def test_names_that_stay_are_listed_once_while_others_come_and_go(
    stack: Stack, layout: Callable[[Stack], None], plane: bool, seed: int
) -> None:
    layout(stack)
    chance = random.Random(seed)
    with _mounted(stack, plane) as mount, _opened(mount.path("d")) as fd:
        above = mount.path("d")
        with _opened(above) as whole:
            before = {entry.name for entry in _read_all(whole)}
        mount.forget()
        files = sorted(name for name in before if name.startswith(("a", "b")) and "-" not in name)
        gone: set[str] = set()

        def change() -> None:
            what = chance.randrange(4)
            name = chance.choice(files)
            if what == 0 and name not in gone:
                os.unlink(f"{above}/{name}")
                gone.add(name)
            elif what == 1:
                with open(f"{above}/new{chance.randrange(1000)}", "w"):
                    pass
            elif what == 2:
                os.path.exists(f"{above}/{name}")

        os.lseek(fd, 0, os.SEEK_SET)
        seen = [entry.name for entry in _read_all(fd, change)]
        assert len({*seen}) == len(seen)
        assert before - gone <= {*seen}
        os.lseek(fd, 0, os.SEEK_SET)
        again = [entry.name for entry in _read_all(fd)]
        assert sorted(again) == sorted([".", "..", *os.listdir(above)])
        assert {*again} & gone == set()
        assert before - gone <= {*again}


@pytest.mark.skipif(
    version_of(platform.release()) < (6, 16), reason="the kernel asks for a page at a time"
)
@in_each_layout
@on_both_planes
def test_a_wide_directory_is_listed_in_few_requests(
    stack: Stack, layout: Callable[[Stack], None], plane: bool
) -> None:
    layout(stack)
    stack.add({f"d/w{number}": File() for number in range(5000)})
    with _mounted(stack, plane) as mount:
        os.stat(mount.path("d"))
        before = mount.counted()
        assert len(os.listdir(mount.path("d"))) > 5700
        after = mount.counted()
        during = sum(after.requests.values()) - sum(before.requests.values())
        # Of 32 KiB: one with attributes of 204 names, the others with 819 or more.
        assert during + after.answered - before.answered <= 10


@on_both_planes
def test_a_program_that_stats_what_it_lists_gets_attributes_with_the_names(
    stack: Stack, plane: bool
) -> None:
    stack.add({f"d/{number}/{name}": File() for number in range(5) for name in range(100)})
    with _mounted(stack, plane) as mount:
        os.stat(mount.path("d"))
        during = []
        for number in range(5):
            before = mount.counted()
            with os.scandir(mount.path(f"d/{number}")) as entries:
                assert len([entry.stat() for entry in entries]) == 100
            after = mount.counted()
            requests = sum(after.requests.values()) - sum(before.requests.values())
            during.append(requests + after.answered - before.answered)
    # Another test may have emptied the caches of the machine meanwhile, but not each time.
    assert min(during) <= 9
