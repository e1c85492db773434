"""A root of its own for programs that serve the view's files, and do not live among them."""

from __future__ import annotations

import os

from overlaykit import _native
from overlaykit.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    from overlaykit.namespace.plan import Plan

_FILES: Final = "nested files"
_FOR_READING: Final = (
    _native.MOUNT_ATTR_RDONLY
    | _native.MOUNT_ATTR_NOSUID
    | _native.MOUNT_ATTR_NODEV
    | _native.MOUNT_ATTR_NOEXEC
)


class Nested(Record, kw_only=True):
    """A directory in the view's /run that is such a root, once binds fill it."""

    path: str
    files: str
    """Where in it the view's files are: its layers alone, read-only, without any mount of the view's."""
    links: tuple[tuple[str, str], ...] = ()
    """Symbolic links in it: names and targets."""


def take_files(plan: Plan) -> None:
    """Clone the root mount. Requires: nothing is mounted below it yet."""
    plan.clone(_FILES, "/", _FOR_READING)


def complete(plan: Plan, nested: Nested, hidden: Sequence[str]) -> None:
    """Mount the view's files, without those that are hidden, and processes in it. Requires: its binds are mounted."""
    files = nested.path + nested.files
    plan.attach(_FILES, files)
    if hidden:
        # A symbolic link leads from them into the view, so that the other end is covered as well.
        paths = dict.fromkeys(one for path in hidden for one in (path, os.path.realpath(path)))
        plan.hide([files + path for path in paths])
    plan.clone("nested proc", "/proc")
    plan.attach("nested proc", f"{nested.path}/proc")
    for name, target in nested.links:
        plan.symlink(target, f"{nested.path}/{name}")
