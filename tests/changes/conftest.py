"""Each test of this folder runs in a sandbox, as root and as an ordinary user, and on uppers of both overlays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite(f"{__package__}.workspace")

from ..overlay.inside import directory_for, pytest_pyfunc_call, sandbox  # noqa: E402  # after register_assert_rewrite
from ..posix.sandbox import Sandbox  # noqa: E402
from ..posix.systems import KernelOverlay, Overlaykit  # noqa: E402
from .workspace import Workspace  # noqa: E402

__all__ = ["pytest_pyfunc_call", "sandbox", "workspace"]


@pytest.fixture(params=["kernel", "fuse"])
def workspace(request: pytest.FixtureRequest, sandbox: Sandbox) -> Iterator[Workspace]:
    unprivileged = sandbox.unprivileged
    system = KernelOverlay(unprivileged) if request.param == "kernel" else Overlaykit(unprivileged)
    with directory_for(sandbox, "changes") as directory:
        yield Workspace(directory, system, unprivileged=unprivileged)
