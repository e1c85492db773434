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
import select
import shutil
from typing import TYPE_CHECKING, Final, NoReturn

from overlaykit import _native, mountinfo, privilege
from overlaykit.errors import Error
from overlaykit.fuse import holders
from overlaykit.fuse.directories import (
    absolute,
    lies_in_deleted_directory,
    open_directory,
    real_path,
)
from overlaykit.health import Check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from overlaykit.fuse.spec import MountFlags
    from overlaykit.mountinfo import Mount

DEVICE: Final = "/dev/fuse"
FILE_SYSTEM_TYPE: Final = "fuse.overlaykit"
"""As /proc/self/mountinfo shows our mounts."""

HELPER: Final = "fusermount3"

_HELPER_FAILED: Final = errno.EPERM
"""The exit status of fusermount3, 1, where an errno is expected."""
_PATIENCE: Final = 3.0
"""Seconds."""
_LAST_DESCRIPTOR: Final = 0xFFFF_FFFF  # ~0U: close_range(2) takes it as "to the end"
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


class Busy(Error):
    message = "{0}: in use by {1}: end these, or let the mount end with them: 'overlaykit umount --lazy {0}'"


class Covered(Error):
    message = "{0}: other mounts lie in it: unmount these first: {1}"


class Unanswered(Error):
    message = (
        "{0}: its daemon does not answer, so that what was written cannot be flushed: it is "
        "unmounted once that is done; to end it without: 'overlaykit umount --force {0}'"
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
            )  # which a mount answers that is not dead: to open one takes no request
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


def detach(
    mounted: Mount, *, lazy: bool = False, goes_on: Callable[[], bool] = lambda: False
) -> None:
    """Unmount; what was written is flushed first. If `lazy`, only out of sight: it ends with its last user.

    Signals arrive meanwhile: another process makes the system call, in which the kernel waits for the daemon. `goes_on`
    is asked now and then whether that makes progress. Raises Error: Busy, Covered, Unanswered.
    """
    target = mounted.mountpoint
    flags = _native.UMOUNT_NOFOLLOW | (_native.MNT_DETACH if lazy else 0)
    failed = _in_child(lambda: _native.umount2(target, flags), goes_on)
    if failed == errno.EPERM:
        options = ["-u", "-z"] if lazy else ["-u"]
        failed = _in_child(lambda: _run_helper([*options, "--", target]), goes_on)
    if failed is None:
        raise Unanswered(target)
    if failed in (errno.EINVAL, _HELPER_FAILED) and with_id(mounted.id) is None:
        return  # another one has unmounted it meanwhile
    if failed in (errno.EBUSY, _HELPER_FAILED):
        inside = [one.mountpoint for one in mountinfo.current() if one.parent == mounted.id]
        if inside:
            raise Covered(target, " ".join(inside))
        using = [one for one in holders.find(mounted.device) if one.uses]
        if not using and holders.is_user(os.getpid(), mounted.device):
            raise Busy(
                target, "this command itself, whose working directory or open files lie there"
            )
        raise Busy(target, holders.describe(using))
    if failed:
        raise OSError(failed, os.strerror(failed), target)


def discard(target: str) -> None:
    """Take the mount whose daemon has ended out of sight, if it is at `target`."""
    mounted = find(target)
    if mounted is not None:
        with contextlib.suppress(Error, OSError):
            detach(mounted, lazy=True)


def _in_child(act: Callable[[], object], goes_on: Callable[[], bool]) -> int | None:
    """Run system calls in a process of their own: 0, or the errno they failed with; None if they make no progress.

    Then they go on by themselves: a process that waits for a file system cannot be ended.
    """
    child = os.fork()
    if child == 0:
        failed = errno.EIO
        try:
            _native.close_range(0, _LAST_DESCRIPTOR, 0)  # a reader of our output waits for its end
            act()
            failed = 0
        except OSError as error:
            failed = error.errno or errno.EIO
        finally:
            os._exit(failed)
    ended = os.pidfd_open(child)
    try:
        while not readable_within(ended, _PATIENCE):
            if not goes_on():
                return None
    finally:
        os.close(ended)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _run_helper(arguments: list[str]) -> NoReturn:
    """Become fusermount3. Its exit status is 1 for whatever it is that fails: mostly that the mount is in use."""
    for _ in range(3):
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    os.execlp(HELPER, HELPER, *arguments)


def readable_within(descriptor: int, seconds: float) -> bool:
    """Wait until a descriptor is readable, at most so long."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0, seconds) * 1000))


def abort(device: int) -> None:
    """End the connection of a mount with its daemon, where fusectl lets this user: its number is the minor device
    number (Documentation/filesystems/fuse/fuse.rst). Its users get ENOTCONN."""
    path = f"/sys/fs/fuse/connections/{os.minor(device)}/abort"
    with contextlib.suppress(OSError), open(path, "w") as file:
        file.write("1")


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


def detach_when_unused(mount_id: int) -> int:
    """Start to unmount at once, or, if it is in use, to take it out of sight and let it end with its last user.

    Returns the pid of a child that does it: the kernel has pages written back through us meanwhile. Where its namespace
    has no process any more, there is nothing to do.
    """
    child = os.fork()
    if child:
        return child
    try:
        mounted = _enter_namespace_of(mount_id)
        if mounted is not None:
            try:
                _native.umount2(mounted.mountpoint, _native.UMOUNT_NOFOLLOW)
            except PermissionError:
                os.execlp(HELPER, HELPER, "-u", "-z", "--", mounted.mountpoint)
            except OSError:
                flags = _native.UMOUNT_NOFOLLOW | _native.MNT_DETACH
                _native.umount2(mounted.mountpoint, flags)
    except BaseException:
        os._exit(1)
    finally:
        os._exit(0)


def _enter_namespace_of(mount_id: int) -> Mount | None:
    """Join the mount namespace in which a mount is; the mount as seen there, or None if there is no process in it."""
    candidates: list[int | str] = ["self", *holders.processes()]
    for process in candidates:
        with contextlib.suppress(OSError):  # it has ended, or may not be looked at
            if any(one.id == mount_id for one in mountinfo.of_process(process)):
                if process != "self":
                    namespace = os.open(f"/proc/{process}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
                    _native.setns(namespace, _native.CLONE_NEWNS)
                return with_id(mount_id)
    return None


def detach_stage(path: str) -> None:
    """Take the trees of mounts that were attached to a stage apart, so that it is an empty directory again."""
    with contextlib.suppress(OSError):  # EINVAL: nothing is mounted there
        while True:
            _native.umount2(path, _native.UMOUNT_NOFOLLOW | _native.MNT_DETACH)


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
