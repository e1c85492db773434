"""Every test of this folder mounts in its own sandbox, as root and as an ordinary user."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..overlay.inside import directory_for, pytest_pyfunc_call, sandbox
from ..overlay.stack import Stack
from ..posix.sandbox import Sandbox

__all__ = ["pytest_pyfunc_call", "sandbox", "stack"]


@pytest.fixture
def stack(sandbox: Sandbox) -> Iterator[Stack]:
    with directory_for(sandbox, "stress") as directory:
        yield Stack(directory, unprivileged=sandbox.unprivileged)
