"""Which namespaces a view shares with the host (`--share`), and the clocks of its own time namespace."""

from __future__ import annotations

from overlaykit.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final

NAMES: Final = ("net", "ipc", "uts", "cgroup", "time", "user")
_ALSO: Final = {"network": "net", "mnt": "mount"}
_NEVER: Final = {
    "mount": "a view is its own mounts: share paths with -v",
    "pid": "the end of a view is the end of its processes, which their PID namespace makes sure of",
}

LARGEST_OFFSET: Final = 1 << 33
"""Seconds; the kernel's limit depends on the time since its start (time_namespaces(7))."""


class NotShared(Error):
    message = "--share {0}: {1}"


class TimeConflict(Error):
    message = "{0}: a clock of its own needs a time namespace of its own: leave --share time out"


def parse(lists: Iterable[str]) -> frozenset[str]:
    """The names of lists separated by commas. Raises: NotShared."""
    found = set()
    for text in lists:
        for given in text.split(","):
            name = _ALSO.get(given, given)
            if name in _NEVER:
                raise NotShared(given, _NEVER[name])
            if name not in NAMES:
                raise NotShared(given, f"no namespace that can be shared: give {', '.join(NAMES)}")
            found.add(name)
    return frozenset(found)


def offsets(monotonic: int | None, boottime: int | None) -> str | None:
    """The lines for timens_offsets of procfs; seconds; None if neither is given."""
    given = (("monotonic", monotonic), ("boottime", boottime))
    return "".join(f"{clock} {by} 0\n" for clock, by in given if by is not None) or None
