"""What younger kernels have and overlaykit uses, each tried by its effect; and what a view lacks without it.

A probe returns whether the ability is there, or raises OSError if it cannot tell. One that mounts does so in a child:
`Ability.is_here`. The versions are for the user; no decision depends on them.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import Final

from overlaykit import _native
from overlaykit.fuse import doctor as fuse
from overlaykit.fuse.server_peer import has_peer_pidfd
from overlaykit.namespace import users
from overlaykit.overlay.layer import has_file_system_uuid
from overlaykit.overlay.marker_names import prefixes
from overlaykit.record import Record
from overlaykit.views.kernel_driver import in_user_namespace
from overlaykit.views.whiteout_probe import reads_whiteout_attributes

_ABSENT: Final = errno.ENODATA


class Ability(Record):
    """One ability of the kernel."""

    name: str
    since: str
    """The version of Linux that has it first."""
    cost: str
    """What views lack without it."""
    probe: Callable[[str], bool]
    """Tries it. Gets an empty directory on which it may mount."""

    def is_here(self, stage: str) -> bool | None:
        """Try it, as root of a user namespace where the caller is not privileged. None: the probe fails here."""

        def body() -> None:
            users.become(_native.CLONE_NEWNS)
            _native.mount(None, "/", None, _native.MS_REC | _native.MS_PRIVATE)
            if not self.probe(stage):
                raise OSError(_ABSENT, self.name)

        number = users.errno_of(body)
        return None if number not in (0, _ABSENT) else number == 0


def _peer_pidfds(_: str) -> bool:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        return has_peer_pidfd(ours)


def _user_attributes_in_memory(_: str) -> bool:
    file = os.memfd_create("probe")
    try:
        os.setxattr(file, "user.probe", b"")
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return False
    finally:
        os.close(file)
    return True


def _uuid_of_memory(_: str) -> bool:
    file = os.memfd_create("probe")
    try:
        return has_file_system_uuid(file)
    finally:
        os.close(file)


def _attributes_on_an_overlay(stage: str) -> bool:
    _native.mount("probe", stage, "tmpfs", _native.MS_NODEV, "mode=0700")
    for name in ("lower", "upper", "work", "merged"):
        os.mkdir(os.path.join(stage, name))
    user = in_user_namespace()
    options = "userxattr," if user else ""
    options += f"lowerdir={stage}/lower,upperdir={stage}/upper,workdir={stage}/work"
    _native.mount("probe", f"{stage}/merged", "overlay", _native.MS_NODEV, options)
    prefix, _ = prefixes(user=user)
    try:
        os.setxattr(f"{stage}/merged", prefix + b"probe", b"y")
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EPERM):
            raise
        return False
    return True


def _lowers_one_by_one(stage: str) -> bool:
    _native.mount("probe", stage, "tmpfs", _native.MS_NODEV, "mode=0700")
    context = _native.fsopen("overlay", _native.FSOPEN_CLOEXEC)
    try:
        for name in ("a", "b"):
            path = os.path.join(stage, name)
            os.mkdir(path)
            _native.fsconfig(context, _native.FSCONFIG_SET_STRING, "lowerdir+", path)
        _native.fsconfig(context, _native.FSCONFIG_CMD_CREATE, None, None)
    except OSError as error:
        # Before Linux 6.5 the last call says so: kernel_mount.py.
        if error.errno != errno.EINVAL:
            raise
        return False
    finally:
        os.close(context)
    return True


ABILITIES: Final = (
    Ability(
        "pidfds of a socket's peer",
        "6.5",
        "the server finds a client by its process id, and refuses one that has ended",
        _peer_pidfds,
    ),
    Ability(
        "user attributes on tmpfs",
        "6.6",
        "an ordinary user's upper cannot lie on a tmpfs, such as /dev/shm",
        _user_attributes_in_memory,
    ),
    Ability(
        "whiteouts that are attributes",
        "6.7",
        "the driver kernel refuses a layer that holds such whiteouts",
        lambda stage: reads_whiteout_attributes(stage, user=in_user_namespace()),
    ),
    Ability(
        "overlay attributes on an overlay",
        "6.7",
        "an ordinary user's upper cannot lie on an overlay, such as a container's root",
        _attributes_on_an_overlay,
    ),
    Ability(
        "layers given one by one",
        "6.8",
        "the driver kernel takes some 200 layers instead of 500",
        _lowers_one_by_one,
    ),
    Ability(
        "uuids of file systems",
        "6.9",
        "copied-up files of several lowers on disks other than ext4 have new inode numbers at the next mount",
        _uuid_of_memory,
    ),
    Ability(
        "FUSE mounts without file handles",
        "6.9",
        "name_to_handle_at gives handles in a view, which are stale once the kernel has forgotten the file",
        lambda _: fuse.offers_no_handles(),
    ),
)
