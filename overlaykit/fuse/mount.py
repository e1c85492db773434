"""Mount through a descriptor of /dev/fuse, without a setuid helper, also in an unprivileged user namespace.

The new mount API (fsopen(2), fsmount(2); Linux 5.2) makes a detached mount: it is attached to a directory, or passed to
another process that makes it its root. fusermount3 is the fallback for an ordinary user outside any user namespace.
"""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import socket
from typing import TYPE_CHECKING, Final

from overlaykit import _native, privilege
from overlaykit.errors import Error

if TYPE_CHECKING:
    from overlaykit.fuse.spec import MountFlags

DEVICE: Final = "/dev/fuse"
HELPER: Final = "fusermount3"

_SUBTYPE: Final = "overlaykit"
_ROOT_MODE: Final = "40000"
_SELINUX: Final = "/sys/fs/selinux"


class NoFuseDevice(Error):
    message = (
        "there is no /dev/fuse: load the kernel's module with 'modprobe fuse', or pass the "
        "device into the container"
    )


class FuseDeviceDenied(Error):
    message = (
        "/dev/fuse cannot be opened by this user: as root, run 'chmod 0666 /dev/fuse' (udev's "
        "usual rule)"
    )


class NotPermitted(Error):
    message = (
        "mounting on {0} takes root or fusermount3: install the package fuse3, or use "
        "'overlaykit run'"
    )


class TakesRoot(Error):
    message = "mount option {0}: fusermount3 has no such option: as an ordinary user, leave it out"


class HelperRefused(Error):
    message = (
        "mounting on {0}: fusermount3 says above why not: choose a directory of your own, or use "
        "'overlaykit run'"
    )


class NoSuchUser(Error):
    message = (
        "mounting on {0}: fusermount3 mounts for users with an entry in /etc/passwd, and user {1} has none: use "
        "'overlaykit run'"
    )


def open_device() -> int:
    """Open /dev/fuse: a new session with the kernel. Raises Error or OSError."""
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            raise NoFuseDevice from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise FuseDeviceDenied from error
        raise


def create(device: int, source: str, flags: MountFlags, *, read_only: bool) -> int:
    """Make a detached mount that the session `device` serves.

    Raises OSError: EPERM without CAP_SYS_ADMIN, EINVAL for an invalid SELinux context.
    """
    fs = _native.fsopen("fuse", _native.FSOPEN_CLOEXEC)
    try:
        contexts = flags.contexts if os.path.isdir(_SELINUX) else {}
        for key, value in {
            "source": source,
            "subtype": _SUBTYPE,
            "fd": str(device),
            "rootmode": _ROOT_MODE,
            "user_id": str(os.getuid()),
            "group_id": str(os.getgid()),
            **contexts,
        }.items():
            _native.fsconfig(fs, _native.FSCONFIG_SET_STRING, key, value)
        chosen = {
            "ro": read_only,
            "sync": flags.sync,
            "dirsync": flags.dirsync,
            "lazytime": _loses_times_in_writeback(),
        }
        for flag in ["default_permissions", "allow_other", *_chosen(chosen)]:
            _native.fsconfig(fs, _native.FSCONFIG_SET_FLAG, flag, None)
        _native.fsconfig(fs, _native.FSCONFIG_CMD_CREATE, None, None)
        return _native.fsmount(fs, _native.FSMOUNT_CLOEXEC, _attributes(flags, read_only=read_only))
    finally:
        os.close(fs)


def attach_by_helper(target: str, options: list[str]) -> int:
    """Have fusermount3 mount a new session on `target`, by the protocol of libfuse (lib/mount.c).

    Returns: the session's descriptor. Raises: HelperRefused, NoSuchUser.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.set_inheritable(True)
        argv = [HELPER, "-o", ",".join(options), "--", target]
        environment = {**os.environ, "_FUSE_COMMFD": str(theirs.fileno())}
        _, status = os.waitpid(os.posix_spawnp(HELPER, argv, environment), 0)
        theirs.close()
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if status or not descriptors:
        try:
            pwd.getpwuid(os.getuid())
        except KeyError:
            raise NoSuchUser(target, os.getuid()) from None
        raise HelperRefused(target)
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]


def helper_options(source: str, flags: MountFlags, target: str, *, read_only: bool) -> list[str]:
    """The options of fusermount3 for the same mount.

    For an ordinary user it always adds nosuid and nodev, and it has fewer options.
    Raises: NotPermitted without fusermount3, TakesRoot for an option that it lacks and whose absence matters.
    """
    if shutil.which(HELPER) is None:
        raise NotPermitted(target)
    for option, given in (
        ("nosymfollow", flags.nosymfollow),
        (next(iter(flags.contexts), ""), bool(flags.contexts) and os.path.isdir(_SELINUX)),
    ):
        if given:
            raise TakesRoot(option)
    chosen = {
        "ro": read_only,
        "noexec": flags.noexec,
        "noatime": flags.noatime,
        "sync": flags.sync,
        "dirsync": flags.dirsync,
        "allow_other": flags.allow_other,
    }
    # fusermount3 splits the options at commas.
    escaped = source.replace("\\", "\\\\").replace(",", "\\,")
    return [f"fsname={escaped}", f"subtype={_SUBTYPE}", "default_permissions", *_chosen(chosen)]


def _attributes(flags: MountFlags, *, read_only: bool) -> int:
    """The MOUNT_ATTR_* bits of fsmount(2)."""
    return sum(
        bit
        for bit, wanted in (
            (_native.MOUNT_ATTR_RDONLY, read_only),
            (_native.MOUNT_ATTR_NODEV, flags.nodev),
            (_native.MOUNT_ATTR_NOSUID, flags.nosuid),
            (_native.MOUNT_ATTR_NOEXEC, flags.noexec),
            (_native.MOUNT_ATTR_NOATIME, flags.noatime),
            (_native.MOUNT_ATTR_NODIRATIME, flags.nodiratime),
            (_native.MOUNT_ATTR_NOSYMFOLLOW, flags.nosymfollow),
        )
        if wanted
    )


def _loses_times_in_writeback() -> bool:
    """Whether a time that the kernel's threads write back would be lost, unless `lazytime` keeps it from them.

    They run as root of the initial user namespace. If the mount's does not map that, their SETATTR fails with EOVERFLOW
    (fs/fuse/dev.c: fuse_get_req), and the time counts as written. With `lazytime` they write the pages only, and the
    process that closes or syncs the file sends its times.
    """
    return not privilege.maps_all_ids()


def _chosen(flags: dict[str, bool]) -> list[str]:
    return [flag for flag, wanted in flags.items() if wanted]


def attach(mount: int, target: int) -> None:
    """Attach a detached mount to the directory `target`."""
    flags = _native.MOVE_MOUNT_F_EMPTY_PATH | _native.MOVE_MOUNT_T_EMPTY_PATH
    _native.move_mount(mount, b"", target, b"", flags)
