"""Open the layers of a mount.

Each lower is a private read-only clone of its mount: the daemon cannot write into it, and a lower that contains the
mountpoint does not contain the mount, so the daemon never waits for itself.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import stat
from typing import TYPE_CHECKING, Final

from overlaykit import _native, attributes, mountinfo, privilege
from overlaykit.beneath import BENEATH
from overlaykit.errors import Error
from overlaykit.fuse.directories import LayerUnusable, MountTable, UpperUnusable, real_path
from overlaykit.overlay import overrides
from overlaykit.overlay.disk import Unfit
from overlaykit.overlay.filesystem import Filesystem
from overlaykit.overlay.opened import OpenedLayer
from overlaykit.overlay.owners import Ids, Owners, Range, unmapped
from overlaykit.overlay.stack import MergeOptions
from overlaykit.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from overlaykit.fuse.directories import Directories
    from overlaykit.fuse.spec import IdSpec, LayerSpec, MountSpec

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_CLONE: Final = _native.OPEN_TREE_CLONE | _native.OPEN_TREE_CLOEXEC
_NO_CLONE: Final = (errno.EPERM, errno.EINVAL, errno.ENOSYS)
_OF_WORK: Final = {"work", "index", "originals"}
_NEVER_CHANGING: Final = frozenset((0x73717368, 0xE0F5E1E2, 0x9660, 0x28CD3D45))
"""squashfs, EROFS, ISO 9660 and cramfs (include/uapi/linux/magic.h)."""
_MASK_OPTIONS: Final = "mode=0555,size=4k,nr_inodes=1"


class UpperUnfit(Error):
    message = "upper {0}: {1}: {2}"


class UpperOfViewUnfit(Error):
    message = "upper {0}: {1}: choose one elsewhere"


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


class TooFewDescriptors(Error):
    message = (
        "the limit of {0} open files leaves too few for a mount: raise it with 'ulimit -n 1024'"
    )


class UpperInUse(Error):
    """The second argument is the pid of the daemon that has locked it, 0 if that cannot be seen."""

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


class TargetInsideLower(Error):
    message = (
        "mountpoint {0} lies inside the lower {1}: as an ordinary user, choose one outside of it"
    )


class TargetInsideUpper(Error):
    message = "mountpoint {0} lies inside {1}, where changes go: choose one outside of it"


def open_filesystem(spec: MountSpec, directories: Directories, target: int = -1) -> Filesystem:
    """Open the layers of a spec. `target`: the directory to mount on, or -1.

    Raises: Error if the user can correct it, else OSError.
    """
    with contextlib.ExitStack() as undo:
        mounts = MountTable()
        writable = []
        for path in (spec.upper, spec.work):
            if path is not None:
                writable.append(_open_writable(directories, path, mounts))
                undo.callback(os.close, writable[-1].fd)
        lowers = []
        for number, layer in enumerate(spec.layers):
            tree = "" if spec.stage is None else os.path.join(spec.stage, tree_name(number))
            lowers.append(_open_lower(spec, layer, directories, mounts, writable, target, tree))
            undo.callback(os.close, lowers[-1].fd)
            if layer.frozen:
                index = -1 if layer.index is None else _open_index(layer.index, directories)
                lowers[-1] = lowers[-1]._replace(frozen=True, index_fd=index)
                if index >= 0:
                    undo.callback(os.close, index)
        upper, work = writable or (None, None)
        if upper is not None and work is not None:
            _check_writable(mounts, upper, work, spec.target, target)
            upper = upper._replace(lock=_lock(upper))
            undo.callback(os.close, upper.lock)
        given = spec.options
        options = MergeOptions(
            volatile=given.volatile,
            userxattr=given.userxattr,
            redirect_dir=given.redirect_dir,
            whiteout=None if given.whiteout == "auto" else given.whiteout,
            index=given.index,
            metacopy=given.metacopy,
            verity=given.verity,
            uuid=given.uuid,
            override=_OVERRIDES[given.xattr_permissions],
            limit=given.limit,
            reader=None if privilege.CAP_DAC_OVERRIDE in privilege.capabilities() else Reader(),
            owners=Owners(
                users=_ids(spec, "uid", given.users), groups=_ids(spec, "gid", given.groups)
            ),
        )
        try:
            filesystem = Filesystem(lowers, upper, work, options)
        except Unfit as error:
            # A view has no mount options to suggest.
            if spec.target is None:
                raise UpperOfViewUnfit(spec.upper, error.strerror) from error
            raise UpperUnfit(spec.upper, error.strerror, error.remedy) from error
        except OSError as error:
            if error.errno == errno.EMFILE:
                raise _too_few_descriptors() from error
            if error.errno == errno.ENOTEMPTY:
                raise PermissionsElsewhere(spec.upper) from error
            if error.errno == errno.EXDEV:
                raise UpperAndWorkApart(spec.upper, spec.work) from error
            if spec.upper is None:
                raise
            raise UpperUnusable(spec.upper, error.strerror) from error
        undo.pop_all()
        return filesystem


def _too_few_descriptors() -> TooFewDescriptors:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return TooFewDescriptors(limit)


def _layer_refused(path: str, error: OSError) -> Error:
    if error.errno == errno.EMFILE:
        return _too_few_descriptors()
    return LayerUnusable(path, error.strerror)


_OVERRIDES: Final = (None, overrides.SECURITY, overrides.CONTAINERS)


def _ids(spec: MountSpec, kind: str, given: IdSpec) -> Ids:
    # The kernel refuses writes to a file whose owner the namespace does not map: such owners are squashed.
    ids = (spec.options.users, spec.options.groups)
    squashes = spec.squash_unmapped or any(one.squash_to is not None for one in ids)
    overflow = privilege.overflow_id(kind)
    in_lower, in_upper = unmapped(overflow, privilege.extents(kind)) if squashes else (-1, -1)
    return Ids(
        squash_to=given.squash_to,
        ranges=tuple(
            Range(disk=part.host, shown=part.container, count=part.count) for part in given.mapping
        ),
        unmapped=in_lower,
        unmapped_in_upper=in_upper,
        overflow=overflow,
    )


def _open_lower(
    spec: MountSpec,
    layer: LayerSpec,
    directories: Directories,
    mounts: MountTable,
    writable: Sequence[OpenedLayer],
    target: int,
    tree: str,
) -> OpenedLayer:
    try:
        given = directories.open(layer.path)
    except OSError as error:
        raise _layer_refused(layer.path, error) from error
    try:
        for other in writable:
            if mounts.contains(other.fd, given):
                raise LowerInsideUpper(layer.path, other.path)
        if layer.recursive:
            return OpenedLayer(
                _open_tree(tree, layer, given),
                layer.path,
                mounted_in=mounts.below(given),
                live=layer.live,
            )
        live = layer.live and attributes.file_system_of(given) not in _NEVER_CHANGING
        maps_owners = spec.options.users.mapping or spec.options.groups.mapping
        idmapped = bool(maps_owners) and _is_idmapped(given)
        clone = _clone(given)
        if clone >= 0:
            return OpenedLayer(
                _read_only(clone, recursive=False),
                layer.path,
                mounted_in=frozenset(),
                idmapped=idmapped,
                live=live,
            )
        if target >= 0 and mounts.contains(given, target):
            raise TargetInsideLower(spec.target, layer.path)
        return OpenedLayer(
            os.dup(given),
            layer.path,
            mounted_in=mounts.below(given),
            idmapped=idmapped,
            live=live,
        )
    except OSError as error:
        raise _layer_refused(layer.path, error) from error
    finally:
        os.close(given)


def _open_index(path: str, directories: Directories) -> int:
    try:
        return directories.open(path)
    except OSError as error:
        raise _layer_refused(path, error) from error


def _is_idmapped(directory: int) -> bool:
    """Whether a directory lies on an idmapped mount."""
    number = attributes.statx(directory, b"", _native.AT_EMPTY_PATH, _native.STATX_MNT_ID).mnt_id
    return any(mount.idmapped for mount in mountinfo.current() if mount.id == number)


def _clone(directory: int) -> int:
    """Clone the mount that a directory lies on, from that directory down. Returns -1 if it cannot be cloned.

    It cannot without privileges, if a user namespace locks mounts below together, and under seccomp filters.
    """
    try:
        return _native.open_tree(directory, b"", _CLONE | _native.AT_EMPTY_PATH)
    except OSError as error:
        if error.errno not in _NO_CLONE:
            raise
    # EINVAL: it was opened in another mount namespace. This one has a copy of the mount.
    try:
        clone = _native.open_tree(_native.AT_FDCWD, real_path(directory), _CLONE)
    except OSError:
        return -1
    if os.path.samestat(os.fstat(clone), os.fstat(directory)):
        return clone
    os.close(clone)
    return -1


def tree_name(number: int) -> str:
    """The directory on the stage for a layer with the mounts below it. `number`: its place in the spec."""
    return f"layer-{number}"


def _open_tree(place: str, layer: LayerSpec, directory: int) -> int:
    """Clone a layer with the mounts below it, attach it to a new directory, and mask paths in it."""
    assert place, "only a detached mount has room for a tree of mounts"
    tree = _native.open_tree(directory, b"", _CLONE | _native.AT_EMPTY_PATH | _native.AT_RECURSIVE)
    try:
        _native.mount_setattr(
            tree,
            b"",
            _native.AT_EMPTY_PATH | _native.AT_RECURSIVE,
            0,
            0,
            _native.MS_PRIVATE,
        )
        os.mkdir(place)
        _native.move_mount(tree, b"", _native.AT_FDCWD, place, _native.MOVE_MOUNT_F_EMPTY_PATH)
        for path in layer.masks:
            _mask(tree, os.path.relpath(path, layer.path))
    except BaseException:
        os.close(tree)
        raise
    return _read_only(tree, recursive=True)


def _mask(tree: int, path: str) -> None:
    """Cover a directory by an empty one. Does nothing if it is missing or a file.

    Sends no request to its file system, which may not answer.
    """
    try:
        fd = _native.openat2(tree, path, _DIRECTORY, 0, BENEATH)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
            return
        raise
    try:
        flags = _native.MS_NOSUID | _native.MS_NODEV | _native.MS_NOEXEC | _native.MS_RDONLY
        # Missing: the end of another view has just removed the directory.
        with contextlib.suppress(FileNotFoundError):
            _native.mount("mask", f"/proc/self/fd/{fd}", "tmpfs", flags, _MASK_OPTIONS)
    finally:
        os.close(fd)


def _read_only(mount: int, *, recursive: bool) -> int:
    flags = _native.AT_EMPTY_PATH | (_native.AT_RECURSIVE if recursive else 0)
    try:
        _native.mount_setattr(mount, b"", flags, _native.MOUNT_ATTR_RDONLY)
    except BaseException:
        os.close(mount)
        raise
    return mount


def _open_writable(directories: Directories, path: str, mounts: MountTable) -> OpenedLayer:
    try:
        fd = directories.open(path)
    except OSError as error:
        if error.errno == errno.EMFILE:
            raise _too_few_descriptors() from error
        raise UpperUnusable(path, error.strerror) from error
    own = f"/proc/self/fd/{fd}"
    if not os.access(own, os.W_OK | os.X_OK):
        read_only = os.statvfs(own).f_flag & os.ST_RDONLY
        if read_only or not _is_closed_to_its_owner(fd):
            os.close(fd)
            raise UpperUnusable(path, os.strerror(errno.EROFS if read_only else errno.EACCES))
    return OpenedLayer(fd, path, mounted_in=mounts.below(fd))


def _is_closed_to_its_owner(fd: int) -> bool:
    """Whether only the mode of a directory denies access to its owner: a program in a mount may have set it so."""
    st = os.fstat(fd)
    return st.st_uid == os.geteuid() and st.st_mode & stat.S_IRWXU != stat.S_IRWXU


def _lock(upper: OpenedLayer) -> int:
    """Lock the upper against other daemons, as the kernel's overlayfs does, until the returned descriptor is closed."""
    path, flags = f"/proc/self/fd/{upper.fd}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        fd = os.open(path, flags)
    except PermissionError:
        fd = Reader().open(lambda: os.open(path, flags))
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        inode = os.fstat(fd).st_ino
        os.close(fd)
        raise UpperInUse(upper.path, _lock_owner(inode)) from error
    return fd


def _lock_owner(inode: int) -> int:
    """The pid of the process with an exclusive flock(2) on a file, from /proc/locks (proc_locks(5)); 0 if unknown."""
    with contextlib.suppress(OSError), open("/proc/locks", encoding="ascii") as file:
        for line in file:
            _, kind, _, access, owner, place, *_ = line.split()
            if (kind, access) == ("FLOCK", "WRITE") and place.endswith(f":{inode}"):
                return max(0, int(owner))
    return 0


def _check_writable(
    mounts: MountTable, upper: OpenedLayer, work: OpenedLayer, target_path: str | None, target: int
) -> None:
    """Refuse directories that lie in one another: changes in one would change or remove files of the other."""
    if mounts.contains(upper.fd, work.fd) or mounts.contains(work.fd, upper.fd):
        raise UpperAndWorkOverlap(upper.path, work.path)
    for one in (upper, work):
        # The layer would contain the mount, and the daemon would wait for itself. A mount on the layer itself is fine.
        on_it = target >= 0 and os.path.samestat(os.fstat(target), os.fstat(one.fd))
        if target >= 0 and not on_it and mounts.contains(one.fd, target):
            raise TargetInsideUpper(target_path, one.path)
    # The work directory is cleared: it may only hold work of overlaykit or the kernel's overlayfs.
    foreign = sorted(set(os.listdir(f"/proc/self/fd/{work.fd}")) - _OF_WORK)
    if foreign:
        raise WorkNotEmpty(work.path, foreign[0])
