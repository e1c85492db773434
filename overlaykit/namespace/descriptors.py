"""Descriptors: a child of the launcher keeps those it is told to, and no other of its caller's; waiting for them."""

from __future__ import annotations

import select
from collections.abc import Iterable
from typing import Final

from overlaykit import _native

LAST: Final = 0xFFFF_FFFF  # ~0U: close_range(2) takes it as "to the end"


def close_all_but(kept: Iterable[int]) -> None:
    """Close every descriptor of this process that is not among `kept`."""
    first = 0
    for descriptor in sorted(set(kept)):
        if first < descriptor:
            _native.close_range(first, descriptor - 1, 0)
        first = descriptor + 1
    _native.close_range(first, LAST, 0)


def await_readable(watched: Iterable[int], *, milliseconds: int | None = None) -> set[int]:
    """Wait until one of the descriptors is readable; those that are (poll(2): no limit to their numbers)."""
    poll = select.poll()
    for descriptor in watched:
        poll.register(descriptor, select.POLLIN)
    return {descriptor for descriptor, _ in poll.poll(milliseconds)}


def is_readable(descriptor: int) -> bool:
    return bool(await_readable([descriptor], milliseconds=0))
