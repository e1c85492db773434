"""The permitted differences from the kernel's overlayfs, each with its reason. Any other difference is a failure."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from overlaykit.overlay import features

from .observation import Description, Result
from .operations import Operation
from .slots import (
    ChmodHeld,
    ChownHeld,
    ReadHeld,
    ReadMapped,
    RemoveXattrHeld,
    SetXattrHeld,
    StatHeld,
    TouchHeld,
)


@dataclass(frozen=True)
class Difference:
    name: str
    reason: str
    documented: str
    """Its row in docs/differences.md."""
    explains: Callable[[Operation, Result, Result], bool]
    """Whether the operation, the kernel's result and ours are an instance of it."""


@dataclass(frozen=True)
class Unshown:
    """What ours writes in a user namespace and the kernel's overlayfs does not show there: a feature of an upper."""

    feature: str
    documented: str
    """Its row in docs/differences.md."""


def _kernel_version() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(digit for digit in minor if digit.isdigit()))


_CHANGES = ChmodHeld | ChownHeld | TouchHeld | SetXattrHeld | RemoveXattrHeld


def _is_changed_nameless(kernel: Result, ours: Result) -> bool:
    """Whether ours has no name, and differs in what `_CHANGES` change, which the kernel refused. It may tell links."""
    if not isinstance(kernel.value, Description) or not isinstance(ours.value, Description):
        return False
    changed = ours.value
    return changed == kernel.value._replace(
        links=0, mode=changed.mode, uid=changed.uid, gid=changed.gid, modified=changed.modified
    )


def _is_nameless_here_alone(kernel: Result, ours: Result) -> bool:
    return (
        isinstance(kernel.value, Description)
        and isinstance(ours.value, Description)
        and ours.value == kernel.value._replace(links=0)
    )


DIFFERENCES = (
    Difference(
        "stale reader",
        "A descriptor opened for reading before copy-up keeps showing the lower file on older kernels "
        "(overlayfs.rst, non-standard behavior); ours shows what was written, as POSIX asks.",
        "A lower file that is open or mapped during its copy-up",
        lambda operation, kernel, ours: (
            isinstance(operation, ReadHeld)
            and kernel.error is None
            and ours.error is None
            and _kernel_version() < (6, 14)
        ),
    ),
    Difference(
        "stale mapping",
        "A descriptor opened for reading before copy-up maps the lower file for good (overlayfs.rst, non-standard "
        "behavior); what ours maps is what was written.",
        "A lower file that is open or mapped during its copy-up",
        lambda operation, kernel, ours: (
            isinstance(operation, ReadMapped) and kernel.error is None and ours.error is None
        ),
    ),
    Difference(
        "nameless file",
        "A lower file that is held open and has lost its name can be changed; the kernel fails with EEXIST, since it "
        "finds a whiteout or another file where the copy would go.",
        "Change, through a descriptor, of a lower file without a name",
        lambda operation, kernel, ours: (
            ours.error is None
            and (
                (isinstance(operation, _CHANGES) and kernel.error == "EEXIST")
                or (isinstance(operation, StatHeld) and _is_changed_nameless(kernel, ours))
            )
        ),
    ),
    Difference(
        "links of a nameless file",
        "A lower file that is held open and has lost its name has no link, as POSIX asks; the kernel tells the number "
        "of the file in the lower.",
        "Number of links of a lower file without a name",
        lambda operation, kernel, ours: (
            isinstance(operation, StatHeld) and _is_nameless_here_alone(kernel, ours)
        ),
    ),
)


_IN_A_USER_NAMESPACE = (
    "In a user namespace: rename of lower directories, hard links of a lower, inode numbers over a "
    "remount"
)

UNSHOWN = (
    Unshown(features.REDIRECT, _IN_A_USER_NAMESPACE),
    Unshown(features.INDEX, _IN_A_USER_NAMESPACE),
)
