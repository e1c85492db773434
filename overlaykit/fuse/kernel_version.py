"""The version of a kernel, where no probe tells what it does."""

from __future__ import annotations

import re


def version_of(release: str) -> tuple[int, ...]:
    """The three numbers that a release (uname(2)) begins with; all 0 if it does not begin with two."""
    numbers = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release)
    return (0, 0, 0) if numbers is None else tuple(int(one or 0) for one in numbers.groups())
