"""Each test of this folder runs in a sandbox, as root and as an ordinary user, and on uppers of both overlays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..overlay.inside import directory_for, pytest_pyfunc_call, sandbox
from ..posix.sandbox import Sandbox
from ..posix.systems import KernelOverlay, Overlaykit
from .generated import directory, isolated
from .workspace import Workspace

__all__ = ["directory", "isolated", "pytest_pyfunc_call", "sandbox", "workspace"]


@pytest.fixture(params=["kernel", "fuse"])
def workspace(request: pytest.FixtureRequest, sandbox: Sandbox) -> Iterator[Workspace]:
    unprivileged = sandbox.unprivileged
    system = KernelOverlay(unprivileged) if request.param == "kernel" else Overlaykit(unprivileged)
    with directory_for(sandbox, "changes") as place:
        yield Workspace(place, system, unprivileged=unprivileged)
