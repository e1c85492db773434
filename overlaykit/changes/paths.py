"""Paths of a view or a target: bytes from its root, without a leading slash; that of the root is empty."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container


def is_below(path: bytes, top: bytes) -> bool:
    """Whether a path is `top` or below it."""
    return not top or path == top or path.startswith(top + b"/")


def parent(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]


def name_of(path: bytes) -> bytes:
    return path.rpartition(b"/")[2]


def join(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name


def is_in(path: bytes, tops: Container[bytes | None]) -> bool:
    """Whether a path is one of `tops` or below one."""
    while path and path not in tops:
        path = parent(path)
    return path in tops
