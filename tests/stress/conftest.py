"""Every test of this folder mounts in a place of its own making, and plays as root and as an ordinary user."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

for module in ("fuse.mounted", "overlay.stack"):
    pytest.register_assert_rewrite(f"{__package__.partition('.')[0]}.{module}")

from ..overlay.inside import directory_for, place, pytest_pyfunc_call  # noqa: E402  # after that
from ..overlay.stack import Stack  # noqa: E402
from ..posix.place import Place  # noqa: E402

__all__ = ["place", "pytest_pyfunc_call", "stack"]


@pytest.fixture
def stack(place: Place) -> Iterator[Stack]:
    with directory_for(place, "stress") as directory:
        yield Stack(directory, unprivileged=place.unprivileged)
