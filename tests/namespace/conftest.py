"""Every test that asks for `harness` runs in a child of its own, once as root and once as an ordinary user.

The child has a mount namespace of its own, adopts what is orphaned below it, and fails the test when a process is
left at its end.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator

import pytest

from .harness import ORDINARY, LaunchHarness

IDENTITIES = ("root", "ordinary user") if os.geteuid() == 0 else ("ordinary user",)
"""An ordinary user can test only as one; root tests as both."""


@pytest.fixture(params=IDENTITIES)
def harness(request: pytest.FixtureRequest) -> Iterator[LaunchHarness]:
    scratch = tempfile.mkdtemp(prefix="overlaykit-test-")
    privileged = request.param == "root"
    if not privileged and os.geteuid() == 0:
        os.chown(scratch, ORDINARY, ORDINARY)
    yield LaunchHarness(privileged=privileged, scratch=scratch)
    shutil.rmtree(scratch)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object | None:
    harness = pyfuncitem.funcargs.get("harness")
    if not isinstance(harness, LaunchHarness):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    _in_a_child(harness, lambda: pyfuncitem.obj(**arguments))
    return True


def _in_a_child(harness: LaunchHarness, body: Callable[[], None]) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            harness.enter()
            body()
            harness.leave()
        except BaseException:
            os.write(writer, traceback.format_exc().encode()[-60000:])
        finally:
            os._exit(0)
    os.close(writer)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    # Not to its end: what a child that was killed has left may hold the pipe.
    os.set_blocking(reader, False)
    try:
        failure = os.read(reader, 1 << 16)
    except BlockingIOError:
        failure = b""
    os.close(reader)
    if failure or status:
        pytest.fail(failure.decode() or f"the test's child ended with {status}", pytrace=False)
