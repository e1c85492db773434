"""The fixture `user`: a test that uses it runs in its own process, once as root and once as an ordinary user.

In a module with `BOTH_DRIVERS = True`, tests run once more as root with the driver `kernel`, but for those marked
`only_fuse`. A conftest.py provides all this by importing `user`, `pytest_generate_tests` and `pytest_pyfunc_call`.
"""

from __future__ import annotations

import os
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator

import pytest

from overlaykit.rmtree import rmtree_path

from .user import ORDINARY, TestUser, read_to_end

IDENTITIES = ("root", "ordinary user") if os.geteuid() == 0 else ("ordinary user",)
"""Root tests as both; an ordinary user only as itself."""


KERNEL = "root, kernel"
"""Root, with the driver `kernel`."""


def only_fuse(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test of what only a daemon does."""
    test.only_fuse = True  # type: ignore[attr-defined]
    return test


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marks = metafunc.definition.iter_markers("parametrize")
    if "user" not in metafunc.fixturenames or any(mark.args[0] == "user" for mark in marks):
        return
    both = getattr(metafunc.module, "BOTH_DRIVERS", False) and os.geteuid() == 0
    more = [KERNEL] if both and not getattr(metafunc.function, "only_fuse", False) else []
    metafunc.parametrize("user", [*IDENTITIES, *more], indirect=True)


def only_as(identity: str) -> pytest.MarkDecorator:
    """Mark a test that applies to one identity; an ordinary user skips the tests of root."""
    chosen = [identity] if identity in IDENTITIES else []
    return pytest.mark.parametrize("user", chosen, indirect=True)


@pytest.fixture
def user(request: pytest.FixtureRequest) -> Iterator[TestUser]:
    # On a disk: an upper needs extended attributes, which /tmp may not have.
    scratch = tempfile.mkdtemp(prefix="overlaykit-test-", dir="/var/tmp")
    is_root = request.param != "ordinary user"
    if not is_root and os.geteuid() == 0:
        os.chown(scratch, ORDINARY, ORDINARY)
    driver = "kernel" if request.param == KERNEL else "fuse"
    yield TestUser(is_root=is_root, scratch=scratch, driver=driver)
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
