"""Each test of this folder gets a stack of plain directories, and runs as root and as an ordinary user."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..posix.sandbox import Sandbox
from .inside import directory_for, pytest_pyfunc_call, sandbox
from .stack import Stack

__all__ = ["pytest_pyfunc_call", "sandbox", "stack"]


@pytest.fixture
def stack(sandbox: Sandbox) -> Iterator[Stack]:
    with directory_for(sandbox, "overlay") as directory:
        yield Stack(directory, unprivileged=sandbox.unprivileged or sandbox.ordinary)
