"""Freeze an upper: it becomes a lower, and a new, empty upper takes its place. Nothing is copied.

    UPPER, WORK                         those of the mount, before and after
    FROZEN/upper, FROZEN/.upper.overlaykit   the frozen upper and its work directory, whose index belongs to the layer
    FROZEN/next, FROZEN/.next.overlaykit     the new ones, until they take the names of the others

All lie on one file system. They change places by four renames. Nothing is written to an upper between these. Who asked
for it finishes or undoes them after a crash (`views.snapshots`), and freezes an upper that no mount uses.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from overlaykit import attributes, projects
from overlaykit.lean import NamedTuple
from overlaykit.overlay import features, originals
from overlaykit.overlay.beside import work_beside
from overlaykit.rmtree import rmtree
from overlaykit.scope import suppress

if TYPE_CHECKING:
    from collections.abc import Callable

UPPER: Final = "upper"
WORK: Final = work_beside("/" + UPPER)[1:]
_NEXT: Final = "next"
_NEXT_WORK: Final = work_beside("/" + _NEXT)[1:]
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT: Final = (b"began", b"restored")
"""Marks of an upper's root, of which the new one has the same: since when its layers are what they are."""
_AT_START: Final = {features.WHITEOUT_XATTR, features.WHITEOUT_AUFS, features.PERMISSIONS}


class Places(NamedTuple):
    """Where the directories are: names in open directories. `frozen`: FROZEN, open."""

    above_upper: int
    upper: str
    above_work: int
    work: str
    frozen: int


class Next(NamedTuple):
    """The new upper and its work directory, open. `originals`: the directory in that for these; -1: there is none."""

    upper: int
    work: int
    originals: int

    def close(self) -> None:
        for fd in self:
            if fd >= 0:
                os.close(fd)


def make_next(places: Places, copy: Callable[[int, int], None], prefix: bytes | None) -> Next:
    """Make the new upper and its work directory.

    `copy`: copies the metadata of the upper's root, but no marks, from one descriptor to another. `prefix`: of the
    marks; None: the upper holds none. Raises: OSError, with nothing made.
    """
    frozen = places.frozen
    made: list[int] = []
    try:
        source = os.open(places.upper, _DIRECTORY, dir_fd=places.above_upper)
        made.append(source)
        for name in (_NEXT, _NEXT_WORK):
            os.mkdir(name, 0o700, dir_fd=frozen)
            made.append(os.open(name, _DIRECTORY, dir_fd=frozen))
            projects.hand_down(source, made[-1])
        _, upper, work = made
        if prefix is not None:
            _copy_marks(source, upper, prefix)
        before = os.open(places.work, _DIRECTORY, dir_fd=places.above_work)
        made.append(before)
        kept_in = -1
        if attributes.stat_or_none(before, originals.NAME) is not None:
            os.mkdir(originals.NAME, 0o700, dir_fd=work)
            kept_in = originals.open_in(work)
        copy(source, upper)
    except BaseException:
        for fd in made:
            os.close(fd)
        remove_next(frozen)
        raise
    os.close(before)
    os.close(source)
    return Next(upper, work, kept_in)


def _copy_marks(source: int, target: int, prefix: bytes) -> None:
    own, new = (b"/proc/self/fd/%d" % fd for fd in (source, target))
    for name in _KEPT:
        value = attributes.xattr_or_none(own, prefix + name)
        if value is not None:
            os.setxattr(new, prefix + name, value)
    recorded = features.read(own, prefix)
    if recorded is not None:
        features.write(new, prefix, recorded & _AT_START)


def remove_next(frozen: int) -> None:
    """Remove what `make_next` has made in FROZEN."""
    for name in (_NEXT, _NEXT_WORK):
        with suppress(OSError):
            rmtree(frozen, os.fsencode(name))


def change_places(places: Places) -> None:
    """Let the new upper take the place of the other. Raises: OSError, with nothing changed."""
    frozen = places.frozen
    steps = (
        (places.above_work, places.work, frozen, WORK),
        (places.above_upper, places.upper, frozen, UPPER),
        (frozen, _NEXT, places.above_upper, places.upper),
        (frozen, _NEXT_WORK, places.above_work, places.work),
    )
    done: list[tuple[int, str, int, str]] = []
    try:
        for source, name, target, new_name in steps:
            os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=target)
            done.append((source, name, target, new_name))
    except OSError:
        for source, name, target, new_name in reversed(done):
            os.rename(new_name, name, src_dir_fd=target, dst_dir_fd=source)
        raise


def open_places(upper: str, work: str, frozen: str) -> Places:
    """Open the directories; the caller closes them (`close_places`). Raises: OSError."""
    opened: list[int] = []
    try:
        for path in (os.path.dirname(upper), os.path.dirname(work), frozen):
            opened.append(os.open(path, _DIRECTORY))
    except BaseException:
        for fd in opened:
            os.close(fd)
        raise
    return Places(opened[0], os.path.basename(upper), opened[1], os.path.basename(work), opened[2])


def close_places(places: Places) -> None:
    for fd in (places.above_upper, places.above_work, places.frozen):
        os.close(fd)
