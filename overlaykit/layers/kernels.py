"""Debian's kernels as packages: fetched through the mirror of the machine's apt sources, never installed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from overlaykit.layers.aptsources import debian_mirror
from overlaykit.layers.privateapt import PrivateApt
from overlaykit.layers.program import errors_of
from overlaykit.layers.staging import opened, staged
from overlaykit.layers.store import default_base
from overlaykit.layers.tar import DamagedArchive
from overlaykit.scope import suppress

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGE: Final = "linux-image-cloud-amd64"
_ONLY_TO_INSTALL: Final = ("initramfs-tools", "kmod", "linux-base")
"""What the package depends on for its installation; apt takes it as installed, and does not fetch it."""


def unpack(suite: str, directory: str) -> None:
    """Unpack the kernel of a suite of Debian into `directory`, which has to exist.

    Raises: the errors of PrivateApt; NoDebianMirror; DamagedArchive; OSError.
    """
    apt = PrivateApt(os.path.join(directory, "apt"), suite)
    apt.update(debian_mirror())
    installed = [
        f"Package: {name}\nStatus: install ok installed\nVersion: 9999\nArchitecture: all\n"
        f"Multi-Arch: foreign\nMaintainer: none\nDescription: none"
        for name in _ONLY_TO_INSTALL
    ]
    for deb in apt.download([PACKAGE], installed):
        status, errors = errors_of(["dpkg-deb", "-x", deb, os.path.join(directory, "kernel")])
        if status:
            raise DamagedArchive(os.path.basename(deb), errors.strip().rpartition("\n")[2])


def place() -> tuple[str, str]:
    """The directory of the kernels, beside that of the layers, and the parent that has to exist."""
    base, layers = default_base()
    return base, os.path.join(os.path.dirname(layers), "kernels")


def fetched(suite: str, reduce: Callable[[str], None], is_complete: Callable[[str], bool]) -> str:
    """The directory of the suite's kernel, fetched on first use; `reduce` removes what is not needed from a new one.

    One that another version of this program has reduced further is fetched again: `is_complete` says so.
    Raises: as `unpack`; StoreUnusable.
    """
    base, top = place()
    path = os.path.join(top, suite)
    outdated = os.path.isdir(path)
    if outdated and is_complete(path):
        return path
    with staged(top, base=base) as (_, directory):
        unpack(suite, directory)
        reduce(os.path.join(directory, "kernel"))
        if outdated and not is_complete(path):
            with suppress(FileNotFoundError):
                os.rename(path, os.path.join(directory, "replaced"))
        try:
            os.rename(os.path.join(directory, "kernel"), path)
        except OSError:  # another process has fetched it as well
            if not os.path.isdir(path):
                raise
        with opened(top) as root:
            os.fsync(root)
    return path
