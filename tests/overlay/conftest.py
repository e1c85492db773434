"""Every test of this folder gets a stack of plain directories, and plays as root and as an ordinary user."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite(f"{__package__}.stack")

from ..posix.place import Place  # noqa: E402  # after what is to be rewritten
from .inside import directory_for, place, pytest_pyfunc_call  # noqa: E402
from .stack import Stack  # noqa: E402

__all__ = ["place", "pytest_pyfunc_call", "stack"]


@pytest.fixture
def stack(place: Place) -> Iterator[Stack]:
    with directory_for(place, "overlay") as directory:
        yield Stack(directory, unprivileged=place.unprivileged or place.ordinary)
