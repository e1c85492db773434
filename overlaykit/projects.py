"""Project quotas: limits of what directories take together, kept by their file system. For root only.

A project is a number that a directory hands down to all that is made in it. Numbers from `_FIRST` on are ours. Without
a limit a project does nothing, and is forgotten with its last file.

Sources: quotactl(2); ioctl_xfs_fsgetxattr(2); include/uapi/linux/quota.h, dqblk_xfs.h and fs.h.
"""

from __future__ import annotations

import errno
import fcntl
import os

from overlaykit import _native, privilege
from overlaykit.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

_FIRST: Final = 1 << 31
"""Administrators and other programs count from 1."""
_TRIES: Final = 16

_PROJECTS: Final = 2
_GET_STATE: Final = ord("X") << 8 | 8
_GET_QUOTA: Final = 0x800007
_SET_QUOTA: Final = 0x800008
_LIMITS_KEPT: Final = 1 << 5
"""FS_QUOTA_PDQ_ENFD"""
_BLOCK_LIMITS: Final = 1
"""QIF_BLIMITS"""
_QUOTA: Final = "=8QI4x"
"""struct if_dqblk: limits hard and soft in KiB, bytes in use, the same of inodes, two times, what is valid."""
_ARGUMENT_BYTES: Final = 256
"""More than any of the calls writes."""
_STATE_VERSION: Final = b"\1"
"""Begins struct fs_quota_statv."""
_FLAGS_OFFSET: Final = 2

_GET_ATTRIBUTES: Final = 0x801C581F
_SET_ATTRIBUTES: Final = 0x401C5820
_ATTRIBUTES: Final = "=5I8s"
"""struct fsxattr: flags, extent size, count of extents, project, extent size of copies."""
_INHERITED: Final = 0x200
"""FS_XFLAG_PROJINHERIT"""

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def assign(directories: Sequence[str]) -> int | None:
    """Give directories of one file system a project, which `set_limit` limits.

    Returns: the project. None if their file system keeps no limits of projects, or if what they hold or the
    directories themselves belong to none of ours: only a limit from the beginning counts all.
    """
    opened: list[int] = []
    try:
        opened += (os.open(path, _DIRECTORY) for path in directories)
        return _assign(opened)
    except OSError:  # no quota, or no right to it: also in a user namespace
        return None
    finally:
        for fd in opened:
            os.close(fd)


def set_limit(path: str, project: int, size: int) -> None:
    """Limit what the directories of a project take together, to `size` bytes. Raises: OSError."""
    fd = os.open(path, _DIRECTORY)
    try:
        _set_limit(fd, project, size)
    finally:
        os.close(fd)


def hand_down(source: int, target: int) -> None:
    """Let what is made in one directory belong to the project of another, if that is one of ours. Raises: OSError."""
    try:
        project = _project(source)
    except OSError:  # its file system has none
        return
    if project >= _FIRST:
        _set_project(target, project)


def end_limit(path: str, expected: int | None = None) -> None:
    """End the limit of the directory's project, if it has one of ours, and the `expected` one. The project stays."""
    with suppress(OSError):
        fd = os.open(path, _DIRECTORY)
        try:
            project = _project(fd)
            if project >= _FIRST and expected in (None, project):
                _set_limit(fd, project, 0)
        finally:
            os.close(fd)


def heed_limits() -> None:
    """Have limits bind the calling thread, and the threads and children that it starts.

    ext4 lets a process with CAP_SYS_RESOURCE exceed them (ignore_hardlimit() in fs/quota/dquot.c).
    """
    from overlaykit import effective  # not at each start of a view

    effective.drop(privilege.CAP_SYS_RESOURCE)


def _assign(opened: Sequence[int]) -> int | None:
    import struct  # not at each start of a view

    state = _call(opened[0], _command(_GET_STATE), 0, _STATE_VERSION)
    (flags,) = struct.unpack_from("=H", state, _FLAGS_OFFSET)
    if not flags & _LIMITS_KEPT:
        return None
    found = {_project(fd) for fd in opened}
    if len(found) != 1:
        return None
    (project,) = found
    if project >= _FIRST:
        return project
    if project or any(os.listdir(fd) for fd in opened):
        return None
    project = _unused(opened[0])
    try:
        for fd in opened:
            _set_project(fd, project)
    except OSError:
        for fd in opened:
            with suppress(OSError):
                _set_project(fd, 0)
        raise
    return project


def _unused(fd: int) -> int:
    """A project without limits and files. No two directories begin their search at the same number, as a rule."""
    import struct  # not at each start of a view

    inode = os.fstat(fd).st_ino
    for number in range(inode, inode + _TRIES):
        project = _FIRST | number % (
            _FIRST - 1
        )  # the last number is no project (projid_valid() in the kernel)
        try:
            quota = struct.unpack_from(_QUOTA, _call(fd, _command(_GET_QUOTA), project))
        except OSError as error:
            if error.errno == errno.ENOENT:  # as XFS says
                return project
            raise
        if not any(quota[:6]):
            return project
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def _project(fd: int) -> int:
    """The project that a directory hands down; 0: none."""
    flags, _, _, project, _, _ = _attributes(fd)
    return project if flags & _INHERITED else 0


def _set_project(fd: int, project: int) -> None:
    import struct  # not at each start of a view

    flags, extent, count, _, copies, padding = _attributes(fd)
    flags = flags | _INHERITED if project else flags & ~_INHERITED
    given = struct.pack(_ATTRIBUTES, flags, extent, count, project, copies, padding)
    fcntl.ioctl(fd, _SET_ATTRIBUTES, given)


def _attributes(fd: int) -> tuple[int, int, int, int, int, bytes]:
    import struct  # not at each start of a view

    found: tuple[int, int, int, int, int, bytes] = struct.unpack(
        _ATTRIBUTES, fcntl.ioctl(fd, _GET_ATTRIBUTES, bytes(struct.calcsize(_ATTRIBUTES)))
    )
    return found


def _set_limit(fd: int, project: int, size: int) -> None:
    command, argument = limiting(size)
    _call(fd, command, project, argument)


def limiting(size: int) -> tuple[int, bytes]:
    """The command and the argument of quotactl_fd(2) that limit a project to `size` bytes; 0 ends a limit."""
    import struct  # not at each start of a view

    limits = struct.pack(_QUOTA, size >> 10, 0, 0, 0, 0, 0, 0, 0, _BLOCK_LIMITS)
    return _command(_SET_QUOTA), limits


def _command(number: int) -> int:
    """QCMD() of linux/quota.h."""
    return number << 8 | _PROJECTS


def _call(fd: int, command: int, project: int, given: bytes = b"") -> bytearray:
    """quotactl_fd(2). Returns: the argument as the kernel has changed it."""
    argument = bytearray(given.ljust(_ARGUMENT_BYTES, b"\0"))
    _native.quotactl_fd(fd, command, project, argument)
    return argument
