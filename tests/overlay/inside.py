"""Where a test's body runs: in a child of its own inside a place, as root or as root of a user namespace.

What the body mounts, leaks or changes about its process ends with that child, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from ..posix.place import ORDINARY_UID, Place

IDENTITIES = ("root", "userns") if os.geteuid() == 0 else ("userns",)
"""An ordinary user plays the second part only: the first needs root."""

as_root = pytest.mark.parametrize("place", IDENTITIES[:-1], indirect=True)
"""For what a user namespace with one mapped id cannot express: other owners, devices, trusted xattrs."""


def call_inside(test: pytest.Function) -> bool | None:
    """pytest's hook `pytest_pyfunc_call`, for tests that ask for a place; others run where they are."""
    __tracebackhide__ = True
    place = test.funcargs.get("place")
    if place is None:
        return None
    arguments: dict[str, Any] = {name: test.funcargs[name] for name in _arguments(test)}

    def body() -> None:
        test.obj(**arguments)

    place.run(body)
    return True


@contextlib.contextmanager
def directory_for(place: Place, name: str) -> Iterator[str]:
    """An empty directory that is writable in the place, on a disk: an overlay wants xattrs and file handles."""
    with tempfile.TemporaryDirectory(prefix=f"overlaykit-{name}-", dir="/var/tmp") as directory:
        if place.unprivileged and os.geteuid() == 0:
            os.chown(directory, ORDINARY_UID, ORDINARY_UID)
        yield directory


def _arguments(test: pytest.Function) -> tuple[str, ...]:
    code = test.function.__code__
    return code.co_varnames[: code.co_argcount]
