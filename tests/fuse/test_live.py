"""A lower that others change while it is mounted: what programs see of it."""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import stat
import time
from collections.abc import Callable, Iterator

import pytest

from overlaykit.fuse.spec import LayerSpec

from ..overlay.stack import Stack
from ..posix import syscalls
from ..posix.table import File, Symlink
from .mounted import Mounted, mounted

_FAR = 30.0
"""Seconds: far more than a change takes to be seen, also under load."""


def _await(is_seen: Callable[[], bool]) -> None:
    end = time.monotonic() + _FAR
    while not is_seen():
        assert time.monotonic() < end, "the change is not seen"
        time.sleep(0.01)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _has_size(fd: int, size: int) -> bool:
    return os.fstat(fd).st_size == size


def _begins(path: str, text: bytes) -> bool:
    return _read(path).startswith(text)


def _write(path: str, content: bytes, mode: str = "wb") -> None:
    with open(path, mode) as file:
        file.write(content)


@contextlib.contextmanager
def _live(stack: Stack, *frozen: str, writable: bool = True) -> Iterator[Mounted]:
    layers = tuple(LayerSpec(path=one, live=one not in frozen) for one in stack.lowers)
    with mounted(stack, layers=layers, writable=writable) as mount:
        yield mount


_KINDS = pytest.mark.parametrize("writable", [True, False], ids=["upper", "read-only"])
_AGES = pytest.mark.parametrize("age", [0, 3600], ids=["new", "old"])


def _aged(path: str, age: int) -> None:
    """Let a file look as if it had not changed for some seconds."""
    then = time.time() - age
    os.utime(path, (then, then))


@_KINDS
@_AGES
def test_a_file_that_changes_shows_what_it_holds(stack: Stack, writable: bool, age: int) -> None:
    lower = stack.add({f"d/{name}": File(b"before") for name in ("grown", "written", "replaced")})
    for name in os.listdir(f"{lower}/d"):
        _aged(f"{lower}/d/{name}", age)
    with _live(stack, writable=writable) as mount:
        grown, written, replaced = (
            mount.path(f"d/{one}") for one in ("grown", "written", "replaced")
        )
        number = os.stat(grown).st_ino
        assert {_read(one) for one in (grown, written, replaced)} == {b"before"}
        with open(grown, "rb") as held:
            _write(f"{lower}/d/grown", b" and after", "ab")
            _write(f"{lower}/d/written", b"AFTER!", "r+b")
            _write(f"{lower}/d/new", b"another")
            os.rename(f"{lower}/d/new", f"{lower}/d/replaced")
            # An open asks the daemon, whatever the kernel has cached.
            assert _read(grown) == b"before and after"
            assert _read(written) == b"AFTER!"
            assert _read(replaced) == b"another"
            assert os.stat(grown).st_size == 16
            assert os.stat(grown).st_ino == number
            assert held.read() == b"before"


@_KINDS
def test_names_and_attributes_that_change_are_seen(stack: Stack, writable: bool) -> None:
    names = ("removed", "moved", "mode", "kind")
    lower = stack.add(
        {f"d/{name}": File(name.encode()) for name in names} | {"d/link": Symlink("a")}
    )
    with _live(stack, writable=writable) as mount:
        at = mount.path("d")
        listed = set(os.listdir(at))
        assert not os.path.lexists(f"{at}/missing")
        for name in listed:
            os.lstat(f"{at}/{name}")
        assert os.readlink(f"{at}/link") == "a"
        os.unlink(f"{lower}/d/removed")
        os.rename(f"{lower}/d/moved", f"{lower}/d/here")
        os.chmod(f"{lower}/d/mode", 0o600)
        _write(f"{lower}/d/missing", b"came")
        os.unlink(f"{lower}/d/kind")
        os.mkdir(f"{lower}/d/kind")
        _write(f"{lower}/d/kind/in", b"")
        os.unlink(f"{lower}/d/link")
        os.symlink("b", f"{lower}/d/link")
        _await(lambda: set(os.listdir(at)) == listed - {"removed", "moved"} | {"here", "missing"})
        _await(lambda: not os.path.lexists(f"{at}/removed"))
        _await(lambda: not os.path.lexists(f"{at}/moved"))
        _await(lambda: os.path.exists(f"{at}/here") and _read(f"{at}/here") == b"moved")
        _await(lambda: stat.S_IMODE(os.stat(f"{at}/mode").st_mode) == 0o600)
        _await(lambda: os.path.exists(f"{at}/missing") and _read(f"{at}/missing") == b"came")
        _await(lambda: os.path.isdir(f"{at}/kind") and os.listdir(f"{at}/kind") == ["in"])
        _await(lambda: os.readlink(f"{at}/link") == "b")


@_KINDS
@pytest.mark.parametrize("size", [5, 10 << 10], ids=["a page", "pages"])
def test_a_program_sees_what_is_appended_to_the_file_that_it_has_open(
    stack: Stack, writable: bool, size: int
) -> None:
    lower = stack.add({"log": File(b"1" * size)})
    with _live(stack, writable=writable) as mount, open(mount.path("log"), "rb") as file:
        assert file.read() == b"1" * size
        for number in (1, 2):
            _write(f"{lower}/log", b"2" * size, "ab")
            _await(functools.partial(_has_size, file.fileno(), (number + 1) * size))
            assert file.read() == b"2" * size
            assert len(_read(mount.path("log"))) == (number + 1) * size


def test_what_a_program_has_mapped_and_writes_to_is_seen(stack: Stack) -> None:
    lower = stack.add({"f": File(b"-" * mmap.PAGESIZE)})
    with (
        _live(stack) as mount,
        open(f"{lower}/f", "r+b") as file,
        mmap.mmap(file.fileno(), 0) as memory,
    ):
        for letter in (b"a", b"b", b"c"):  # of which only the first sets a new time
            memory[0:1] = letter
            _await(functools.partial(_begins, mount.path("f"), letter))


def test_a_merged_directory_shows_what_comes_to_any_of_its_layers(stack: Stack) -> None:
    above = stack.add({"d/e/above": File()})
    lower = stack.add({"d/e/below": File()})
    with _live(stack, above) as mount:
        _write(mount.path("d/e/own"), b"")
        at = mount.path("d/e")
        assert sorted(os.listdir(at)) == ["above", "below", "own"]
        assert not os.path.exists(f"{at}/later")
        _write(f"{lower}/d/e/later", b"")
        os.unlink(f"{lower}/d/e/below")
        _await(lambda: sorted(os.listdir(at)) == ["above", "later", "own"])
        _await(lambda: os.path.exists(f"{at}/later"))


def test_a_replaced_directory_shows_the_new_one(stack: Stack) -> None:
    lower = stack.add({"a/d/old": File(), "other/new": File()})
    with _live(stack) as mount:
        assert os.listdir(mount.path("a/d")) == ["old"]
        os.rename(f"{lower}/a/d", f"{lower}/away")
        os.rename(f"{lower}/other", f"{lower}/a/d")
        _await(lambda: os.listdir(mount.path("a/d")) == ["new"])
        _await(lambda: os.path.exists(mount.path("a/d/new")))


def test_a_file_copied_up_keeps_its_copy(stack: Stack) -> None:
    lower = stack.add({"f": File(b"below"), "g": File(b"below")})
    with _live(stack) as mount:
        _write(mount.path("f"), b" and mine", "ab")
        _write(f"{lower}/f", b"changed")
        _write(f"{lower}/new", b"changed")
        os.rename(f"{lower}/new", f"{lower}/g")
        _await(lambda: _read(mount.path("g")) == b"changed")
        assert _read(mount.path("f")) == b"below and mine"


@pytest.mark.parametrize("size", [100, 3 << 20], ids=["small", "large"])
def test_an_append_goes_after_what_the_host_has_appended(stack: Stack, size: int) -> None:
    lower = stack.add({"f": File(b"1" * size)})
    with _live(stack) as mount:
        assert len(_read(mount.path("f"))) == size
        _write(f"{lower}/f", b"2" * 100, "ab")
        _write(mount.path("f"), b"3" * 100, "ab")
        assert _read(mount.path("f")) == b"1" * size + b"2" * 100 + b"3" * 100
        assert _read(f"{lower}/f") == b"1" * size + b"2" * 100


def test_what_a_program_writes_is_not_lost_if_the_file_changes_below(stack: Stack) -> None:
    size = 3 << 20
    lower = stack.add({"f": File(b"1" * size)})
    with _live(stack) as mount, open(mount.path("f"), "r+b", buffering=0) as file:
        _write(f"{lower}/f", b"2" * 100, "ab")
        os.stat(mount.path("f"))
        file.write(b"mine")  # copies it up only now
        os.fsync(file.fileno())
        assert _read(mount.path("f")) == b"mine" + b"1" * (size - 4)
    assert _read(f"{stack.upper}/f")[:4] == b"mine"


def test_a_name_with_a_mount_on_it_keeps_its_mount(stack: Stack) -> None:
    lower = stack.add({"etc/hosts": File(b"below"), "own": File(b"own")})
    layers = (LayerSpec(path=lower, live=True),)
    with mounted(stack, layers=layers, pinned=("/etc/hosts",)) as mount:
        hosts = mount.path("etc/hosts")
        with _bound(mount.path("own"), hosts):
            _write(f"{lower}/etc/new", b"changed")
            os.rename(f"{lower}/etc/new", f"{lower}/etc/hosts")
            _write(f"{lower}/etc/later", b"")
            _await(lambda: os.path.exists(mount.path("etc/later")))
            assert _read(hosts) == b"own"


@contextlib.contextmanager
def _bound(source: str, target: str) -> Iterator[None]:
    syscalls.mount(os.fsencode(source), os.fsencode(target), None, syscalls.MS_BIND)
    try:
        yield
    finally:
        syscalls.umount2(os.fsencode(target))
