"""Checks of what a machine needs to mount, for `overlaykit doctor`."""

from __future__ import annotations

import os
import platform
import shutil
from typing import Final

from overlaykit import _native, privilege
from overlaykit.errors import Error
from overlaykit.fuse.kernel_version import version_of
from overlaykit.fuse.mount import DEVICE, HELPER, create, open_device
from overlaykit.fuse.spec import MountFlags
from overlaykit.health import Check

_RESENDS: Final = (6, 9)


def checks() -> list[Check]:
    """The FUSE device, and fusermount3 where it is needed."""
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
        Check(
            name="restart",
            ok=True,
            detail="'overlaykit mount' replaces a daemon that is killed"
            if _resends(platform.release())
            else "'overlaykit mount' replaces a daemon that is killed, with EIO for what is under way before"
            " Linux 6.9",
            fix="",
        ),
    ]


def _resends(release: str) -> bool:
    """Whether a kernel of this release sends requests again (FUSE_NOTIFY_RESEND, Linux 6.9)."""
    return version_of(release) >= _RESENDS


def offers_no_handles() -> bool:
    """Whether the kernel lets a FUSE file system be without file handles. Raises: OSError, Error.

    Requires: CAP_SYS_ADMIN in the user namespace of this process's mount namespace.
    """
    device = open_device()
    try:
        mount = create(device, "probe", MountFlags(), read_only=True)
        try:
            return bool(
                _native.begin_session(device, False, False) & _native.FUSE_NO_EXPORT_SUPPORT
            )
        finally:
            os.close(mount)
    finally:
        os.close(device)
