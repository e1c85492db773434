"""Inode numbers: kept through changes, FORGET and remounts."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from functools import partial

from overlaykit import _native, handles

from ..files import drop_caches, ino_of, opened, read_file, write_file
from ..refusals import refused, unless_refused
from ..table import ROOT_ONLY, Dir, Fifo, File, Instead, Layer, Symlink, behaviour

NO_ORIGIN = "the kernel decodes no file handles for a user namespace, so it records no origin"

ALL: Layer = {
    "d": Dir(),
    "d/f": File(b"x"),
    "d/s": Dir(),
    "d/s/g": File(b"y"),
    "link": Symlink("d/f"),
    "fifo": Fifo(),
    "e": Dir(),
}


def _numbers(*paths: str) -> list[int]:
    return [ino_of(path) for path in paths]


def _gets_another_number_when_forgotten() -> None:
    before = ino_of("d/s/g")
    write_file("d/s/g", b"changed")
    drop_caches()
    assert ino_of("d/s/g") != before


@behaviour(lower=ALL)
def check_every_kind_keeps_its_inode_number_through_copy_up() -> None:
    before = _numbers(*ALL)
    for path in ALL:
        os.utime(path, follow_symlinks=False)
    assert _numbers(*ALL) == before


@behaviour(lower={"f": File(b"f"), "d": Dir(), "g": File(b"g")}, identities=ROOT_ONLY)
def check_a_file_handle_opens_its_file_or_nothing() -> None:
    write_file("new", b"new")
    found = unless_refused(
        errno.EOPNOTSUPP,
        lambda: {n: handles.of_name(_native.AT_FDCWD, n) for n in ("f", "new")},
    )
    if found is None:
        return
    here = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    drop_caches()
    for name, handle in found.items():
        # Before Linux 6.9 a handle of a FUSE mount is stale once the kernel has forgotten the inode.
        read = unless_refused(errno.ESTALE, partial(_read_by, here, handle))
        assert read in (None, name.encode())
        os.unlink(name)
    for number in range(50):  # some get the inode number of a removed file
        write_file(f"d/{number}", b"another")
    for handle in found.values():
        with refused(errno.ESTALE), _opened_by(here, handle):
            pass


def _read_by(mount: int, handle: handles.FileHandle) -> bytes:
    with _opened_by(mount, handle) as fd:
        return os.read(fd, 10)


@contextlib.contextmanager
def _opened_by(mount: int, handle: handles.FileHandle) -> Iterator[int]:
    fd = handles.opened(mount, handle.type, handle.handle, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


@behaviour(lower=ALL)
def check_every_kind_but_directories_keeps_its_inode_number_through_renames() -> None:
    for path in ("d/f", "d/s/g", "link", "fifo"):
        before = ino_of(path)
        os.rename(path, "e/one")
        os.rename("e/one", "two")
        assert ino_of("two") == before
        os.rename("two", path)
        assert ino_of(path) == before


@behaviour(lower=ALL, remount=True)
def check_a_file_not_copied_up_keeps_its_inode_number_over_a_remount() -> Iterator[None]:
    write_file("new", b"")
    os.mkdir("new directory")
    kept = (*ALL, "new", "new directory")
    before = _numbers(*kept)
    yield
    assert _numbers(*kept) == before


def _gets_another_number_over_a_remount() -> Iterator[None]:
    before = ino_of("d/f")
    os.rename("d/f", "e/f")
    yield
    assert ino_of("e/f") != before


@behaviour(
    lower=ALL,
    remount=True,
    differs={"kernel-userns": Instead(NO_ORIGIN, _gets_another_number_over_a_remount)},
)
def check_a_moved_file_keeps_its_inode_number_over_a_remount() -> Iterator[None]:
    before = ino_of("d/f")
    os.rename("d/f", "e/f")
    write_file("e/f", b"changed")
    yield
    assert ino_of("e/f") == before
    assert read_file("e/f") == b"changed"


@behaviour(lower=ALL, remount=True, identities=ROOT_ONLY)
def check_a_moved_directory_keeps_its_inode_numbers_over_a_remount() -> Iterator[None]:
    before = _numbers("d", "d/f", "d/s", "d/s/g")
    os.rename("d", "e/d")
    yield
    assert _numbers("e/d", "e/d/f", "e/d/s", "e/d/s/g") == before


@behaviour(lower=ALL, remount=True, identities=ROOT_ONLY)
def check_a_symlink_and_a_fifo_keep_their_inode_numbers_over_a_remount() -> Iterator[None]:
    before = _numbers("link", "fifo")
    os.utime("link", follow_symlinks=False)
    os.chmod("fifo", 0o600)
    yield
    assert _numbers("link", "fifo") == before


@behaviour(
    lower=ALL, differs={"kernel-userns": Instead(NO_ORIGIN, _gets_another_number_when_forgotten)}
)
def check_forgetting_changes_no_inode_number() -> None:
    write_file("d/s/g", b"changed")
    os.rename("d/f", "e/moved")
    paths = ("d", "d/s", "d/s/g", "e/moved", "link", "fifo")
    before = _numbers(*paths)
    drop_caches()
    assert _numbers(*paths) == before


@behaviour(lower={"d": Dir(), "d/f": File(b"x")})
def check_no_two_files_have_one_inode_number() -> None:
    with opened("d/f", os.O_RDONLY) as fd:
        os.unlink("d/f")
        for number in range(50):
            write_file(f"d/{number}", b"")
        assert os.fstat(fd).st_ino not in _numbers(*(f"d/{number}" for number in range(50)))
    numbers = {ino_of(f"d/{number}") for number in range(50)} | {ino_of("d"), ino_of(".")}
    assert len(numbers) == 52
