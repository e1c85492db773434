"""The fixture `user`: every test that asks for it runs in a process of its own, as root and as an ordinary user.

A conftest.py that imports both names has it.
"""

from __future__ import annotations

import os
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator

import pytest

from overlaykit.rmtree import rmtree_path

from .user import ORDINARY, TestUser, entire

IDENTITIES = ("root", "ordinary user") if os.geteuid() == 0 else ("ordinary user",)
"""An ordinary user can test only as one; root tests as both."""


def only_as(identity: str) -> pytest.MarkDecorator:
    """For a test that means something for one of them alone; root runs all, an ordinary user skips root's."""
    chosen = [identity] if identity in IDENTITIES else []
    return pytest.mark.parametrize("user", chosen, indirect=True)


@pytest.fixture(params=IDENTITIES)
def user(request: pytest.FixtureRequest) -> Iterator[TestUser]:
    # On a disk: uppers want a file system with extended attributes, and /tmp may be none.
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
            user.enter()
            body()
            user.leave()
        except BaseException:
            os.write(writer, traceback.format_exc().encode()[-60000:])
        finally:
            try:
                user.abandon()
            finally:
                os._exit(0)
    os.close(writer)
    try:
        told = entire(reader)
    except (
        BaseException
    ):  # the tests are being interrupted: let it tidy up before its directory goes
        os.kill(child, signal.SIGINT)
        raise
    finally:
        os.close(reader)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if told or status:
        pytest.fail(told.decode() or f"the test's process ended with {status}", pytrace=False)
