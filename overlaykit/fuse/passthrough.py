"""Files that the kernel reads and writes in the layer itself, without a request (FUSE_PASSTHROUGH, Linux 6.9).

A file is opened like that if nothing of it can change hands while it is open: one of the upper, or any in a mount that
cannot be written to. A lower's file of other mounts never is: its handles could not go over to the copy. All handles of
a file are of one kind (fs/fuse/iomode.c), which the first one determines.

The kernel writes with the capabilities that this process has when it registers a file (fs/fuse/backing.c): without
CAP_FSETID, so that each write takes the set-ID bits away, also root's. A file that has such bits is opened as ever.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from typing import TYPE_CHECKING, Final

from overlaykit import _native, effective, privilege
from overlaykit.errors import Error

if TYPE_CHECKING:
    from overlaykit.fuse.spec import MountOptions
    from overlaykit.overlay.filesystem import Filesystem

_MAP: Final = struct.Struct("=iIQ")
"""struct fuse_backing_map."""
_NUMBER: Final = struct.Struct("=I")
_MOST: Final = 1 << 28
_LAST_HANDLE: Final = (1 << 32) - 1
"""`_native.BACKED`: how large the two numbers of a handle may be."""


class NoPassthrough(Error):
    message = (
        "data=passthrough: it takes Linux 6.9 or newer, and root outside of any user namespace: "
        "give data=auto, which does without where it has to"
    )


class KeptByDaemon(Error):
    message = "data=passthrough: the daemon has to see each write with {0}: leave one of them out"


def wanted(options: MountOptions) -> bool:
    """Whether to ask for it in INIT. Raises: NoPassthrough, KeptByDaemon, where an option insists on it."""
    if options.data == "cache":
        return False
    insists = options.data == "passthrough"
    for option, is_given in (
        ("a limit of the upper", options.limit is not None),
        ("xattr_permissions", bool(options.xattr_permissions)),
    ):
        if is_given and insists:
            raise KeptByDaemon(option)
        if is_given:
            return False
    # The kernel offers it to others, too, and then takes no file from them.
    possible = privilege.maps_all_ids() and privilege.CAP_SYS_ADMIN in privilege.capabilities()
    if insists and not possible:
        raise NoPassthrough
    return possible


def takes_files(device: int) -> bool:
    """Whether the session takes files. Requires: INIT is answered."""
    with os.fdopen(os.memfd_create("overlaykit", os.MFD_CLOEXEC), "wb") as file:
        try:
            _unregister(device, _register(device, file.fileno()))
        except OSError:
            return False
    return True


class Passthrough:
    """The registered files of one mount."""

    def __init__(self, device: int, filesystem: Filesystem) -> None:
        self._device = device
        self._files = filesystem.files
        self._is_read_only = filesystem.root.upper is None
        self._numbers: dict[int, int] = {}
        """By handle."""

    def number(self, handle: int) -> int:
        """The kernel's number of a file, to reply with the handle of each of its opens; 0: opened as ever."""
        found = self._numbers.get(handle)
        if found is None:
            opened = self._files.by_handle[handle]
            if opened.count > 1 or handle > _LAST_HANDLE or not self._may_register(handle):
                return 0
            try:
                found = _register(self._device, opened.fd)
            except OSError:  # not on this file system, such as one that is stacked itself
                return 0
            if found >= _MOST:
                _unregister(self._device, found)
                return 0
            self._numbers[handle] = found
        return found

    def end(self, handle: int) -> None:
        """After the release of a handle: the file's number ends with its last one."""
        if handle not in self._files.by_handle:
            number = self._numbers.pop(handle, 0)
            if number:
                _unregister(self._device, number)

    def close(self) -> None:
        """End all numbers: a registered file keeps its file system busy."""
        while self._numbers:
            _, number = self._numbers.popitem()
            _unregister(self._device, number)

    def _may_register(self, handle: int) -> bool:
        opened = self._files.by_handle[handle]
        mode = os.fstat(opened.fd).st_mode
        if not stat.S_ISREG(mode) or mode & (stat.S_ISUID | stat.S_ISGID):
            return False
        if self._is_read_only:
            # The kernel opens a file once more as the program does, and a read may set its access time.
            return bool(os.fstatvfs(opened.fd).f_flag & os.ST_RDONLY)
        return opened.writable


def _register(device: int, fd: int) -> int:
    with effective.without(privilege.CAP_FSETID):
        # With a buffer that can be written to, the result is the system call's.
        number: int = fcntl.ioctl(
            device, _native.FUSE_DEV_IOC_BACKING_OPEN, bytearray(_MAP.pack(fd, 0, 0))
        )
    return number


def _unregister(device: int, number: int) -> None:
    fcntl.ioctl(device, _native.FUSE_DEV_IOC_BACKING_CLOSE, _NUMBER.pack(number))
