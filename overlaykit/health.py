"""One answer of `overlaykit doctor`: what a room found out about this machine.

Imports nothing, so every room may answer with it; the command line only prints.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a view needs, tried for real rather than guessed from a version."""

    name: str
    """What was tried, as a noun: "user namespaces"."""
    ok: bool
    """Whether it works here."""
    detail: str
    """What was seen, in one line."""
    fix: str
    """The exact way out when `ok` is false; empty when there is nothing to do."""
