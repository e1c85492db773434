"""Limits of resources of a command (`--ulimit`), with podman's names (setrlimit(2))."""

from __future__ import annotations

import resource

from overlaykit.errors import Error
from overlaykit.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from overlaykit.namespace.plan import Plan

_NUMBERS: Final = {
    "cpu": 0,
    "fsize": 1,
    "data": 2,
    "stack": 3,
    "core": 4,
    "rss": 5,
    "nproc": 6,
    "nofile": 7,
    "memlock": 8,
    "as": 9,
    "locks": 10,
    "sigpending": 11,
    "msgqueue": 12,
    "nice": 13,
    "rtprio": 14,
    "rttime": 15,
}
"""asm-generic/resource.h."""
INFINITE: Final = (1 << 64) - 1


class BadUlimit(Error):
    message = "--ulimit {0}: {1}; write NAME=SOFT[:HARD], each a number, -1 for no limit"


class Ulimit(Record, kw_only=True):
    """A soft and a hard limit."""

    name: str
    soft: int
    hard: int


def parse_ulimit(text: str) -> Ulimit:
    """Parse `NAME=SOFT[:HARD]`; one number is for both. Raises: BadUlimit."""
    name, equals, values = text.partition("=")
    if name not in _NUMBERS or not equals:
        raise BadUlimit(text, f"{name!r} is none of {', '.join(sorted(_NUMBERS))}")
    soft, _, hard = values.partition(":")
    limits = Ulimit(name=name, soft=_value(text, soft), hard=_value(text, hard or soft))
    if limits.soft > limits.hard:
        raise BadUlimit(text, "the soft limit is above the hard one")
    return limits


def raise_limits(plan: Plan, ulimits: tuple[Ulimit, ...]) -> None:
    """Raise hard limits above those of this process, while the view's init has the capability for it."""
    for one in ulimits:
        number = _NUMBERS[one.name]
        soft, hard = (limit & INFINITE for limit in resource.getrlimit(number))
        if one.hard > hard:
            plan.limit(number, soft, one.hard, one.name)


def set_limits(plan: Plan, ulimits: tuple[Ulimit, ...]) -> None:
    """Set the limits of the command."""
    for one in ulimits:
        plan.limit(_NUMBERS[one.name], one.soft, one.hard, one.name)


def _value(text: str, value: str) -> int:
    if value in ("-1", "unlimited"):
        return INFINITE
    if not (value.isascii() and value.isdecimal() and int(value) < INFINITE):
        raise BadUlimit(text, f"{value!r} is no limit")
    return int(value)
