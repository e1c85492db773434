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
import subprocess
from typing import TYPE_CHECKING, Final

from overlaykit import _native, mountinfo
from overlaykit.errors import Error
from overlaykit.health import Check

if TYPE_CHECKING:
    from collections.abc import Iterable

    from overlaykit.fuse.spec import MountFlags

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


class MountpointNotEmpty(Error):
    message = (
        "{0}: not empty, and what it holds would be hidden: choose an empty directory to mount on"
    )


class AlreadyMounted(Error):
    message = "{0}: an overlaykit mount is there already: 'overlaykit umount {0}' first"


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


class Busy(Error):
    message = (
        "{0}: in use: end the programs that have files open or their working directory in it "
        "('fuser -vm {0}')"
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


def check_mountpoint(target: str) -> None:
    """Raises Error unless `target` is a directory to mount on: there, empty and not ours already."""
    if is_ours(target):
        raise AlreadyMounted(target)
    try:
        with os.scandir(target) as entries:
            if next(entries, None) is not None:
                raise MountpointNotEmpty(target)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MountpointMissing(target) from error


def attach(mount: int, target: str) -> None:
    """Let a detached mount appear at `target`."""
    _native.move_mount(mount, b"", _native.AT_FDCWD, target, _native.MOVE_MOUNT_F_EMPTY_PATH)


def detach(target: str) -> None:
    """Unmount what is mounted at `target`. Raises Error if it is busy or not ours."""
    if not is_ours(target):
        raise NotMounted(target)
    try:
        _native.umount2(target, _native.UMOUNT_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise Busy(target) from error
        if error.errno != errno.EPERM:
            raise
        if subprocess.run([HELPER, "-u", "--", target], stderr=subprocess.DEVNULL).returncode:
            raise Busy(target) from error


def leave_sight(target: str, needed: Iterable[str]) -> int:
    """Move this process into a mount namespace with hardly any mounts; a descriptor of the one it leaves.

    Not with the mount at `target`: a daemon that sees its own mount may one day wait for itself; a module loaded late
    is enough, if it lies below. Nor with others, save those on the way to the `needed` paths: a copy keeps a mount
    alive after it was unmounted on the host, where mounts are private. Unmounting `target` on the host still works.
    Raises OSError: EPERM without CAP_SYS_ADMIN.
    """
    origin = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _native.unshare(_native.CLONE_NEWNS)
        _native.mount(None, "/", None, _native.MS_REC | _native.MS_SLAVE)
        _native.umount2(target, _native.UMOUNT_NOFOLLOW | _native.MNT_DETACH)
        _detach_unneeded(needed)
    except BaseException:
        os.close(origin)
        raise
    return origin


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


def detach_when_unused(target: str, namespace: int) -> int:
    """Start to unmount at once, or, if it is in use, to take it out of sight and let it end with its last user.

    `namespace` is where it is mounted (-1: here, by fusermount3). Returns the pid of a child that does it: the kernel
    has pages written back through us meanwhile.
    """
    child = os.fork()
    if child:
        return child
    try:
        if namespace < 0:
            os.execlp(HELPER, HELPER, "-u", "-z", "--", target)
        _native.setns(namespace, _native.CLONE_NEWNS)
        try:
            _native.umount2(target, _native.UMOUNT_NOFOLLOW)
        except OSError:
            _native.umount2(target, _native.UMOUNT_NOFOLLOW | _native.MNT_DETACH)
    except BaseException:
        os._exit(1)
    finally:
        os._exit(0)


def detach_stage(path: str) -> None:
    """Take the trees of mounts that were attached to a stage apart, so that it is an empty directory again."""
    with contextlib.suppress(OSError):  # EINVAL: nothing is mounted there
        while True:
            _native.umount2(path, _native.UMOUNT_NOFOLLOW | _native.MNT_DETACH)


def is_ours(target: str) -> bool:
    """Whether an overlaykit mount is at `target`, in this mount namespace."""
    path = os.path.realpath(target)
    return any(
        mount.mountpoint == path and mount.fstype == FILE_SYSTEM_TYPE
        for mount in mountinfo.visible(mountinfo.current())
    )


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
            ok=helper is not None or os.geteuid() == 0,
            detail=helper
            or "not installed; needed only for 'overlaykit mount' by an ordinary user",
            fix="" if helper else "apt-get install fuse3",
        ),
    ]
