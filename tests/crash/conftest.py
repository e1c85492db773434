"""Each test of this folder mounts in namespaces of its own, and runs as root and as an ordinary user."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

for module in ("crash.recovered", "fuse.mounted", "overlay.stack"):
    pytest.register_assert_rewrite(f"{__package__.partition('.')[0]}.{module}")

from ..overlay.inside import directory_for, pytest_pyfunc_call, sandbox  # noqa: E402  # after that
from ..overlay.stack import Stack  # noqa: E402
from ..posix.sandbox import Sandbox  # noqa: E402

__all__ = ["pytest_pyfunc_call", "sandbox", "stack"]


@pytest.fixture
def stack(sandbox: Sandbox) -> Iterator[Stack]:
    with directory_for(sandbox, "crash") as directory:
        yield Stack(directory, unprivileged=sandbox.unprivileged)
