"""Long proofs, for `make proofs`: real programs on a mount and on a plain directory, as root and as an ordinary user.

They are collected only where OVERLAYKIT_PROOFS is set: they take minutes, and packages that nothing else needs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

for module in ("fuse.mounted", "overlay.stack"):
    pytest.register_assert_rewrite(f"{__package__.partition('.')[0]}.{module}")

from ..overlay.inside import directory_for, place, pytest_pyfunc_call  # noqa: E402  # after that
from ..overlay.stack import Stack  # noqa: E402
from ..posix.place import Place  # noqa: E402

__all__ = ["place", "pytest_pyfunc_call", "stack"]

collect_ignore_glob = [] if "OVERLAYKIT_PROOFS" in os.environ else ["test_*.py"]


@pytest.fixture
def stack(place: Place) -> Iterator[Stack]:
    with directory_for(place, "proof") as directory:
        yield Stack(directory, unprivileged=place.unprivileged)
