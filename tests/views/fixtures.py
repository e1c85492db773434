"""The fixture `user`: a test that uses it runs in its own process, once as root and once as an ordinary user.

A conftest.py provides it by importing `user` and `pytest_pyfunc_call`.
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


def only_as(identity: str) -> pytest.MarkDecorator:
    """Mark a test that applies to one identity; an ordinary user skips the tests of root."""
    chosen = [identity] if identity in IDENTITIES else []
    return pytest.mark.parametrize("user", chosen, indirect=True)


@pytest.fixture(params=IDENTITIES)
def user(request: pytest.FixtureRequest) -> Iterator[TestUser]:
    # On a disk: an upper needs extended attributes, which /tmp may not have.
    scratch = tempfile.mkdtemp(prefix="overlaykit-test-", dir="/var/tmp")
    is_root = request.param == "root"
    if not is_root and os.geteuid() == 0:
        os.chown(scratch, ORDINARY, ORDINARY)
    yield TestUser(is_root=is_root, scratch=scratch)
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
