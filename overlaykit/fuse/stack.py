"""Opening the layers of a mount, so that nothing can change or block what the daemon reads.

Each lower is taken as a private clone of its mount, read-only: then even a daemon gone wrong cannot write into it, and
a lower that contains the mountpoint does not contain the mount, so the daemon never walks into itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import os
import stat
from typing import TYPE_CHECKING, Final

from overlaykit import _native, mountinfo
from overlaykit.errors import Error
from overlaykit.fuse.reader import Reader
from overlaykit.overlay import overrides
from overlaykit.overlay.disk import Unfit
from overlaykit.overlay.filesystem import Filesystem, OpenedLayer, Options
from overlaykit.overlay.owners import Ids, Owners, Range, overflow_id, unmapped

if TYPE_CHECKING:
    from collections.abc import Iterable

    from overlaykit.fuse.spec import IdSpec, LayerSpec, MountSpec

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_BENEATH: Final = _native.RESOLVE_BENEATH | _native.RESOLVE_NO_SYMLINKS
_CLONE: Final = _native.OPEN_TREE_CLONE | _native.OPEN_TREE_CLOEXEC
_MASK_OPTIONS: Final = "mode=0555,size=4k,nr_inodes=1"


class LayerUnusable(Error):
    message = "layer {0}: {1}: give a directory that can be read"


class UpperUnusable(Error):
    message = (
        "upper {0}: {1}: give a directory that can be written to, on a file system with extended "
        "attributes"
    )


class UpperUnfit(Error):
    message = "upper {0}: {1}: {2}"


class PermissionsElsewhere(Error):
    message = (
        "upper {0}: it holds files made without xattr_permissions, which could pretend anything: "
        "give an empty one"
    )


class UpperAndWorkApart(Error):
    message = (
        "upper {0} and work {1} are on different file systems: choose a work directory on the "
        "upper's"
    )


class UpperInUse(Error):
    """Its second argument is the pid of the daemon that holds it, 0 where that cannot be seen."""

    message = (
        "upper {0} is in use by another view or mount: end that one first, or choose another upper"
    )


class UpperAndWorkOverlap(Error):
    message = "upper {0} and work {1} lie in one another: choose a work directory beside the upper"


class WorkNotEmpty(Error):
    message = "work {0}: holds {1}, which is no work of a mount: choose an empty directory"


class LowerInsideUpper(Error):
    message = (
        "lower {0} lies inside {1}, where changes go: choose one outside of it, or a lower would "
        "be written to"
    )


class UpperInsideLower(Error):
    message = (
        "upper {0} lies inside the lower {1}: choose one outside of it, or what is written would "
        "show in both"
    )


class TargetInsideLower(Error):
    message = (
        "mountpoint {0} lies inside the lower {1}: as an ordinary user, choose one outside of it"
    )


def open_filesystem(spec: MountSpec) -> Filesystem:
    """The stack of a spec, opened. Raises Error for what the user can mend, OSError for the rest."""
    with contextlib.ExitStack() as undo:
        _check_apart(spec)
        lowers = []
        for layer in spec.layers:
            lower = _open_lower(spec, layer)
            undo.callback(os.close, lower.fd)
            lowers.append(lower)
        upper = work = None
        if spec.upper is not None:
            assert spec.work is not None
            upper = OpenedLayer(
                _open_writable(spec.upper), spec.upper, mounted_in=_mounted_in(spec.upper)
            )
            undo.callback(os.close, upper.fd)
            work = OpenedLayer(_open_writable(spec.work), spec.work)
            undo.callback(os.close, work.fd)
            upper = dataclasses.replace(upper, lock=_lock(spec.upper))
            undo.callback(os.close, upper.lock)
        given = spec.options
        options = Options(
            volatile=given.volatile,
            userxattr=given.userxattr,
            redirect_dir=given.redirect_dir,
            whiteout=None if given.whiteout == "auto" else given.whiteout,
            index=given.index,
            uuid=given.uuid,
            override=_OVERRIDES[given.xattr_permissions],
            reader=None if os.geteuid() == 0 else Reader(),
            owners=Owners(
                users=_ids(spec, "uid", given.users), groups=_ids(spec, "gid", given.groups)
            ),
        )
        try:
            filesystem = Filesystem(lowers, upper, work, options)
        except Unfit as error:
            raise UpperUnfit(spec.upper, error.strerror, error.remedy) from error
        except OSError as error:
            if error.errno == errno.ENOTEMPTY:
                raise PermissionsElsewhere(spec.upper) from error
            if error.errno == errno.EXDEV:
                raise UpperAndWorkApart(spec.upper, spec.work) from error
            if spec.upper is None:
                raise
            raise UpperUnusable(spec.upper, error.strerror) from error
        undo.pop_all()
        return filesystem


_OVERRIDES: Final = (None, overrides.SECURITY, overrides.CONTAINERS)


def _ids(spec: MountSpec, kind: str, given: IdSpec) -> Ids:
    in_lower, in_upper = unmapped(kind) if spec.squash_unmapped else (-1, -1)
    return Ids(
        everybody=given.squash_to,
        ranges=tuple(
            Range(disk=part.host, shown=part.container, count=part.count) for part in given.mapping
        ),
        unmapped=in_lower,
        unmapped_in_upper=in_upper,
        overflow=overflow_id(kind),
    )


def _open_lower(spec: MountSpec, layer: LayerSpec) -> OpenedLayer:
    try:
        if layer.recursive:
            return OpenedLayer(
                _open_tree(spec, layer), layer.path, mounted_in=_mounted_in(layer.path)
            )
        try:
            fd = _native.open_tree(_native.AT_FDCWD, layer.path, _CLONE)
        except OSError as error:
            # Without privileges, or (EINVAL) where mounts below are locked together by a user namespace.
            if error.errno not in (errno.EPERM, errno.EINVAL):
                raise
            if spec.target is not None and _contains(layer.path, spec.target):
                raise TargetInsideLower(spec.target, layer.path) from error
            return OpenedLayer(
                os.open(layer.path, _DIRECTORY),
                layer.path,
                mounted_in=_mounted_in(layer.path),
            )
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            os.close(fd)
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), layer.path)
        return OpenedLayer(_read_only(fd, recursive=False), layer.path, mounted_in=frozenset())
    except OSError as error:
        raise LayerUnusable(layer.path, error.strerror) from error


def _open_tree(spec: MountSpec, layer: LayerSpec) -> int:
    """A layer with the mounts below it, attached where only this process sees it, without what is masked."""
    assert spec.stage is not None, "only a detached mount has room for a tree of mounts"
    tree = _native.open_tree(_native.AT_FDCWD, layer.path, _CLONE | _native.AT_RECURSIVE)
    try:
        _native.mount_setattr(
            tree,
            b"",
            _native.AT_EMPTY_PATH | _native.AT_RECURSIVE,
            propagation=_native.MS_PRIVATE,
        )
        _native.move_mount(tree, b"", _native.AT_FDCWD, spec.stage, _native.MOVE_MOUNT_F_EMPTY_PATH)
        for path in layer.masks:
            _mask(tree, os.path.relpath(path, layer.path))
    except BaseException:
        os.close(tree)
        raise
    return _read_only(tree, recursive=True)


def _mask(tree: int, path: str) -> None:
    """Cover a directory by an empty one; what is not there, or is a file, needs none.

    It may be the root of a file system that answers nobody, or not us: it is not asked for anything.
    """
    try:
        fd = _native.openat2(tree, path, _DIRECTORY, 0, _BENEATH)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
            return
        raise
    try:
        flags = _native.MS_NOSUID | _native.MS_NODEV | _native.MS_NOEXEC | _native.MS_RDONLY
        _native.mount("mask", f"/proc/self/fd/{fd}", "tmpfs", flags, _MASK_OPTIONS)
    finally:
        os.close(fd)


def _read_only(mount: int, *, recursive: bool) -> int:
    flags = _native.AT_EMPTY_PATH | (_native.AT_RECURSIVE if recursive else 0)
    try:
        _native.mount_setattr(mount, b"", flags, attr_set=_native.MOUNT_ATTR_RDONLY)
    except BaseException:
        os.close(mount)
        raise
    return mount


def _open_writable(path: str) -> int:
    try:
        fd = os.open(path, _DIRECTORY)
    except OSError as error:
        raise UpperUnusable(path, error.strerror) from error
    own = f"/proc/self/fd/{fd}"
    if not os.access(own, os.W_OK | os.X_OK):
        read_only = os.statvfs(own).f_flag & os.ST_RDONLY
        os.close(fd)
        raise UpperUnusable(path, os.strerror(errno.EROFS if read_only else errno.EACCES))
    return fd


def _lock(upper: str) -> int:
    """Keep other daemons out, as the kernel's overlayfs does, while the descriptor it returns is open."""
    fd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise UpperInUse(upper, _lock_owner(os.stat(upper).st_ino)) from error
    return fd


def _lock_owner(inode: int) -> int:
    """The process that holds an exclusive flock(2) on a file, by /proc/locks (proc_locks(5)); 0 if none is seen."""
    with contextlib.suppress(OSError), open("/proc/locks", encoding="ascii") as file:
        for line in file:
            _, kind, _, access, owner, place, *_ = line.split()
            if (kind, access) == ("FLOCK", "WRITE") and place.endswith(f":{inode}"):
                return max(0, int(owner))
    return 0


def _check_apart(spec: MountSpec) -> None:
    """Refuse directories that lie in one another: what goes into one would change, or clear away, another's files."""
    if spec.upper is None or spec.work is None:
        return
    if _contains(spec.upper, spec.work) or _contains(spec.work, spec.upper):
        raise UpperAndWorkOverlap(spec.upper, spec.work)
    for path in (spec.upper, spec.work):
        for layer in spec.layers:
            if _contains(path, layer.path):
                raise LowerInsideUpper(layer.path, path)
            if _contains(layer.path, path) and not _is_masked(path, layer.masks):
                raise UpperInsideLower(path, layer.path)
    # What a work directory holds is cleared away: it must be nothing but our own, or the kernel's.
    foreign = sorted(set(os.listdir(spec.work)) - {"work", "index"})
    if foreign:
        raise WorkNotEmpty(spec.work, foreign[0])


def _is_masked(path: str, masks: Iterable[str]) -> bool:
    """By the names alone: a mask may be the root of a file system that does not answer."""
    real = os.path.realpath(path)
    return any(real == mask or mountinfo.below(real, mask) for mask in masks)


def _mounted_in(path: str) -> frozenset[bytes]:
    """In which directories below `path` there are mounts on something, by their names alone: some may not answer."""
    real = os.path.realpath(path)
    mountpoints = (mount.mountpoint for mount in mountinfo.current())
    directories = {os.path.dirname(one) for one in mountpoints if mountinfo.below(one, real)}
    return frozenset(
        b"" if one == real else os.fsencode(os.path.relpath(one, real)) for one in directories
    )


def _contains(directory: str, path: str) -> bool:
    """Whether `path` is `directory` or lies below it, also where another mount of either hides that from the names."""
    try:
        wanted = os.stat(directory)
        current = os.path.realpath(path)
        while not os.path.samestat(os.stat(current), wanted):
            if current == "/":
                return False
            current = os.path.dirname(current)
    except FileNotFoundError:
        return False  # opening it says so
    return True
