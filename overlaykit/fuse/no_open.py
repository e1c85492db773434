"""Whether programs open files without a request to the daemon (option `no_open`).

The kernel takes ENOSYS as the answer to an OPEN for "never ask" (fs/fuse/file.c: no_open), for the life of the mount,
and sends no RELEASE either. All other requests about a file name its node only. So the daemon opens a file when it is
first read or written to, and closes it when the kernel has forgotten it, or when it has too many others open.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from overlaykit.fuse.kernel_version import version_of

if TYPE_CHECKING:
    from overlaykit.fuse.spec import MountSpec

_MENDED: Final = ((6, 12, 64), (6, 18, 3))
"""The first versions of stable kernels that keep an inode until what is read of it has come, also without OPEN; all
after the last one do. Others may wait for themselves when memory is short ("fuse: fix readahead reclaim deadlock")."""


def obstacle(spec: MountSpec, release: str | None = None) -> str:
    """Why a mount cannot go without OPEN; empty if it can. `release`: of the kernel; None: the running one's."""
    if any(layer.live for layer in spec.layers):
        return "the files of a layer may change: only an open file stays what it is"
    if spec.options.data != "cache":
        return "with data=passthrough the kernel is given each file when it is opened"
    if spec.options.limit is not None:
        return "a limit of the upper counts removed files until they are closed"
    if not _is_mended(os.uname().release if release is None else release):
        return "it takes Linux 6.18.3, or 6.12.64: others may stop when memory is short"
    return ""


def needs_open(spec: MountSpec) -> bool:
    """Whether something of a mount depends on OPEN, so that `auto` does not give it up.

    A keeper has to know the open files. With a timeout the lowers may change. With a limit copy-up is expected to fail,
    and open(2) says so.
    """
    options = spec.options
    return spec.restart or options.timeout is not None or options.by_project


def is_on(spec: MountSpec) -> bool:
    """Whether a mount goes without OPEN."""
    asked = spec.options.no_open
    return (asked == "on" or (asked == "auto" and not needs_open(spec))) and not obstacle(spec)


def notes(spec: MountSpec) -> tuple[str, ...]:
    """Lines for the user of a mount that was to go without OPEN."""
    reason = obstacle(spec) if spec.options.no_open == "on" else ""
    return (f"no_open=on: without effect here: {reason}",) if reason else ()


def _is_mended(release: str) -> bool:
    version = version_of(release)
    return version >= _MENDED[-1] or any(
        version[:2] == first[:2] and version >= first for first in _MENDED
    )
