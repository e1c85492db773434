"""Runs a test's body in a child process inside a sandbox, as root or as root of a user namespace.

A conftest.py enables that for its folder by importing `sandbox` and `pytest_pyfunc_call`. The end of the child undoes
the mounts, leaks and changes of the body.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from types import CodeType

import pytest

from .. import forked
from ..posix.sandbox import ORDINARY_UID, Sandbox

forked.preload()

LONGEST_SECONDS = 60.0
"""Time limit of a test; a module's constant SECONDS overrides it."""

IDENTITIES = ("root", "userns") if os.geteuid() == 0 else ("userns",)
"""Only root can run the first."""

as_root = pytest.mark.parametrize(
    "sandbox",
    [
        pytest.param(
            "root",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
        )
    ],
    indirect=True,
)
"""For tests of other owners, devices and trusted xattrs, which a user namespace with one mapped id lacks."""

as_bound_user = pytest.mark.parametrize(
    "sandbox", ["ordinary"] if os.geteuid() == 0 else [], indirect=True
)
"""For an ordinary user without a user namespace, bound by modes; needs root to start."""

as_ordinary_user = pytest.mark.parametrize("sandbox", IDENTITIES[-1:], indirect=True)
"""For tests of unmapped ids, which the initial user namespace lacks."""


@pytest.fixture(scope="session", params=IDENTITIES)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    identity = request.param
    made = Sandbox(unprivileged=identity == "userns", ordinary=identity == "ordinary")
    with contextlib.closing(made) as sandbox:
        yield sandbox


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run tests with a sandbox, or with a fixture in one, there; others run in this process."""
    __tracebackhide__ = True
    sandbox = pyfuncitem.funcargs.get("sandbox")
    if not isinstance(sandbox, Sandbox):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in _arguments(pyfuncitem)}

    def body() -> None:
        if forked.IS_USUAL and pyfuncitem.get_closest_marker("as_installed") is None:
            forked.fork_daemons()
        pyfuncitem.obj(**arguments)

    sandbox.run(body, timeout=getattr(pyfuncitem.module, "SECONDS", LONGEST_SECONDS))
    return True


@contextlib.contextmanager
def directory_for(sandbox: Sandbox, name: str) -> Iterator[str]:
    """An empty directory, writable in the sandbox, on a disk: overlays need xattrs and file handles."""
    with tempfile.TemporaryDirectory(prefix=f"overlaykit-{name}-", dir="/var/tmp") as directory:
        if (sandbox.unprivileged or sandbox.ordinary) and os.geteuid() == 0:
            os.chown(directory, ORDINARY_UID, ORDINARY_UID)
        yield directory


def _arguments(test: pytest.Function) -> tuple[str, ...]:
    code: CodeType = test.function.__code__
    return code.co_varnames[: code.co_argcount]
