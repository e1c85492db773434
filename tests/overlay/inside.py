"""Where a test's body runs: in a child inside a sandbox, as root or as root of a user namespace.

A conftest.py makes it so for its folder by importing `sandbox` and `pytest_pyfunc_call`.
What the body mounts, leaks or changes about its process ends with that child, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from types import CodeType

import pytest

from ..posix.sandbox import ORDINARY_UID, Sandbox

LONGEST_SECONDS = 60.0
"""What lasts longer hangs, unless its module says otherwise by a constant SECONDS."""

IDENTITIES = ("root", "userns") if os.geteuid() == 0 else ("userns",)
"""An ordinary user plays the second part only: the first needs root."""

as_root = pytest.mark.parametrize(
    "sandbox",
    [
        pytest.param(
            "root",
            marks=pytest.mark.skipif(
                os.geteuid() != 0, reason="what only root can do, run by another"
            ),
        )
    ],
    indirect=True,
)
"""For what a user namespace with one mapped id cannot express: other owners, devices, trusted xattrs."""

as_bound_user = pytest.mark.parametrize(
    "sandbox", ["ordinary"] if os.geteuid() == 0 else [], indirect=True
)
"""For an ordinary user without a user namespace, whom modes bind; takes root to arrange."""

as_ordinary_user = pytest.mark.parametrize("sandbox", IDENTITIES[-1:], indirect=True)
"""For what root of the machine never meets: ids that its user namespace lacks."""


@pytest.fixture(scope="session", params=IDENTITIES)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    identity = request.param
    made = Sandbox(unprivileged=identity == "userns", ordinary=identity == "ordinary")
    with contextlib.closing(made) as sandbox:
        yield sandbox


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run the tests that use a sandbox in it; the others run where they are."""
    __tracebackhide__ = True
    sandbox = pyfuncitem.funcargs.get("sandbox")
    if not isinstance(sandbox, Sandbox):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in _arguments(pyfuncitem)}

    def body() -> None:
        pyfuncitem.obj(**arguments)

    sandbox.run(body, timeout=getattr(pyfuncitem.module, "SECONDS", LONGEST_SECONDS))
    return True


@contextlib.contextmanager
def directory_for(sandbox: Sandbox, name: str) -> Iterator[str]:
    """An empty directory that is writable in the sandbox, on a disk: an overlay wants xattrs and file handles."""
    with tempfile.TemporaryDirectory(prefix=f"overlaykit-{name}-", dir="/var/tmp") as directory:
        if (sandbox.unprivileged or sandbox.ordinary) and os.geteuid() == 0:
            os.chown(directory, ORDINARY_UID, ORDINARY_UID)
        yield directory


def _arguments(test: pytest.Function) -> tuple[str, ...]:
    code: CodeType = test.function.__code__
    return code.co_varnames[: code.co_argcount]
