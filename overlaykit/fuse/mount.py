"""Mounting through our own descriptor of /dev/fuse: no setuid helper, and inside an unprivileged user namespace too.

The mount is made with the new mount API (fsopen(2), fsmount(2); Linux 5.2) and is detached at first: it can be
attached to a directory, or handed to another process that makes it its root. libfuse takes the descriptor as its
session when it is given the mountpoint /dev/fd/N. fusermount3 is the fallback for an ordinary user outside any user
namespace.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from typing import TYPE_CHECKING, Final

from overlaykit import _native, mountinfo, privilege
from overlaykit.errors import Error
from overlaykit.fuse.directories import (
    absolute,
    lies_in_deleted_directory,
    open_directory,
    real_path,
)
from overlaykit.health import Check

if TYPE_CHECKING:
    from collections.abc import Iterable

    from overlaykit.fuse.spec import MountFlags
    from overlaykit.mountinfo import Mount

DEVICE: Final = "/dev/fuse"
FILE_SYSTEM_TYPE: Final = "fuse.overlaykit"
"""As /proc/self/mountinfo shows our mounts."""

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


class MountpointMissing(Error):
    message = "{0}: no such directory to mount on: create it first"


class MountpointNoDirectory(Error):
    message = "{0}: is no directory: name one to mount on"


class MountpointDeleted(Error):
    message = "{0}: {1} has been deleted: change to another directory"


class DeadMount(Error):
    message = "{0}: a mount is there whose daemon has ended: 'overlaykit umount {0}' first"


class NotMounted(Error):
    message = "{0}: no overlaykit mount is there: 'overlaykit ps' lists those that are"


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


def open_device() -> int:
    """A new session with the kernel's FUSE."""
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            raise NoFuseDevice from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise FuseDeviceDenied from error
        raise


def create(device: int, source: str, flags: MountFlags, *, read_only: bool) -> int:
    """A detached mount that the session `device` serves.

    Raises OSError: EPERM without CAP_SYS_ADMIN, EINVAL for an SELinux context that is none.
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
        chosen = {"ro": read_only, "sync": flags.sync, "dirsync": flags.dirsync}
        for flag in ["default_permissions", "allow_other", *_chosen(chosen)]:
            _native.fsconfig(fs, _native.FSCONFIG_SET_FLAG, flag, None)
        _native.fsconfig(fs, _native.FSCONFIG_CMD_CREATE, None, None)
        return _native.fsmount(fs, _native.FSMOUNT_CLOEXEC, _attributes(flags, read_only=read_only))
    finally:
        os.close(fs)


def helper_options(source: str, flags: MountFlags, target: str, *, read_only: bool) -> set[str]:
    """What fusermount3 is to be given for the same mount.

    It always mounts with nosuid and nodev for an ordinary user, and knows fewer options. Raises Error for one that is
    not to be had so and that would be missed.
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
    escaped = source.replace("\\", "\\\\").replace(",", "\\,")  # for libfuse (lib/fuse_opt.c)
    return {f"fsname={escaped}", f"subtype={_SUBTYPE}", "default_permissions", *_chosen(chosen)}


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


def _chosen(flags: dict[str, bool]) -> list[str]:
    return [flag for flag, wanted in flags.items() if wanted]


def open_mountpoint(path: str) -> int:
    """An O_PATH descriptor of a directory to mount on. Raises Error unless it is one."""
    try:
        fd = open_directory(path)
        try:
            found = os.fstat(
                fd
            )  # answered unless the mount there is dead: opening takes no request
            if not found.st_nlink and real_path(fd).endswith(" (deleted)"):
                raise MountpointDeleted(path, "this directory")
        except BaseException:
            os.close(fd)
            raise
        return fd
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            raise DeadMount(absolute(path)) from error
        if error.errno == errno.ENOTDIR and path:
            raise MountpointNoDirectory(absolute(path)) from error
        if lies_in_deleted_directory(path):
            raise MountpointDeleted(path, "the working directory") from error
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise MountpointMissing(absolute(path) if path else "") from error
        raise


def attach(mount: int, target: int) -> None:
    """Let a detached mount appear on the directory `target`."""
    flags = _native.MOVE_MOUNT_F_EMPTY_PATH | _native.MOVE_MOUNT_T_EMPTY_PATH
    _native.move_mount(mount, b"", target, b"", flags)


def leave_sight(target: str, needed: Iterable[str]) -> None:
    """Move this process into a mount namespace with hardly any mounts.

    Not with the mount at `target`: a daemon that sees its own mount may one day wait for itself; a module loaded late
    is enough, if it lies below. Nor with others, save those on the way to the `needed` paths: a copy keeps a mount
    alive after it was unmounted on the host, where mounts are private. Unmounting `target` on the host still works.
    No descriptor of the namespace it leaves is kept: that would keep the mount after the last process there has ended.
    Raises OSError: EPERM without CAP_SYS_ADMIN.
    """
    _native.unshare(_native.CLONE_NEWNS)
    _native.mount(None, "/", None, _native.MS_REC | _native.MS_SLAVE)
    _native.umount2(target, _native.UMOUNT_NOFOLLOW | _native.MNT_DETACH)
    _detach_unneeded(needed)


def _detach_unneeded(needed: Iterable[str]) -> None:
    """Detach every mount of this namespace, save those on the way to the `needed` paths and below them.

    For a namespace of the caller's own. Mounts locked by a user namespace stay (mount_namespaces(7)).
    """
    kept = {os.path.realpath(path) for path in needed}
    tried: set[int] = set()
    while unneeded := [
        mount
        for mount in mountinfo.visible(mountinfo.current())
        if mount.id not in tried and not any(_are_in_line(path, mount.mountpoint) for path in kept)
    ]:  # until nothing comes to light below one that went
        tried.update(mount.id for mount in unneeded)
        for path in mountinfo.outermost(mount.mountpoint for mount in unneeded):
            with contextlib.suppress(OSError):  # EINVAL: locked
                _native.umount2(path, _native.UMOUNT_NOFOLLOW | _native.MNT_DETACH)


def _are_in_line(path: str, other: str) -> bool:
    return path == other or mountinfo.below(path, other) or mountinfo.below(other, path)


def find(target: str) -> Mount | None:
    """The overlaykit mount at `target` in this mount namespace.

    The last name is looked at only where no mount has it: the daemon of a mount may not answer.
    """
    if not target:
        return None  # and not the working directory
    directory, name = os.path.split(os.path.abspath(target))
    visible = {
        one.mountpoint: one
        for one in mountinfo.visible(mountinfo.current())
        if one.fstype == FILE_SYSTEM_TYPE
    }
    found = visible.get(os.path.join(os.path.realpath(directory), name))
    return found or visible.get(os.path.realpath(target))


def with_id(number: int) -> Mount | None:
    """The mount with this id in this mount namespace."""
    return next((one for one in mountinfo.current() if one.id == number), None)


def shown(device: int) -> list[Mount]:
    """Where the mount of a device can be reached in this mount namespace."""
    return [one for one in mountinfo.visible(mountinfo.current()) if one.device == device]


def checks() -> list[Check]:
    """What a machine needs for this room."""
    try:
        os.close(open_device())
        device = Check(name="FUSE device", ok=True, detail=f"{DEVICE} opens", fix="")
    except (Error, OSError) as error:
        text = str(error)
        device = Check(name="FUSE device", ok=False, detail=text, fix=text.rpartition(": ")[2])
    helper = shutil.which(HELPER)
    return [
        device,
        Check(
            name=HELPER,
            ok=helper is not None or privilege.CAP_SYS_ADMIN in privilege.capabilities(),
            detail=helper
            or "not installed; needed only for 'overlaykit mount' by an ordinary user",
            fix="" if helper else "apt-get install fuse3",
        ),
    ]
