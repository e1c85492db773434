"""Long proofs, for `make proofs`: real programs on a mount and on a plain directory, as root and as an ordinary user.

They are collected only if OVERLAYKIT_PROOFS is set: they take minutes, and packages that no other test needs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from ..overlay.inside import directory_for, pytest_pyfunc_call, sandbox
from ..overlay.stack import Stack
from ..posix.sandbox import Sandbox

__all__ = ["pytest_pyfunc_call", "sandbox", "stack"]

collect_ignore_glob = [] if "OVERLAYKIT_PROOFS" in os.environ else ["test_*.py"]


@pytest.fixture
def stack(sandbox: Sandbox) -> Iterator[Stack]:
    with directory_for(sandbox, "proof") as directory:
        yield Stack(directory, unprivileged=sandbox.unprivileged)
