"""Since when the layers are what an upper's changes are of, recorded in attributes of its root.

The time is recorded at the first mount of a new upper, before its first change. A copy of the upper keeps the record,
or loses it with the other attributes: then nothing is known. A layer's file with a later change time is not the one
that the view began with.

The record also holds the time at which the machine was started, as its clock has it. That is less once the clock was
set back: change times of that long before the record tell nothing then.
"""

from __future__ import annotations

import os
import time

from overlaykit import attributes
from overlaykit.record import Record
from overlaykit.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_BEGAN: Final = b"began"
_RESTORED: Final = b"restored"
_COARSE: Final = 5
"""CLOCK_REALTIME_COARSE, from which the kernel takes the times of files."""
_SLACK_NS: Final = 10**7
"""A clock that is set back by less is not noticed: a process may have to wait between two readings."""
_COARSEST_NS: Final = 2 * 10**9
"""The resolution of FAT."""


class Began(Record, kw_only=True):
    """What an upper says of the layers below it, in nanoseconds since the epoch.

    `since_ns`: a file that was changed later is not what the changes are of; 0: nothing is known. `restored_ns`: those
    that overlaykit put back until then are, in spite of their change times. `is_steady`: the clock was not set back.
    """

    since_ns: int = 0
    restored_ns: int = 0
    is_steady: bool = False


def record(path: bytes, prefix: bytes, until_ns: int | None = None) -> None:
    """Record in the upper at `path` that the layers are what its changes will be of.

    `until_ns`: all later change times are greater (default: the time now). Raises: OSError.
    """
    if until_ns is None:
        until_ns = time.clock_gettime_ns(_COARSE) - 1  # a change in the same tick is a later one
    os.setxattr(path, prefix + _BEGAN, b"%d %d" % (until_ns, _started_ns()))
    _remove(path, prefix + _RESTORED)


def record_restored(path: bytes, prefix: bytes, until_ns: int) -> None:
    """Record that files of the layers were put back, of which the changes in the upper's directory at `path` are.

    Raises: OSError.
    """
    os.setxattr(path, prefix + _RESTORED, b"%d" % until_ns)


def read(path: bytes, prefix: bytes, restored_in: bytes | None = None) -> Began:
    """What the upper at `path` says, and its directory `restored_in` (a path) of what was put back. Raises: OSError."""
    began = _numbers(path, prefix + _BEGAN)
    if len(began) != 2:
        return Began()
    since, started = began
    set_back = started - _started_ns()
    if time.time_ns() < since:  # and nothing tells how far it was
        return Began()
    if set_back > _SLACK_NS:
        return Began(since_ns=since - set_back)
    restored = _numbers(path, prefix + _RESTORED)
    if restored_in is not None and os.path.lexists(restored_in):
        restored += _numbers(restored_in, prefix + _RESTORED)
    return Began(since_ns=since, restored_ns=max(restored, default=0), is_steady=True)


def latest(changed_ns: int) -> int:
    """The latest time at which a file with a change time may have been changed: file systems round down.

    The resolution is guessed: no time of a coarse one has smaller digits.
    """
    resolution = 1
    while resolution < _COARSEST_NS and changed_ns % (resolution * 10) == 0:
        resolution *= 10
    return changed_ns + min(resolution, _COARSEST_NS) - 1


def is_settled(changed_ns: int) -> bool:
    """Whether the next change of a file gives it another change time for sure."""
    return latest(changed_ns) < time.clock_gettime_ns(_COARSE)


def _started_ns() -> int:
    return time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _numbers(path: bytes, name: bytes) -> list[int]:
    words = (attributes.xattr_or_none(path, name) or b"").split()
    return [int(word) for word in words] if all(map(bytes.isdigit, words)) else []


def _remove(path: bytes, name: bytes) -> None:
    if attributes.xattr_or_none(path, name) is not None:
        with suppress(OSError):
            os.removexattr(path, name)
