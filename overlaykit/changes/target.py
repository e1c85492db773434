"""What the target of an application has, and whether that is what the view began with."""

from __future__ import annotations

import functools
import os
import stat
from dataclasses import dataclass

from overlaykit import _native, attributes, handles, mountinfo
from overlaykit.changes.contents import same_contents
from overlaykit.changes.paths import is_below, join, parent
from overlaykit.changes.steps import Seen
from overlaykit.errors import Error
from overlaykit.overlay.began import Began, latest
from overlaykit.overlay.markers import OVERLAY_PREFIXES, origin_link_count, xattr_names
from overlaykit.reader import opened_past_modes, past_modes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping
    from typing import Final, TypeAlias

    from overlaykit.changes.model import Change, Version
    from overlaykit.changes.read import Comparison
    from overlaykit.changes.steps import Places

LeftElsewhere: TypeAlias = "Callable[[], Container[int]]"

_FIXED: Final = {0x10: ("immutable", "i"), 0x20: ("append-only", "a")}
"""STATX_ATTR_IMMUTABLE and STATX_ATTR_APPEND (linux/stat.h): names in such a directory cannot be changed."""


_OVERLAYFS: Final = 0x794C7630
"""OVERLAYFS_SUPER_MAGIC of linux/magic.h"""


class OnOtherFileSystem(Error):
    message = "{0}: a file system is mounted there, which stays: unmount it first, or apply other paths alone"


class Fixed(Error):
    message = (
        "{0}: this directory is {1}, and what is in it cannot be changed: 'chattr -{2}' it first"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What the target was when the view began.

    `is_lower`: the target is the lower itself: a file has changed if its change time is not the one that its copy in
    the upper has recorded, or, without a record, if that is later than `began` says. Otherwise the target is a copy of
    the lowers, and each file is compared with theirs.
    `root`: what the target itself was before the state directory was made in it.
    `written`: inode numbers, and the time until when overlaykit itself wrote them.
    `left_elsewhere`: the inode numbers of what has left its name outside of the target.
    `originals`: the directory that may hold what files of the lower were. `merges`: texts are merged from these.
    """

    root: os.stat_result
    is_lower: bool
    began: Began
    written: Mapping[int, int]
    left_elsewhere: LeftElsewhere = frozenset
    originals: str
    merges: bool


class Target:
    """The target's files. `changed_inodes`: the numbers of all files that the view has changed."""

    def __init__(
        self,
        comparison: Comparison,
        places: Places,
        base: Base,
        changed_inodes: Container[int],
    ) -> None:
        self._comparison = comparison
        self._places = places
        self._base = base
        self._changed_inodes = changed_inodes
        self._device = os.fstat(places.roots["target"]).st_dev
        self._mounts = _mounts_below(places.roots["target"])
        self.is_overlay = is_overlay(places)
        """Whether it is on the kernel's overlayfs, as the root of a container is.

        That renames no directories of its lowers (EXDEV), and gives a file of theirs with several names a number of its
        own when it is renamed.
        """

    def stay_on_device(self, path: bytes, st: os.stat_result) -> None:
        if st.st_dev != self._device:
            raise OnOtherFileSystem(os.fsdecode(path))

    def refuse_mounts(self, place: bytes, *, below: bool) -> None:
        """Refuse to rename a mountpoint of the target; with `below` also what holds one."""
        for mount in self._mounts:
            if mount == place or (below and is_below(mount, place)):
                raise OnOtherFileSystem(os.fsdecode(mount))

    def refuse_fixed(self, place: bytes) -> None:
        """Refuse to change names in a directory in which chattr(1) forbids it. Raises: Fixed."""
        fd = self._places.open("target", os.fsdecode(place))
        try:
            refuse_fixed(fd)
        finally:
            os.close(fd)

    def has_changed(self, change: Change, st: os.stat_result, place: bytes | None) -> bool:
        """Whether the target's file is not what the view began with."""
        old = change.old if change.old_path == place else None
        if old is None or place is None:
            return True
        if self._base.is_lower:
            return self.changed_later(st if place else self._base.root, change)
        return not self.is_equal(old, place, st)

    def changed_later(self, st: os.stat_result, change: Change | None = None) -> bool:
        """Whether a file of the layer is another one than when it was copied, or else since the view began."""
        if st.st_ctime_ns <= max(
            self._base.began.restored_ns, self._base.written.get(st.st_ino, 0)
        ):
            return False
        recorded = None if change is None else self._recorded_ns(change, st)
        if recorded is not None:
            return st.st_ctime_ns != recorded
        return latest(st.st_ctime_ns) > self._base.began.since_ns

    def knows(self, change: Change, st: os.stat_result) -> bool:
        """Whether something is known of what the target was when the view began."""
        base = self._base
        return (
            not base.is_lower
            or base.began.since_ns > 0
            or self._recorded_ns(change, st) is not None
        )

    def _recorded_ns(self, change: Change, st: os.stat_result) -> int | None:
        """The change time that the layer's file had when the view copied it.

        Returns: -1 if another file was copied; None if nothing is recorded.
        """
        new = change.new
        if new is None or not new.layer_dir.layer.of_view:
            return None
        try:
            origin = self._comparison.new.origin(new)
        except OSError:
            return None
        number = None if origin is None else origin.inode_number()
        if origin is None or number is None:
            return None
        if number == st.st_ino:
            return origin.changed_ns
        # In the view the copy of one file may have got the name of another one.
        return None if number in self._changed_inodes else -1

    def has_changed_below(
        self,
        change: Change,
        place: bytes,
        held: dict[str, os.stat_result],
        is_leaving: Callable[[str], bool],
    ) -> bool:
        """Whether the target's directory does not hold what the view began with: `held`, by paths from there.

        `is_leaving`: whether a path leaves its name, so that what is below it does not count.
        """
        if self._base.is_lower:
            return any(map(self.changed_later, held.values()))
        if change.old is None or change.old_path != place or not change.old.is_directory:
            return True
        expected: dict[str, Version] = {}
        for path, version in self._comparison.held(change):
            above = path
            while above and not is_leaving(os.fsdecode(above)):
                above = parent(above)
            if not above:
                expected[os.fsdecode(path)] = version
        if expected.keys() != held.keys():
            return True
        return any(
            not self.is_equal(version, join(place, os.fsencode(path)), held[path])
            for path, version in expected.items()
        )

    def is_equal(self, version: Version, place: bytes, st: os.stat_result) -> bool:
        """Whether the target has the same file at a place, but for its time of modification."""
        same = (version.mode, version.uid, version.gid) == (st.st_mode, st.st_uid, st.st_gid)
        if not same or (not version.is_directory and version.size != st.st_size):
            return False
        if version.device != (st.st_rdev if version.device else 0):
            return False
        with self._places.parent("target", os.fsdecode(place)) as (fd, name):
            of_new = version.layer_dir.layer.of_view
            found = past_modes(lambda: _xattrs(fd, name))
            if self._comparison.xattrs(version, of_new=of_new) != found:
                return False
            if version.is_directory or not (version.is_regular or stat.S_ISLNK(version.mode)):
                return True
            if stat.S_ISLNK(version.mode):
                target = past_modes(lambda: os.readlink(name, dir_fd=fd))
                return os.fsencode(target) == version.readlink()
            return same_contents(version, _Beside(fd, name, st))  # type: ignore[arg-type]

    def origin_is_gone(self, new: Version, inodes: Container[int]) -> bool:
        """Whether a file was copied from one that the layer has under no name any more, `inodes` apart."""
        markers = self._comparison.new.markers
        try:
            if not markers.has_origin(new.attribute_names()):
                return False
            origin = self._comparison.new.origin(new)
        except OSError:
            return False
        if origin is None:
            return False
        if new.is_directory or new.stat.st_nlink == 1:
            # What the view itself has moved is among the files that leave their names, in this target or in another.
            number = origin.inode_number()
            if number is not None and number not in inodes:
                return number not in self._base.left_elsewhere()
        if not self._opens_handles:
            return False
        return origin_link_count(self._places.roots["target"], origin) in (None, 0)

    @functools.cached_property
    def _opens_handles(self) -> bool:
        """Whether this process may open files by their handles: CAP_DAC_READ_SEARCH, in the initial user namespace."""
        root = self._places.roots["target"]
        try:
            found = handles.of_name(root, b"", _native.AT_EMPTY_PATH)
            os.close(handles.opened(root, found.type, found.handle, os.O_PATH))
        except OSError:
            return False
        return True

    def stat(self, path: bytes) -> os.stat_result:
        st = self.stat_or_none(path)
        if st is None:
            raise FileNotFoundError(2, os.strerror(2), os.fsdecode(path))
        return st

    def stat_or_none(self, path: bytes) -> os.stat_result | None:
        if not path:
            return os.fstat(self._places.roots["target"])
        return self._places.stat("target", os.fsdecode(path))

    @staticmethod
    def seen(st: os.stat_result, digest: str) -> Seen:
        seen = Seen.of(st, digest)
        if stat.S_ISDIR(st.st_mode) or st.st_nlink > 1:  # earlier steps may touch it
            return seen._replace(ctime_ns=0)
        return seen


def is_overlay(places: Places) -> bool:
    """Whether the target is on the kernel's overlayfs."""
    return attributes.file_system_of(places.roots["target"]) == _OVERLAYFS


def refuse_fixed(directory: int) -> None:
    """Refuse to change names in a directory in which chattr(1) forbids it. Raises: Fixed, OSError."""
    bits = attributes.statx(directory, "", _native.AT_EMPTY_PATH, 0).attributes
    for bit, (what, option) in _FIXED.items():
        if bits & bit:
            raise Fixed(os.readlink(f"/proc/self/fd/{directory}"), what, option)


def _mounts_below(target: int) -> list[bytes]:
    """The mountpoints below an open directory, from there, also those of files and of the same file system."""
    top = os.readlink(f"/proc/self/fd/{target}")
    return [
        os.fsencode(os.path.relpath(mount.mountpoint, top))
        for mount in mountinfo.visible(mountinfo.current())
        if mountinfo.below(mount.mountpoint, top)
    ]


def _xattrs(fd: int, name: str) -> dict[bytes, bytes]:
    path = f"/proc/self/fd/{fd}/{name}"
    found = {}
    for attribute in xattr_names(os.fsencode(path), follow=False):
        value = attributes.xattr_or_none(path, attribute, follow_symlinks=False)
        if value is not None and not attribute.startswith(OVERLAY_PREFIXES):
            found[attribute] = value
    return found


class _Beside:
    """The target's file, for a comparison of contents."""

    data = None

    def __init__(self, fd: int, name: str, st: os.stat_result) -> None:
        self._fd, self._name = fd, name
        self.stat = st

    def open(self) -> int:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return opened_past_modes(lambda: os.open(self._name, flags, dir_fd=self._fd))
