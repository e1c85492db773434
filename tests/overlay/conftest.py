"""Every test of this folder gets a stack of plain directories, and plays as root and as an ordinary user."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite(f"{__package__}.stack")

from ..posix.place import Place  # noqa: E402  # after what rewrites it
from .inside import IDENTITIES, call_inside, directory_for  # noqa: E402
from .stack import Stack  # noqa: E402


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    return call_inside(pyfuncitem)


@pytest.fixture(scope="session", params=IDENTITIES)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with contextlib.closing(Place(unprivileged=request.param == "userns")) as place:
        yield place


@pytest.fixture
def stack(place: Place) -> Iterator[Stack]:
    with directory_for(place, "overlay") as directory:
        yield Stack(directory, unprivileged=place.unprivileged)
