"""The system calls that Python 3.11 lacks, each under the kernel's name.

Source of each contract: the man page of the same name in section 2; for the mount calls, linux/mount.h. Each function
releases the GIL around the call, and after EINTR runs Python's signal handlers and repeats it. A path is bytes, str or
os.PathLike. A returned descriptor is close-on-exec.

Raises: OSError with the call's errno, and with the path as its filename (of `mount`, the target).
"""

from os import PathLike
from typing import Final, TypeAlias

_Crossing: TypeAlias = tuple[
    int,
    bytes,
    int,
    int,
    list[tuple[int, bool]],
    int,
    tuple[int | None, int, int, bool],
    int,
    bool,
    int,
    bool,
]
_Path: TypeAlias = bytes | str | PathLike[bytes] | PathLike[str]

AT_FDCWD: Final[int]
AT_EMPTY_PATH: Final[int]
AT_RECURSIVE: Final[int]
AT_SYMLINK_NOFOLLOW: Final[int]

FUSE_DEV_IOC_BACKING_CLOSE: Final[int]
FUSE_DEV_IOC_BACKING_OPEN: Final[int]
FUSE_NOTIFY_INVAL_ENTRY: Final[int]
FUSE_NOTIFY_INVAL_INODE: Final[int]
FUSE_NOTIFY_RESEND: Final[int]
FUSE_NO_EXPORT_SUPPORT: Final[int]
FUSE_OPEN: Final[int]
FUSE_PASSTHROUGH: Final[int]
FUSE_UNLINK: Final[int]

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

CLEARS_SET_IDS: Final[int]
"""A bit of a WRITE's file handle: the write clears the set-ID bits, as its caller has no CAP_FSETID."""

PID_CLEARS_SET_IDS: Final[int]
"""A bit of the pid of a SETATTR or a SETXATTR: it clears set-ID bits, as `CLEARS_SET_IDS`."""

BACKED: Final[int]
BACKING_SHIFT: Final[int]
"""In the file handle of a reply: the kernel reads and writes the file below itself, by its number from this bit on."""

OUR_HANDLE: Final[int]
"""A bit of a file handle: it is one of the data plane's."""

PAST_CACHE: Final[int]
"""A bit of a WRITE's file handle (the highest: negative): it does not come from the kernel's cache."""

NAME_ONLY: Final[int]
"""The generation of a listing's entry without a nodeid: name, kind and inode number alone, no dentry."""

PLAIN_ENTRY: Final[int]
"""The generation of an entry in the reply to a READDIR."""

PLAIN_LISTING: Final[int]
"""A bit of a READDIR's file handle."""

UNCHANGING: Final[int]
LIVE: Final[int]
LIVE_IN_MEMORY: Final[int]
"""Whether others may change a lower (`plane_grant`), and whether it is in memory."""

PLACE_OF_PYTHON: Final[int]
"""The place of a name that the data plane leaves to Python (`plane_resolve`)."""

PR_SET_CHILD_SUBREAPER: Final[int]
PR_SET_NO_NEW_PRIVS: Final[int]
PR_SET_PDEATHSIG: Final[int]
SECCOMP_FILTER_FLAG_LOG: Final[int]
SECCOMP_FILTER_FLAG_TSYNC: Final[int]
SECCOMP_SET_MODE_FILTER: Final[int]

RENAME_EXCHANGE: Final[int]
RENAME_NOREPLACE: Final[int]
RENAME_WHITEOUT: Final[int]

RESOLVE_BENEATH: Final[int]
RESOLVE_IN_ROOT: Final[int]
RESOLVE_NO_MAGICLINKS: Final[int]
RESOLVE_NO_SYMLINKS: Final[int]
RESOLVE_NO_XDEV: Final[int]

TIOCGPTPEER: Final[int]
TIOCSCTTY: Final[int]
TIOCSPTLCK: Final[int]
TUNSETIFF: Final[int]
TUNSETPERSIST: Final[int]

STATX_BASIC_STATS: Final[int]
STATX_BTIME: Final[int]
STATX_MNT_ID: Final[int]

def openat2(dirfd: int, path: _Path, flags: int, mode: int = 0, resolve: int = 0, /) -> int: ...
def renameat2(
    olddirfd: int, oldpath: _Path, newdirfd: int, newpath: _Path, flags: int = 0, /
) -> None: ...
def getxattr(path: _Path, name: bytes, value: bytearray, /) -> int | None:
    """None for an attribute that is absent (ENODATA), or without support for any (EOPNOTSUPP)."""

def lgetxattr(path: _Path, name: bytes, value: bytearray, /) -> int | None: ...
def fgetxattr(fd: int, name: bytes, value: bytearray, /) -> int | None: ...
def listxattrat(dirfd: int, path: _Path, at_flags: int, list: bytearray, /) -> int: ...  # noqa: A002
def statx(dirfd: int, path: _Path, flags: int, mask: int, statxbuf: bytearray, /) -> None: ...
def getdents64(fd: int, dirp: bytearray, /) -> int: ...
def fstatfs(fd: int, buf: bytearray, /) -> None: ...
def utimensat(dirfd: int, path: _Path, times: bytearray, flags: int, /) -> None:
    """Set times; `overlaykit.attributes` has the structs of this call and of the three above."""

def name_to_handle_at(
    dirfd: int, path: _Path, handle: bytearray, mount_id: bytearray, flags: int = 0, /
) -> None:
    """Write a struct file_handle (overlaykit/handles.py) and an int into buffers of 256 bytes."""

def quotactl_fd(fd: int, cmd: int, id: int, addr: bytearray, /) -> None: ...  # noqa: A002
def sync_file_range(fd: int, offset: int, nbytes: int, flags: int, /) -> None: ...
def capget(header: bytearray, sets: bytearray, /) -> None: ...
def capset(header: bytearray, sets: bytearray, /) -> None: ...
def open_by_handle_at(mount_fd: int, handle: bytearray, flags: int, /) -> int: ...
def open_tree(dirfd: int, path: _Path, flags: int, /) -> int: ...
def move_mount(
    from_dirfd: int, from_path: _Path, to_dirfd: int, to_path: _Path, flags: int, /
) -> None: ...
def mount_setattr(
    dirfd: int,
    path: _Path,
    flags: int,
    attr_set: int = 0,
    attr_clr: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
    /,
) -> None: ...
def fsopen(fstype: str, flags: int, /) -> int: ...
def fsconfig(fd: int, command: int, key: str | None, value: _Path | None, aux: int = 0, /) -> None:
    """Configure the file system of fsopen(2). After a failure, `fd` reads as the kernel's messages."""

def fsmount(fd: int, flags: int, attr_flags: int, /) -> int: ...
def mount(
    source: _Path | None,
    target: _Path,
    fstype: str | None,
    flags: int,
    data: _Path | None = None,
    /,
) -> None: ...
def umount2(target: _Path, flags: int, /) -> None: ...
def pivot_root(new_root: _Path, put_old: _Path, /) -> None: ...
def unshare(flags: int, /) -> None: ...
def setns(fd: int, nstype: int, /) -> None: ...
def close_range(first: int, last: int, flags: int, /) -> None: ...
def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0, /) -> int: ...
def seccomp(operation: int, flags: int, program: bytes, /) -> int:
    """With SECCOMP_SET_MODE_FILTER: install a filter of system calls, as instructions of BPF.

    Requires: no_new_privs, or CAP_SYS_ADMIN.
    Returns: with SECCOMP_FILTER_FLAG_TSYNC, a thread that has a filter of its own, because of which none is installed.
    Raises: OSError: EINVAL also for bytes that are no whole instructions, or too many.
    """

def signalfd4(fd: int, mask: int, flags: int, /) -> int:
    """A descriptor that is readable while a signal N of the mask (bits 1 << (N - 1)) is pending.

    Requires: the polling thread blocks these signals.
    """

# Of pyfuse3's session (native/session.c)

def begin_session(device: int, acl: bool, passes_through: bool, /) -> int:
    """Read and answer INIT. libfuse gets it as the first request of the data plane, and its reply is refused.

    `acl`: files have ACLs. `passes_through`: the kernel may read and write files itself, without its writeback
    cache.
    Returns: the flags agreed on. Raises: OSError.
    """

def adapt_session() -> None:
    """Interpose symbols of libfuse for pyfuse3, which is imported later: it receives requests from the data plane.

    What neither libfuse nor pyfuse3 passes on is in other fields of the requests then (native/session.c).

    Raises: OSError if the extension is not found among the loaded libraries.
    """

# The memory image of idle daemons (native/image.c)

def replace_memory(image: int, offset: int, start: int, size: int, /) -> int:
    """Map a part of a file in place of the memory from `start` on, which keeps its content (MAP_PRIVATE).

    Requires: private writable memory, into which neither the kernel nor another thread writes.
    Returns: the number of pages that are the file's now.
    Raises: OSError: EINVAL if there is not so much of the file, or of memory; others of the kernel. Nothing has
    changed then.
    """

def trim_memory() -> tuple[int, int]:
    """Give memory that the C library has free back to the kernel.

    Returns: an address in this thread's stack, and one in its thread-local storage, into which the kernel writes
    (rseq(2)).
    """

# The data plane (native/plane.c)

def plane_start(
    seconds: int,
    nanoseconds: int,
    lowers: tuple[int, int],
    upper: tuple[int, int],
    static_nlink: bool,
    xattr: bool,
    acl: bool,
    may_spin: bool,
    directories: int,
    files: int,
    no_open: bool,
    keeps_names: bool,
    live_seconds: int = 0,
    live_nanoseconds: int = 0,
    /,
) -> None:
    """Prepare the data plane, before the first request but INIT.

    `seconds`, `nanoseconds`: how long the kernel may cache names and attributes. `lowers`, `upper`: the user and the
    group of theirs that are shown as root's (0), as the kernel gives them for ids that are not mapped. `may_spin`:
    there is a processor to await the next request on. `directories`, `files`: how many descriptors of each may be open.
    `no_open`: programs open files without a request. `keeps_names`: nothing changes the lowers, so that a directory's
    names may be read once, after a few of them were missing. `live_seconds`, `live_nanoseconds`: as the first two, for
    what others may change.
    """

def plane_wait(device: int, tasks: int, milliseconds: int, polls: bool, /) -> bool:
    """Answer requests of a non-blocking session until one is Python's, which libfuse receives next.

    `polls`: wait `milliseconds` for a request, and after the first one 10 ms for each, unless the descriptor `tasks`
    (-1: none) becomes readable.

    Returns: whether there was no request; false also after 10 ms, and once the mount is gone.
    """

def plane_crossings() -> list[_Crossing]:
    """The nodes that cross to Python now.

    Each is: the nodeid of the directory above, the name, the nodeid, the lookups; handles, and whether each was opened
    for writing; the change time that the kernel has sent, or 0; of an open file `modified`, `asked_ns`, `opened_ns` and
    `direct` of `overlay.openfile.OpenFile`; a descriptor of what may have no name any more, the caller's to close, or
    -1; whether the plane has made it; the index of the lower that has it, of those that show in the directory above, or
    `PLACE_OF_PYTHON` if Python has given it (`plane_give`); and whether an earlier daemon has left it.
    """

def plane_fetch(nodeid: int, name: bytes, /) -> list[_Crossing]:
    """What crosses: the plane's node of that name in a directory of Python's, or that of the nodeid if `name` is empty.

    And those above it.
    """

def plane_claim(nodeid: int, /) -> int:
    """Take a nodeid, a new one or one that crosses. Returns: its generation; 0 if the plane has given it out."""

def plane_give(
    nodeid: int,
    above: int,
    name: bytes,
    lookups: int,
    fd: int,
    handles: int,
    changed: int,
    state: tuple[int | None, int, int, bool],
    /,
) -> bool:
    """Give a file of the upper back to the plane, with what `plane_crossings` says of one.

    `fd`: of its open file, which the plane takes over, and which all of the `handles` use; -1: there is none.
    Returns: whether it is the plane's. It stays Python's unless it is a regular file with one name, in a directory that
    is granted for changes, and the plane knows all of its handles.
    """

def plane_to_change() -> tuple[int, int, int, bytes, int, int, int, int, bytes] | None:
    """What the pending request opens for writing, renames or removes, if that is a lower's file of the plane's.

    And if it lies, and comes to, a directory of the upper, and replaces nothing that the plane knows. That is: its
    opcode, nodeid, nodeid of the directory above, name, place as of `plane_crossings`, flags of open(2), the caller's
    process, and nodeid of the new directory (0: none) and new name. In place of flags a rename has whether the new name
    is known to be missing. Nothing crosses to Python yet. A removal is
    followed by `plane_take_removal`.
    """

def plane_take_removal(place: bytes, /) -> bool:
    """Answer the pending request of `plane_to_change`: the name is hidden now. Returns: whether it is answered.

    `place`: where the file lies in a lower, as of `plane_link`; empty: nothing was changed.
    """

def plane_take_copy(fd: int, changed: int, /) -> bool:
    """Answer the pending request of `plane_to_change` with the copy of its file, which has its name in the upper now.

    `fd`: of the copy, which reads and writes. `changed`: its change time for the kernel.
    Returns: whether it is the plane's, with `fd` if the request opens it. It ends `plane_begin_rename`. Requires:
    `plane_revoke` has taken the names back before.
    """

def plane_crossed(nodeid: int, /) -> bool:
    """End a crossing. Returns: whether it was claimed; otherwise requests for it fail from now on (ESTALE)."""

def plane_bind(handle: int, python: int, /) -> None:
    """Let a handle of the plane stand for a handle of Python's. 0: reading it fails (EIO)."""

def plane_drop(nodeid: int, /) -> None:
    """Give back a nodeid that was claimed."""

def plane_grant(
    nodeid: int,
    above: int,
    fd: int,
    base: int,
    lists_inodes: bool,
    below_lists: bool,
    liveness: int = 0,
    /,
) -> bool:
    """Let the plane answer for what is in a directory.

    `above`: nodeid of the directory above. `base`: what to add to inode numbers for nodeids. `lists_inodes`: listings
    give the inode numbers of regular files; `below_lists`: also in all directories below. `liveness`: `UNCHANGING`,
    `LIVE` if others may change the lower, or `LIVE_IN_MEMORY`.

    Returns: false if it has marks.
    """

def plane_grant_changes(
    nodeid: int, fd: int, base: int, lowers: list[int], liveness: int = 0, /
) -> bool:
    """Let the plane make, change and remove names in a directory of the upper, `fd`.

    `base`: what to add to the upper's inode numbers for nodeids. `lowers`: the directories of lowers that show in it.
    What these have, and what is in the upper already, stays Python's. `liveness`: as of `plane_grant`, of any of them.

    Returns: whether it is granted.
    """

def plane_resolve(
    nodeid: int,
    above: int,
    upper: int,
    descriptors: list[int],
    lowers: list[tuple[int, bool]],
    lists: bool,
    names: list[tuple[bytes, int, int, int]] | tuple[int, bool, int],
    /,
) -> bool:
    """Let the plane answer for the names of a merged directory.

    `above`: nodeid of the directory above. `upper`: its directory in the upper, or -1; `descriptors`: those of lowers;
    `lowers`: of each, what to add to inode numbers for nodeids, and whether listings give those of regular files in all
    directories below. `lists`: `names` are enough to list it. `names`: all of them, each with its place, the type of
    its inode (DT_REG and the like), and its nodeid, or 0 if that is not known. The place is the index of the lower
    that has it, if nothing else shows under that name, or `PLACE_OF_PYTHON`. Instead of a list, `names` may be the
    index of the one lower that has any names; whether listings give the inode numbers of its regular files; and how
    many names it may have. False is returned if it has something but regular files, directories and symbolic links.

    Returns: whether it is granted.
    """

def plane_wanted() -> tuple[int, int, int, int, int, bytes] | None:
    """The nodeid of a directory of Python's that the pending request looks a name up in, lists or makes one in.

    Also: how many times it was asked for, whether the request lists, whether it makes a name, the caller's process,
    and the name (empty to list).
    None for any other request, for a directory whose names the plane knows, and for one where it makes names.
    """

def plane_retry() -> bool:
    """Answer the pending request after a grant. Returns: whether that was possible."""

def plane_changed(nodeid: int, /) -> tuple[bool, bool]:
    """Whether the directory is granted for changes, and whether a name in it has changed since the last call."""

def plane_descriptor(handle: int, /) -> int:
    """A descriptor of a file that the plane has open, the caller's to close. Raises: OSError."""

def plane_incomplete(nodeid: int, error: int, /) -> int:
    """Note that bytes of a file are lost, with the errno; or with 0 take that back. Returns: the errno, or 0."""

def plane_is_granted(nodeid: int, /) -> int:
    """Whether the directory is granted: 1 for reading, 2 for changes; else 0."""

def plane_readers() -> list[int]:
    """The nodeids of the directories that programs are reading."""

def plane_names() -> list[tuple[int, bytes]]:
    """The names under which the plane has found its nodes, each after the nodeid of its directory."""

def plane_let_go(nodeid: int, /) -> None:
    """Close the directories of a grant, which has ended: the next one has others."""

def plane_leave() -> None:
    """Leave all nodes with a name to Python, each once a request names it. Ends all grants.

    Requires: what they stand for can be found by name; no program reads a directory (`plane_readers`).
    """

def plane_revoke(nodeid: int, only_names: bool, name: bytes, /) -> bool:
    """End a grant; or, with `only_names`, what `plane_resolve` began: of a name, which is Python's then, or of all.

    A node of the plane's under that name crosses as one whose place is `PLACE_OF_PYTHON`.

    Returns: whether a reader of the directory may continue.
    """

def plane_forgotten() -> bytes:
    """The nodeids and change times of files that the kernel has forgotten since the last call, in 8 bytes each.

    0 instead of a time: a lookup of the directory was held back until now, and Python forgets it.
    """

def plane_counts() -> bytes:
    """What the plane has answered: 17 numbers of 8 bytes for each of 64 opcodes (linux/fuse.h).

    The nanoseconds that all its requests took, then how many took less than 1024 << n nanoseconds and no less than half
    of that, for n from 0; the last number is of all that took longer.
    """

def plane_held() -> tuple[int, int, int, int]:
    """How many nodes, lookups of them, open files and open directories the plane has."""

def plane_told(nodeid: int, /) -> tuple[int, int, int, int] | None:
    """What the kernel knows of a file of a live lower that the plane has had: its size, and when it was modified and
    changed. And when the kernel last had no pages of it. Times are in nanoseconds.
    """

def plane_place(nodeid: int, /) -> tuple[int, bytes] | None:
    """The nodeid of the directory above one of the plane's nodes, and its name there; None if Python has it."""

def plane_trace(room: int, opcodes: int, /) -> tuple[bytes, int]:
    """Note requests of the `opcodes` (a bit each) that the plane answers, in up to `room` bytes. 0: the trace ends.

    READ, WRITE and READDIR are noted also if they are Python's.
    While it goes on, the kernel keeps names but those of directories for a moment only, and `plane_wait` returns soon
    after a request of a program that made none in the last second.

    Returns: what was noted since the last call, and how many requests found no room. A note is the length of the
    request in it (4 bytes), the errno of the reply (4), the first 8 bytes of its data, which are the nodeid that a name
    has (0: the name is missing), and the request, cut off after two names, or before what is written.
    """

def plane_close() -> bytes:
    """Close every file of the plane. Requires: no request follows. Returns: its other descriptors, 4 bytes each."""

def plane_open(nodeid: int, handle: int, writable: bool, /) -> int:
    """The number of a handle for the kernel, that stands for a handle of Python's until it is released."""

# What outlives a daemon (native/kept.c)

def plane_share() -> None:
    """Keep the plane's state in memory that this process shares with those that it forks.

    Requires: `plane_start` has not been called. Raises: OSError.
    """

def fork_with_descriptors() -> int:
    """Fork a process with this one's table of descriptors: what one opens or closes, the other does. As os.fork.

    This process gets the name "keeper", and the new one the name "daemon" (comm of proc(5)).

    Requires: no other thread runs.
    """

def plane_kept(crashed: bool, /) -> tuple[int, list[tuple[int, int]]]:
    """How many requests were read, and the descriptors that the next daemon needs (-1: none). Requires: no daemon runs.

    `crashed`: the last one was not killed from outside. A request that is under way at two such ends fails then, as
    does one that was the last to be read at a hundred others.
    """

def plane_link(nodeid: int, above: int, name: bytes, /) -> None:
    """Note where a node of Python's is found: in the directory with the nodeid `above`.

    0: nowhere in the tree; then `name` is empty, or says where a file lies in the lowers.
    """

def plane_keep(nodeid: int, fd: int, /) -> None:
    """Keep a copy of the descriptor of the node's inode until the node is gone. -1: no more."""

def plane_count(nodeid: int, /) -> None:
    """Note a lookup of a node of Python's."""

def plane_resent() -> bool:
    """Whether the request that Python got last may have begun in a daemon that was killed."""

def plane_refuse(device: int, /) -> None:
    """Answer with EIO what daemons that were killed may not have answered."""

def plane_begin_rename(
    above: int, name: bytes, onto: int, new_name: bytes, flags: int, inode: int, /
) -> None:
    """Note that a name moves, or two are exchanged (`flags`), until `plane_end_rename`.

    `inode`: which one the first name leads to, if they are exchanged.
    """

def plane_end_rename() -> None: ...
def plane_renaming() -> tuple[int, bytes, int, bytes, int, bool] | None:
    """The rename of the request that was read last: directory, name, new directory, new name, `inode`.

    And whether it has not ended (`plane_end_rename`).
    """

def plane_renamed() -> None:
    """Let the nodes that an earlier daemon has left be where that rename has moved them."""
