"""A small plain file is copied up in few steps, and as any other one; what is not plain goes the long way."""

from __future__ import annotations

import errno
import os
import sys
from unittest.mock import Mock

import pytest

from overlaykit.overlay.markers import Origin
from overlaykit.overlay.smallcopy import SmallCopies, SmallCopy

from ..posix.table import File, Layer, Link
from .inside import as_root
from .stack import Stack
from .view import View, refused

LONG_AGO = 1_234_567_890_123_456_789

PLAIN: Layer = {
    "plain": File(b"x" * 5000, mode=0o640, mtime_ns=LONG_AGO),
    "read-only": File(b"y", mode=0o444, mtime_ns=LONG_AGO + 1),
    "program": File(b"#!", mode=0o755),
    "denied to its owner": File(b"z" * 70_000, mode=0o077),
}
OTHERS: Layer = {
    "empty": File(),
    "with an attribute": File(b"x", xattrs={"user.k": b"v"}),
    "with a set-ID bit": File(b"x", mode=0o2755),
    "with another name": File(b"x"),
    "another name": Link("with another name"),
    "large": File(b"x" * ((1 << 17) + 1)),
}


def _copies(view: View, names: list[str]) -> dict[str, bool]:
    """Copy files up. Returns: which of them went the short way."""
    copyup = view.filesystem.copyup
    is_short = {}
    for name in names:
        node = view.file(name)
        copy = copyup.small.begin(node, keep_data=True, metadata_only=False)
        is_short[name] = copy is not None
        if copy is not None:
            copy.transfer()
            copy.finish()
            copy.close()
        copyup.file(node)
        assert node.has_upper
    return is_short


def _found(directory: str, names: list[str], marker: str) -> dict[str, object]:
    """What a test compares of files: not the times of access and change."""
    found: dict[str, object] = {}
    for name in names:
        path = os.path.join(directory, name)
        st = os.stat(path)
        xattrs = {one: os.getxattr(path, one) for one in os.listxattr(path)}
        origin = Origin.decode(xattrs.pop(marker))
        assert origin is not None
        with open(path, "rb") as file:
            found[name] = (
                file.read(),
                st.st_mode,
                (st.st_uid, st.st_gid),
                st.st_mtime_ns,
                xattrs,
                (origin.encode(), origin.changed_ns, origin.program),
            )
    return found


def test_a_small_copy_is_as_any_other_copy(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for name in PLAIN if not stack.unprivileged or "denied" not in name]
    stack.add(PLAIN)
    marker = stack.marker("origin")
    with stack.open() as view:
        assert all(_copies(view, names).values())
    found = _found(stack.upper, names, marker)
    for name in names:
        os.unlink(os.path.join(stack.upper, name))
    monkeypatch.setattr(SmallCopies, "begin", lambda *_, **__: None)
    with stack.open() as view:
        assert not any(_copies(view, names).values())
    assert _found(stack.upper, names, marker) == found


@as_root
def test_a_small_copy_has_the_owner_and_the_access_time_of_the_lower_file(stack: Stack) -> None:
    lower = os.path.join(stack.add({"f": File(b"x", mode=0o604, uid=12, gid=34)}), "f")
    with stack.open() as view:
        atime_ns = os.stat(lower).st_atime_ns
        assert _copies(view, ["f"]) == {"f": True}
        st = view.stat("f").stat
        assert st.st_atime_ns == atime_ns
        assert (st.st_uid, st.st_gid, st.st_mode & 0o7777) == (12, 34, 0o604)


def test_what_is_not_plain_goes_the_long_way(stack: Stack) -> None:
    lower = stack.add(OTHERS)
    with open(os.path.join(lower, "with a hole"), "wb") as file:
        file.truncate(1 << 16)
    with stack.open() as view:
        assert not any(_copies(view, [*OTHERS, "with a hole"]).values())
        assert view.xattrs("with an attribute") == {"user.k": b"v"}
        assert view.read("with a hole") == bytes(1 << 16)
    assert os.stat(os.path.join(stack.upper, "with a hole")).st_blocks * 512 < 1 << 16


def test_an_open_file_continues_on_its_copy(stack: Stack) -> None:
    stack.add({"f": File(b"old")})
    with stack.open() as view, view.opened("f") as handle:
        assert _copies(view, ["f"]) == {"f": False}
        view.write("f", b"new")
        assert view.filesystem.files.read(handle, 0, 10) == b"new"


def test_a_file_without_a_node_is_copied_unless_it_gets_one(stack: Stack) -> None:
    stack.add({"d/f": File(b"x"), "d/g": File(b"y"), "d/h": File()})
    with stack.open() as view:
        small = view.filesystem.copyup.small
        view.write("d/h", b"z")
        directory = view.directory("d")

        def begin(name: bytes, place: int = 0) -> SmallCopy | None:
            return small.begin_below(directory, name, place, keep_data=True, most=100)

        assert begin(b"f", 1) is None
        copy = begin(b"f")
        assert copy is not None
        copy.transfer()
        copy.finish()
        assert view.read("d/f") == b"x"
        with open(copy.take(), "rb") as file:
            assert file.read() == b"x"
        copy = begin(b"g")
        assert copy is not None
        view.file("d/g")
        with refused(errno.ESTALE):
            copy.finish()
        copy.close()
        assert not view.file("d/g").has_upper
        assert not os.listdir(os.path.join(stack.work, "work"))
    assert sorted(os.listdir(os.path.join(stack.upper, "d"))) == ["f", "h"]


def test_a_small_copy_that_fails_leaves_nothing_and_the_long_way_reports_it(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.add({"f": File(b"x")})
    with stack.open() as view:

        def fail(fd: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as patched:
            patched.setattr(view.filesystem.copyup, "sync", fail)
            with refused(errno.EIO):
                view.filesystem.copyup.file(view.file("f"))
        assert not os.listdir(os.path.join(stack.work, "work"))
        assert not view.file("f").has_upper
        assert view.read("f") == b"x"


def test_the_disk_writes_a_small_copy_during_its_other_steps(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them, and the copy gets its name after the data are written: a crash must not leave it without them."""
    stack.add({"f": File(b"x")})
    steps = Mock()
    with stack.open() as view:
        copyup = view.filesystem.copyup
        for owner, name in (
            (copyup, "begin_sync"),
            (copyup.markers, "set_origin"),
            (copyup.inodes, "set_owner_and_mode"),
            (copyup, "sync"),
            (copyup.table.change_times, "keep"),
        ):
            step = Mock(wraps=getattr(owner, name))
            steps.attach_mock(step, name)
            monkeypatch.setattr(owner, name, step)
        copyup.file(view.file("f"))
    names = [one[0] for one in steps.mock_calls]
    assert names == ["begin_sync", "set_origin", "set_owner_and_mode", "sync", "keep"]


def test_a_small_copy_takes_few_calls(stack: Stack) -> None:
    """Calls of functions, of Python and of C: what a copy-up takes is mostly these."""
    stack.add({name: File(b"x" * 4096) for name in ("first", "second")})
    with stack.open() as view:
        view.filesystem.copyup.file(view.file("first"))
        node = view.file("second")
        calls = 0

        def count(_frame: object, event: str, _argument: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        sys.setprofile(count)
        try:
            view.filesystem.copyup.file(node)
        finally:
            sys.setprofile(None)
        assert node.has_upper
    assert calls < 105, calls
