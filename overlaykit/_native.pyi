"""Copy-up and the system calls that Python 3.11 lacks, each under the kernel's own name.

Every function raises `OSError` with the call's errno (and the path as its filename where it takes
one; `mount` names its target), retries EINTR after running Python's signal handlers, releases the
GIL around the system call, and takes paths as bytes, str or os.PathLike. Descriptors it returns are
close-on-exec. Source of each contract: the man page of the same name in section 2; for the mount
calls linux/mount.h.
"""

import os
from os import PathLike
from typing import Final, Literal, NoReturn, TypeAlias, final

_Path: TypeAlias = bytes | str | PathLike[bytes] | PathLike[str]

AT_FDCWD: Final[int]
AT_EMPTY_PATH: Final[int]
AT_RECURSIVE: Final[int]
AT_SYMLINK_NOFOLLOW: Final[int]

CLONE_NEWCGROUP: Final[int]
CLONE_NEWIPC: Final[int]
CLONE_NEWNET: Final[int]
CLONE_NEWNS: Final[int]
CLONE_NEWPID: Final[int]
CLONE_NEWUSER: Final[int]
CLONE_NEWUTS: Final[int]

FSCONFIG_CMD_CREATE: Final[int]
FSCONFIG_SET_FLAG: Final[int]
FSCONFIG_SET_STRING: Final[int]
FSMOUNT_CLOEXEC: Final[int]
FSOPEN_CLOEXEC: Final[int]

MNT_DETACH: Final[int]
MOUNT_ATTR_NOATIME: Final[int]
MOUNT_ATTR_NODEV: Final[int]
MOUNT_ATTR_NODIRATIME: Final[int]
MOUNT_ATTR_NOEXEC: Final[int]
MOUNT_ATTR_NOSUID: Final[int]
MOUNT_ATTR_NOSYMFOLLOW: Final[int]
MOUNT_ATTR_RDONLY: Final[int]
MOVE_MOUNT_F_EMPTY_PATH: Final[int]
MOVE_MOUNT_T_EMPTY_PATH: Final[int]
MS_NODEV: Final[int]
MS_NOEXEC: Final[int]
MS_NOSUID: Final[int]
MS_PRIVATE: Final[int]
MS_RDONLY: Final[int]
MS_REC: Final[int]
MS_SLAVE: Final[int]
OPEN_TREE_CLOEXEC: Final[int]
OPEN_TREE_CLONE: Final[int]
UMOUNT_NOFOLLOW: Final[int]

NAME_ONLY: Final[int]
"""The generation of an entry of a listing of which the kernel is to learn no more than name, kind and inode number."""

PR_CAPBSET_DROP: Final[int]
PR_CAP_AMBIENT: Final[int]
PR_CAP_AMBIENT_CLEAR_ALL: Final[int]
PR_SET_CHILD_SUBREAPER: Final[int]
PR_SET_DUMPABLE: Final[int]
PR_SET_PDEATHSIG: Final[int]

RENAME_EXCHANGE: Final[int]
RENAME_NOREPLACE: Final[int]
RENAME_WHITEOUT: Final[int]

RESOLVE_BENEATH: Final[int]
RESOLVE_IN_ROOT: Final[int]
RESOLVE_NO_MAGICLINKS: Final[int]
RESOLVE_NO_SYMLINKS: Final[int]
RESOLVE_NO_XDEV: Final[int]

STATX_BASIC_STATS: Final[int]
STATX_BTIME: Final[int]
STATX_MNT_ID: Final[int]

@final
class Statx:
    """What statx(2) fills in: a named tuple. `mask` says which fields hold.

    Times are nanoseconds since the epoch; `size` and `blksize` are bytes, `blocks` units of 512.
    """

    mask: Final[int]
    blksize: Final[int]
    attributes: Final[int]
    nlink: Final[int]
    uid: Final[int]
    gid: Final[int]
    mode: Final[int]
    ino: Final[int]
    size: Final[int]
    blocks: Final[int]
    attributes_mask: Final[int]
    atime_ns: Final[int]
    btime_ns: Final[int]
    ctime_ns: Final[int]
    mtime_ns: Final[int]
    rdev: Final[int]
    dev: Final[int]
    mnt_id: Final[int]

@final
class FileHandle:
    """What name_to_handle_at(2) fills in: the file system's own name of an inode, a named tuple."""

    type: Final[int]
    handle: Final[bytes]
    mount_id: Final[int]

def openat2(dirfd: int, path: _Path, flags: int, mode: int = 0, resolve: int = 0) -> int: ...
def renameat2(
    olddirfd: int, oldpath: _Path, newdirfd: int, newpath: _Path, flags: int = 0
) -> None: ...
def statx(dirfd: int, path: _Path, flags: int, mask: int) -> Statx: ...
def stat_or_none(dirfd: int, name: _Path) -> os.stat_result | None:
    """As os.stat(name, dir_fd=dirfd, follow_symlinks=False), but None where nothing is there (ENOENT)."""

def xattr_or_none(path: _Path | int, name: bytes, follow_symlinks: bool = True) -> bytes | None:
    """As os.getxattr, but None where there is no such attribute (ENODATA), or none at all (EOPNOTSUPP)."""

def utimensat(
    dirfd: int, path: _Path, atime_ns: int | None, mtime_ns: int | None, flags: int = 0
) -> None:
    """Set times in nanoseconds since the epoch; None leaves one as it is (UTIME_OMIT)."""

def name_to_handle_at(dirfd: int, path: _Path, flags: int = 0) -> FileHandle: ...
def open_by_handle_at(mount_fd: int, handle_type: int, handle: bytes, flags: int) -> int: ...
def getdents64(fd: int, count: int) -> list[tuple[bytes, int, int]]:
    """getdents64(2): the next entries of an open directory, as many as `count` bytes hold; none at its end.

    Each is its name, the S_IFMT bits of its kind (0 where the file system does not say) and its inode number. `.` and
    `..` are left out. Raises OSError: EINVAL if `count` is too small for a name, EBADF for an O_PATH descriptor.
    """

def fstatfs(fd: int) -> int:
    """fstatfs(2): only f_type, which os.fstatvfs leaves out: which file system it is (include/uapi/linux/magic.h)."""

def open_tree(dirfd: int, path: _Path, flags: int) -> int: ...
def move_mount(
    from_dirfd: int, from_path: _Path, to_dirfd: int, to_path: _Path, flags: int
) -> None: ...
def mount_setattr(
    dirfd: int,
    path: _Path,
    flags: int,
    attr_set: int = 0,
    attr_clr: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
) -> None: ...
def fsopen(fstype: str, flags: int) -> int: ...
def fsconfig(fd: int, command: int, key: str | None, value: _Path | None, aux: int = 0) -> None:
    """Configure what fsopen(2) began; after a failure `fd` reads as the kernel's own words."""

def fsmount(fd: int, flags: int, attr_flags: int) -> int: ...
def mount(
    source: _Path | None,
    target: _Path,
    fstype: str | None,
    flags: int,
    data: _Path | None = None,
) -> None: ...
def umount2(target: _Path, flags: int) -> None: ...
def unshare(flags: int) -> None: ...
def setns(fd: int, nstype: int) -> None: ...
def pivot_root(new_root: _Path, put_old: _Path) -> None: ...
def close_range(first: int, last: int, flags: int) -> None: ...
def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int: ...
def signalfd(mask: int) -> int:
    """A close-on-exec, non-blocking descriptor, readable while a signal N of the mask of bits 1 << (N - 1) waits.

    Only those that the thread which polls it has blocked wait (signalfd(2)).
    """

def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set this thread's capability sets, each a mask of bits 1 << CAP_*."""

def execve(path: _Path, argv: list[bytes], envp: list[bytes]) -> NoReturn:
    """Execute a program; unlike os.execve's, entries of the environment may repeat a name, or have none.

    Raises ValueError for an entry with a NUL in it.
    """

def copy_up(
    src: int,
    dst: int,
    /,
    *,
    data: bool = True,
    metadata: bool = True,
    uid: int = -1,
    gid: int = -1,
    skip_xattrs: tuple[bytes, ...] = (),
    keep_xattrs: tuple[bytes, ...] = (),
) -> Literal["clone", "copy_file_range", "read_write", "none"]:
    """Make the empty inode `dst` what the inode `src` is; say how the bytes travelled.

    Data (of regular files, unless `data` is false): FICLONE, else copy_file_range(2), else read and
    write, each from where the one before gave up, and the worst that was needed is the answer.
    Holes stay holes (SEEK_DATA, SEEK_HOLE) and the length is the source's to the byte, also where
    stat(2) does not know it (procfs). "none": there were no bytes to move.

    Then, unless `metadata` is false, the owner (`uid`, `gid`; -1: the source's own), the xattrs
    with ACLs and file capabilities (but no name that begins with one of `skip_xattrs`, unless it
    begins with one of `keep_xattrs`), the mode (not of a symlink), and the times of access and
    change to the nanosecond.

    As in the kernel's overlayfs, an xattr that dst's file system does not support stays behind,
    unless it is an ACL or security.*, which then raise EOPNOTSUPP. Without CAP_SYS_ADMIN over the
    initial user namespace, so do security.* and trusted.* that the kernel withholds (EPERM, and
    EOVERFLOW for file capabilities of another user namespace), and ACLs that name an id
    which the user namespace lacks (EINVAL). Where that is the access ACL, the mode loses bits until
    nobody may do more with the copy than with the source.

    `dst` is new: empty, without xattrs or ACLs of its own, not open for appending, and writable by
    its mode. Either descriptor may be O_PATH where no data is copied (this needs /proc). The
    offsets of both mean nothing afterwards.

    In the main thread, Python signal handlers run between chunks of at most 8 MiB.

    Raises OSError: ENOSPC, EDQUOT, EIO and the like as the kernel gave them. After a failure `dst`
    is half made: the caller drops it.
    """

def adapts_session() -> bool:
    """Whether pyfuse3's session was adapted; its descriptor may then be one that does not block."""

def expect_setxattr_flags() -> None:
    """Read SETXATTR requests as extended ones, once FUSE_SETXATTR_EXT was agreed on in an adapted session.

    The umask of such a request's context holds the bits of the mode that setting an ACL clears: S_ISGID or none
    (FUSE_SETXATTR_ACL_KILL_SGID; linux/fuse.h; Linux 5.13).
    """

def name_directories() -> None:
    """Have pyfuse3, imported later, be told a directory's node as the handle of every open directory.

    OPENDIR is then refused with ENOSYS, once for the whole session: from there on the kernel opens and closes
    directories without asking, and keeps what it has read of them until they change (fs/fuse/dir.c: no_opendir; Linux
    5.1). Where libfuse cannot be reached so, pyfuse3 is asked as ever. Raises OSError if the extension itself is not
    found among the libraries.
    """
