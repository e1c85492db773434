"""Generated programs on real mounts: the changes that are read make the view's tree out of the lowers', and no more."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import pytest

from overlaykit.changes.model import Change, Version
from overlaykit.changes.opening import open_directory
from overlaykit.changes.read import Comparison

from ..oracle.comparison import Directories
from ..oracle.observation import Found, Tree, look
from ..oracle.program import Program
from ..posix.sandbox import Sandbox
from ..posix.systems import KernelOverlay, Overlaykit, Stack, System
from .generated import UNPRIVILEGED, after, check, of_lowers

SYSTEMS = [KernelOverlay(UNPRIVILEGED), Overlaykit(UNPRIVILEGED)]
if not UNPRIVILEGED:
    SYSTEMS += [KernelOverlay(UNPRIVILEGED, metacopy=True), Overlaykit(UNPRIVILEGED, metacopy=True)]


@dataclass(frozen=True)
class Shown:
    """What a user compares of a file. Not its times: the system sets most of them."""

    mode: int
    uid: int
    gid: int
    device: int
    content: bytes | str | None
    xattrs: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True)
class Read:
    """A change, with what its new file holds, as it was read."""

    change: Change
    shown: Shown | None


Files: TypeAlias = dict[str, Shown]


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda one: f"{one.name}-{one.metacopy}")
@pytest.mark.one_in(3)
def test_changes_are_what_a_full_comparison_finds(
    system: System, isolated: Sandbox, directory: str
) -> None:
    def wrong(program: Program, stack: Stack, place: Directories) -> list[str]:
        old = of_lowers(stack, place, look)
        new = after(program, system, stack, place.target, look)
        read = _read(stack)
        return [*_not_predicted(old, new, read), *_not_different(old, read)]

    check(isolated, directory, wrong, examples=12)


def _read(stack: Stack) -> list[Read]:
    assert stack.upper is not None
    lowers = [open_directory(os.fsdecode(lower)) for lower in stack.lowers]
    with Comparison.of_upper(open_directory(os.fsdecode(stack.upper)), lowers) as comparison:
        return [
            Read(one, None if one.new is None else _version_shown(comparison, one.new))
            for one in comparison.changes()
            if one.path
        ]


def _version_shown(comparison: Comparison, version: Version) -> Shown:
    content: bytes | str | None = None
    if version.is_regular:
        with open(version.open(), "rb") as file:
            content = file.read()
    elif stat.S_ISLNK(version.mode):
        content = os.fsdecode(version.readlink())
    xattrs = comparison.xattrs(version, of_new=True)
    return Shown(
        version.mode,
        version.uid,
        version.gid,
        version.device,
        content,
        tuple(sorted((os.fsdecode(name), value) for name, value in xattrs.items())),
    )


def _shown(found: Found) -> Shown:
    one = found.description
    xattrs = tuple(sorted(found.xattrs))
    return Shown(one.kind | one.mode, one.uid, one.gid, one.rdev, found.content, xattrs)


def _not_predicted(old: Tree, new: Tree, read: list[Read]) -> Iterator[str]:
    """Where the lowers' tree with the changes is not the view's tree."""
    predicted = _predicted(old, read)
    for path in sorted(predicted.keys() | new.keys()):
        if path not in predicted:
            yield f"{path} was added, and is no change"
        elif path not in new:
            yield f"{path} was deleted, and is no change"
        elif predicted[path] != _shown(new[path]) and not _shows_by_index(path, old, new):
            yield f"{path} is {_shown(new[path])}, by its changes {predicted[path]}"


def _shows_by_index(path: str, old: Tree, new: Tree) -> bool:
    """Whether a file changed under another name, which its inode has in the lower; the upper does not say which."""
    if path not in old or old[path].description.links == 1:
        return False
    return any(one.same_as == new[path].same_as and other != path for other, one in new.items())


def _predicted(old: Tree, read: list[Read]) -> Files:
    sources = {
        os.fsdecode(one.change.old_path or b""): os.fsdecode(one.change.path)
        for one in read
        if one.change.kind == "renamed"
    }
    gone = {
        os.fsdecode(one.change.old_path or b"")
        for one in read
        if one.change.kind in ("deleted", "replaced")
    }
    files: Files = {}
    for path, found in old.items():
        moved = _moved(path, sources, gone)
        if moved is not None:
            files[moved] = _shown(found)
    for one in read:
        if one.shown is not None:
            files[os.fsdecode(one.change.path)] = one.shown
    return files


def _moved(path: str, sources: dict[str, str], gone: set[str]) -> str | None:
    """Where a path of the lowers is in the view; None if it is gone."""
    names = path.split("/")
    for depth in range(len(names), 0, -1):
        above = "/".join(names[:depth])
        if above in sources:
            return "/".join([sources[above], *names[depth:]])
        if above in gone:
            return None
    return path


def _not_different(old: Tree, read: list[Read]) -> Iterator[str]:
    """The changes that change nothing."""
    for one in read:
        change = one.change
        was = None if change.old_path is None else old.get(os.fsdecode(change.old_path))
        if change.kind == "added":
            if change.old is not None:
                yield f"{change.path!r} was not added"
        elif was is None:
            yield f"{change.path!r} was not there"
        elif change.kind == "changed" and "links" not in change.what and one.shown == _shown(was):
            yield f"{change.path!r} is as it was"
