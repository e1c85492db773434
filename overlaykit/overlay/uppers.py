"""An upper that no daemon serves: the features that wrote it, and the modes that a killed daemon left widened."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from overlaykit.overlay import features, overrides
from overlaykit.overlay.descriptors import Descriptors
from overlaykit.overlay.layer import Layer
from overlaykit.overlay.markers import (
    FUSE_OVERLAYFS_PREFIX,
    Markers,
    is_aufs_name,
    xattr_names,
)
from overlaykit.overlay.work import Work

if TYPE_CHECKING:
    from collections.abc import Iterator

_INDEX = "index"


def find_features(upper: int, work: int, prefix: bytes) -> frozenset[str]:
    """Search an upper that has no record, open as `upper`, for features. Follows no symlink.

    Requires: nothing changes it during the search.
    """
    found = set(_in_directories(upper, prefix))
    if overrides.find(b"/proc/self/fd/%d" % upper, allow_user=True) is not None:
        found.add(features.PERMISSIONS)
    try:
        if os.listdir(f"/proc/self/fd/{work}/{_INDEX}"):
            found.add(features.INDEX)
    except FileNotFoundError:
        pass
    return frozenset(found)


def recover(upper: int, work: int) -> None:
    """Remove the unfinished work of a killed daemon, and restore the modes that it had widened."""
    descriptors = Descriptors(16)
    layers = [
        Layer(os.dup(fd), index, path="", writable=True, descriptors=descriptors)
        for index, fd in enumerate((upper, work))
    ]
    try:
        Work(layers[1], layers[0].root)
    finally:
        descriptors.close()
        for layer in layers:
            layer.close()


def _in_directories(upper: int, prefix: bytes) -> Iterator[str]:
    """The features that the names and attributes of all directories show."""
    markers = Markers(prefix)
    for _, directories, files, fd in os.fwalk(b".", dir_fd=upper, follow_symlinks=False):
        path = b"/proc/self/fd/%d" % fd
        found = markers.of_directory(path, upper=True)
        if found.redirect is not None:
            yield features.REDIRECT
        if found.whiteout_files:
            yield features.WHITEOUT_XATTR
        names = [*directories, *files]
        if any(map(is_aufs_name, names)):
            yield features.WHITEOUT_AUFS
        if any(name.startswith(FUSE_OVERLAYFS_PREFIX) for name in xattr_names(path)):
            yield features.WHITEOUT_AUFS
        if any(markers.metacopy(path + b"/" + name) is not None for name in files):
            yield features.METACOPY
