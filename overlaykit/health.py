"""A result of `overlaykit doctor`: one property of this machine, found by a room and printed by the command line."""

from __future__ import annotations

from overlaykit.record import Record


class Check(Record):
    """A requirement of views, tried and not guessed from a version."""

    name: str
    """The requirement, as a noun: "user namespaces"."""
    ok: bool
    """Whether it works here."""
    detail: str
    """The observation, in one line."""
    fix: str
    """The fix if `ok` is false; else empty."""
