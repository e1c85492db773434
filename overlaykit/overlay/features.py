"""The features that wrote an upper, recorded in an attribute of its root, which both overlays hide from programs.

A driver that cannot show a feature refuses the upper. A feature is recorded before it is used for the first time, so
that a crash leaves a record that names too much rather than too little. An upper without a record is empty, or was
written by another program: `uppers.find_features` searches it.
"""

from __future__ import annotations

import os

from overlaykit import attributes
from overlaykit.overlay import began

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Final

REDIRECT: Final = "redirect"
"""A directory of a lower was renamed."""
INDEX: Final = "index"
"""A hard-linked file of a lower was copied up, and its other names show the copy."""
WHITEOUT_XATTR: Final = "whiteout-xattr"
"""Whiteouts are empty files with an attribute."""
WHITEOUT_AUFS: Final = "whiteout-aufs"
"""Whiteouts are files `.wh.NAME`."""
METACOPY: Final = "metacopy"
"""Files hold no data of their own: these are in a layer below."""
PERMISSIONS: Final = "permissions"
"""Owners and modes are kept in attributes."""

DESCRIPTIONS: Final = {
    REDIRECT: "renamed directories of a layer",
    INDEX: "hard links of a layer that were changed",
    WHITEOUT_XATTR: "whiteouts that are attributes",
    WHITEOUT_AUFS: "whiteouts of AUFS",
    METACOPY: "files whose data are in another layer",
    PERMISSIONS: "owners and modes in attributes",
}
"""What a user sees of a feature."""

_ATTRIBUTE: Final = b"features"


class Features:
    """The record of an open upper. `path`: gives the path of its root for a system call; `prefix`: of its markers.

    `is_new`: the upper is empty, and gets a record, and one of its begin. One that another program wrote gets none, and
    `add` does nothing.
    """

    def __init__(self, path: Callable[[], bytes], prefix: bytes, *, is_new: bool) -> None:
        """Raises: OSError."""
        self._path = path
        self._prefix = prefix
        self._recorded = read(path(), prefix)
        if self._recorded is None and is_new:
            began.record(path(), prefix)  # first, as this is done only once
            self._write(frozenset())

    @property
    def names(self) -> frozenset[str] | None:
        """Those that are recorded; None: there is no record."""
        return self._recorded

    def add(self, feature: str) -> None:
        """Record a feature. Costs a system call the first time only. Raises: OSError."""
        if self._recorded is not None and feature not in self._recorded:
            self._write(self._recorded | {feature})

    def _write(self, recorded: frozenset[str]) -> None:
        write(self._path(), self._prefix, recorded)
        self._recorded = recorded


def read(path: bytes, prefix: bytes) -> frozenset[str] | None:
    """The recorded features of the upper at `path`; None without a record."""
    raw = attributes.xattr_or_none(path, prefix + _ATTRIBUTE)
    if raw is None:
        return None
    return frozenset(name for name in raw.decode("ascii", "replace").split(",") if name)


def write(path: bytes, prefix: bytes, features: Iterable[str]) -> None:
    """Replace the record. Raises: OSError, EOPNOTSUPP and the like if the file system has no such attributes."""
    os.setxattr(path, prefix + _ATTRIBUTE, ",".join(sorted(features)).encode())
