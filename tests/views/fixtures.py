"""The fixture `user`: a test that uses it runs in its own process, once as root and once as an ordinary user.

A conftest.py provides it by importing `user`, `pytest_generate_tests` and `pytest_pyfunc_call`.

A test runs with the driver `fuse` and without a server; with OVERLAYKIT_TEST_MATRIX=1 (`make matrix`) with both
drivers, each with and without a server. Marks change that: `in_all_variants` and `with_both_drivers` add variants to
every run, `only_with` and `only_as` leave some out. Of these, `make test` takes one of each test (tests/selection.py).
"""

from __future__ import annotations

import gc
import os
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator

import pytest

from overlaykit.rmtree import rmtree_path

from .. import forked
from .user import ORDINARY, TestUser, Variant, kernel_shows_host, read_to_end

forked.preload()

IDENTITIES = ("root", "ordinary user") if os.geteuid() == 0 else ("ordinary user",)
"""Root tests as both; an ordinary user only as itself."""

_ALL = tuple(Variant(driver, server) for driver in ("fuse", "kernel") for server in (False, True))
_USUAL = _ALL if os.environ.get("OVERLAYKIT_TEST_MATRIX") else _ALL[:1]

in_all_variants = pytest.mark.in_all_variants
"""Mark a test that runs in all variants always."""

_WITH_BOTH = ("in_matrix", "with_both_drivers")

as_installed = pytest.mark.as_installed
"""Mark a test of the commands and daemons as fresh interpreters (`forked`)."""

in_matrix = pytest.mark.in_matrix
"""Mark a test that runs in all variants with `make matrix`, and as one `with_both_drivers` otherwise."""

with_both_drivers = pytest.mark.with_both_drivers
"""Mark a test that runs with the driver `kernel` always, as root."""


def only_as(identity: str) -> pytest.MarkDecorator:
    """Mark a test that applies to one identity; an ordinary user skips the tests of root."""
    return pytest.mark.only_as(identity)


def only_with(
    *, driver: str | None = None, server: bool | None = None, host: bool = False
) -> pytest.MarkDecorator:
    """Mark a test that applies to one driver only, or to views with or without a server.

    `host`: to views of the layer `host`, which the kernel's overlayfs shows to root alone, and only where it is one
    file system (not in a guest of tests/kernels).
    """
    return pytest.mark.only_with(driver=driver, server=server, host=host)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "user" in metafunc.fixturenames:
        chosen = [
            pytest.param((identity, variant), id=f"{identity}{variant}")
            for identity in IDENTITIES
            for variant in _ALL
            if _applies(metafunc.definition, identity, variant)
        ]
        metafunc.parametrize("user", chosen, indirect=True)


def _applies(test: pytest.Item, identity: str, variant: Variant) -> bool:
    """Whether the test runs as the identity in the variant."""
    as_root = identity == "root"
    shows_host = as_root and kernel_shows_host()
    runs = (
        variant in _USUAL
        or any(test.iter_markers("in_all_variants"))
        or (as_root and not variant.server and any(map(test.get_closest_marker, _WITH_BOTH)))
    )
    return (
        runs
        and all(mark.args == (identity,) for mark in test.iter_markers("only_as"))
        and all(
            mark.kwargs["driver"] in (None, variant.driver)
            and mark.kwargs["server"] in (None, variant.server)
            and (variant.driver != "kernel" or not mark.kwargs["host"] or shows_host)
            for mark in test.iter_markers("only_with")
        )
    )


@pytest.fixture
def user(request: pytest.FixtureRequest) -> Iterator[TestUser]:
    # On a disk: an upper needs extended attributes, which /tmp may not have.
    scratch = tempfile.mkdtemp(prefix="overlaykit-test-", dir="/var/tmp")
    identity, variant = request.param
    is_root = identity == "root"
    if not is_root and os.geteuid() == 0:
        os.chown(scratch, ORDINARY, ORDINARY)
    forks = forked.IS_USUAL and request.node.get_closest_marker("as_installed") is None
    yield TestUser(is_root=is_root, scratch=scratch, variant=variant, forks=forks)
    rmtree_path(scratch)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object | None:
    user = pyfuncitem.funcargs.get("user")
    if not isinstance(user, TestUser):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    _in_a_child(user, lambda: pyfuncitem.obj(**arguments))
    return True


def _in_a_child(user: TestUser, body: Callable[[], None]) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            gc.freeze()  # a search for garbage would write to all pages that the fork shares
            user.become()
            body()
            user.check_leftovers()
        except BaseException:
            os.write(writer, traceback.format_exc().encode()[-60000:])
        finally:
            try:
                user.kill_descendants()
            finally:
                os._exit(0)
    os.close(writer)
    try:
        failure = read_to_end(reader)
    except BaseException:
        # pytest is interrupted: the child cleans up before its directory is removed.
        os.kill(child, signal.SIGINT)
        raise
    finally:
        os.close(reader)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if failure or status:
        pytest.fail(failure.decode() or f"the test's process ended with {status}", pytrace=False)
