"""The merge of a file that both the view and the target have changed, from what it was (`overlay.originals`).

The text is merged by lines (`threeway`). Of the mode, the owner and each attribute the side counts that has changed it.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from overlaykit import attributes
from overlaykit.changes import threeway
from overlaykit.overlay import originals
from overlaykit.overlay.markers import ACLS, OVERLAY_PREFIXES, xattr_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Mapping
    from typing import Final, TypeVar

    from overlaykit.changes.model import Change, Version
    from overlaykit.changes.read import Comparison
    from overlaykit.changes.steps import Places
    from overlaykit.overlay.began import Began
    from overlaykit.overlay.markers import Origin

    T = TypeVar("T")

_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Text:
    """A regular file as one side has it. `mode`: with its type."""

    data: bytes
    mode: int
    uid: int
    gid: int
    xattrs: Mapping[bytes, bytes]


class NotMerged(Exception):
    """A file cannot be merged. The argument says why."""


class Merger:
    """Merges files. `directory`: of the originals; None: the old side of the comparison is what the files were."""

    def __init__(
        self,
        comparison: Comparison,
        places: Places,
        directory: str | None,
        since: Began,
        inodes: Container[int],
    ) -> None:
        """`since`: when the view began, as the upper says. `inodes`: the numbers of the old sides of all changes."""
        self._comparison = comparison
        self._places = places
        self._directory = directory
        self._since = since
        self._inodes = inodes

    def merged(self, change: Change, place: bytes, st: os.stat_result) -> Text:
        """What both make of a file that the target has at `place`, where it is `st`. Raises: NotMerged, OSError."""
        new = change.new
        if new is None or change.old is None or not (new.is_regular and stat.S_ISREG(st.st_mode)):
            raise NotMerged("only files that both have can be merged")
        if st.st_nlink > 1 or new.stat.st_nlink > 1 or change.link is not None:
            raise NotMerged("a file with several names is not merged")
        base = self._original(change, change.old, new)
        ours = self._of_target(place, st)
        theirs = self._of_view(change, new, ours)
        try:
            data = threeway.merge(base.data, ours.data, theirs.data)
        except threeway.Overlap as overlap:
            raise NotMerged(_described(overlap)) from None
        names = base.xattrs.keys() | ours.xattrs.keys() | theirs.xattrs.keys()
        xattrs = {
            name: _one(os.fsdecode(name), *(side.xattrs.get(name) for side in (base, ours, theirs)))
            for name in sorted(names)
        }
        return Text(
            data,
            _one("the mode", base.mode, ours.mode, theirs.mode),
            _one("the owner", base.uid, ours.uid, theirs.uid),
            _one("the owner", base.gid, ours.gid, theirs.gid),
            {name: value for name, value in xattrs.items() if value is not None},
        )

    def is_unchanged(self, merged: Text, place: bytes, st: os.stat_result) -> bool:
        """Whether the target's file is what a merge has made. Raises: NotMerged, OSError."""
        return merged == self._of_target(place, st)

    def renamed_from(self, new: Version) -> bytes | None:
        """The path in the target of the file that one of the upper was copied from; None: not known.

        Raises: OSError.
        """
        origin = self._comparison.new.origin(new)
        if self._directory is None or origin is None:
            return None
        try:
            directory = os.open(self._directory, _DIRECTORY)
        except FileNotFoundError:
            return None
        try:
            found = originals.read(directory, origin)
        finally:
            os.close(directory)
        path = b"" if found is None else os.fsencode(found[0].path)
        above = self._comparison.above
        return path[len(above) :] or None if path.startswith(above) else None

    def _original(self, change: Change, old: Version, new: Version) -> Text:
        if self._directory is None:
            xattrs = self._comparison.xattrs(old, of_new=False)
            return Text(_read(old.open()), old.mode, old.uid, old.gid, xattrs)
        found = None
        origin = None
        if new.layer_dir.layer.of_view:
            origin = self._comparison.new.origin(new)
        try:
            directory = os.open(self._directory, _DIRECTORY)
        except FileNotFoundError:
            raise NotMerged("no original was kept") from None
        try:
            if change.old_path is not None:
                path = b"/" + self._comparison.above + change.old_path
                found = originals.read_replaced(directory, path, self._since)
            if found is None and origin is not None and not self._is_of_another(origin, old):
                found = originals.read(directory, origin)
        finally:
            os.close(directory)
        if found is None:
            raise NotMerged("no original was kept")
        of, data = found
        kept = {os.fsencode(name): bytes.fromhex(value) for name, value in of.xattrs.items()}
        return Text(data, of.mode, of.uid, of.gid, kept)

    def _is_of_another(self, origin: Origin, old: Version) -> bool:
        """Whether a file was copied from one that had another name: the view has renamed that over `old`."""
        number = origin.inode_number()
        return number != old.stat.st_ino and number in self._inodes

    def _of_target(self, place: bytes, st: os.stat_result) -> Text:
        with self._places.parent("target", os.fsdecode(place)) as (parent, name):
            try:
                fd = os.open(name, _FLAGS, dir_fd=parent)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
                    raise
                raise NotMerged("it changes") from None
        try:
            data = _read(os.dup(fd))
            xattrs = _xattrs(fd)
            now = os.fstat(fd)
        finally:
            os.close(fd)
        if not os.path.samestat(now, st) or now.st_ctime_ns != st.st_ctime_ns:
            raise NotMerged("it changes")
        return Text(data, st.st_mode, st.st_uid, st.st_gid, xattrs)

    def _of_view(self, change: Change, new: Version, ours: Text) -> Text:
        """The view's file, with what its upper cannot hold of the target's."""
        data = _read(new.open())
        uid, gid = (new.uid, new.gid) if "owner" in change.what else (ours.uid, ours.gid)
        xattrs = {**self._comparison.xattrs(new, of_new=True)}
        for name in change.kept:
            if name in ours.xattrs:
                xattrs[name] = ours.xattrs[name]
        return Text(data, new.mode, uid, gid, xattrs)


def make(text: Text, fd: int) -> None:
    """Fill an empty file. Raises: OSError."""
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(text.data)
    st = os.fstat(fd)
    if (text.uid, text.gid) != (st.st_uid, st.st_gid):
        os.chown(fd, text.uid, text.gid)
    present = _xattrs(fd)
    for name in present.keys() & {*ACLS} - text.xattrs.keys():
        os.removexattr(fd, name)
    for name, value in text.xattrs.items():
        if present.get(name) != value:
            os.setxattr(fd, name, value)
    if os.fstat(fd).st_mode != text.mode:
        os.fchmod(fd, stat.S_IMODE(text.mode))


def _one(what: str, base: T, ours: T, theirs: T) -> T:
    """The side that has changed something, or both if they have done the same. Raises: NotMerged."""
    if ours == theirs or theirs == base:
        return ours
    if ours == base:
        return theirs
    raise NotMerged(f"both have changed {what}")


def _described(overlap: threeway.Overlap) -> str:
    first, last = overlap.first, overlap.last
    if last < first:
        return f"both have changed something before line {first}"
    return f"both have changed line{f's {first} to {last}' if last > first else f' {first}'}"


def _read(fd: int) -> bytes:
    """The text that a file holds, and close it. Raises: NotMerged, OSError."""
    with os.fdopen(fd, "rb") as file:
        data = file.read(originals.MOST + 1)
    if not originals.is_text(data):
        raise NotMerged("it is no text of up to 1 MiB")
    return data


def _xattrs(fd: int) -> dict[bytes, bytes]:
    path = b"/proc/self/fd/%d" % fd
    found = {}
    for name in xattr_names(path):
        value = attributes.xattr_or_none(path, name)
        if value is not None and not name.startswith(OVERLAY_PREFIXES):
            found[name] = value
    return found
