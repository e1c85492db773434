"""Directories to mount on, and the overlaykit mounts of this mount namespace."""

from __future__ import annotations

import errno
import os

from overlaykit import mountinfo
from overlaykit.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from overlaykit.mountinfo import Mount

FILE_SYSTEM_TYPE: Final = "fuse.overlaykit"
"""The type of overlaykit mounts in /proc/self/mountinfo."""


class TargetMissing(Error):
    message = "{0}: no such directory to mount on: create it first"


class TargetNotDirectory(Error):
    message = "{0}: is no directory: name one to mount on"


class TargetDeleted(Error):
    message = "{0}: {1} has been deleted: change to another directory"


class DeadMount(Error):
    message = "{0}: a mount is there whose daemon has ended: 'overlaykit umount {0}' first"


class NotMounted(Error):
    message = "{0}: no overlaykit mount is there: 'overlaykit ps' lists those that are"


def open_target(path: str) -> int:
    """Open a directory to mount on (O_PATH). Raises Error unless it is one."""
    # Late: `diff` and `ps` mount nothing.
    from overlaykit.fuse.directories import (
        absolute,
        lies_in_deleted_directory,
        open_directory,
        real_path,
    )

    try:
        fd = open_directory(path)
        try:
            # Opening sends no request to a mount that is there, fstat(2) does: it fails if that mount is dead.
            found = os.fstat(fd)
            if not found.st_nlink and real_path(fd).endswith(" (deleted)"):
                raise TargetDeleted(path, "this directory")
        except BaseException:
            os.close(fd)
            raise
        return fd
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            raise DeadMount(absolute(path)) from error
        if error.errno == errno.ENOTDIR and path:
            raise TargetNotDirectory(absolute(path)) from error
        if lies_in_deleted_directory(path):
            raise TargetDeleted(path, "the working directory") from error
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise TargetMissing(absolute(path) if path else "") from error
        raise


def find(target: str) -> Mount | None:
    """The overlaykit mount at `target` in this mount namespace.

    Resolves the last name only if no mount has it: the daemon of a mount may not answer.
    """
    if not target:
        # abspath would make it the working directory.
        return None
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


def of_device(device: int) -> list[Mount]:
    """The visible mounts of a device in this mount namespace."""
    return [one for one in mountinfo.visible(mountinfo.current()) if one.device == device]
