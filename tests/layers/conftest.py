"""The fixture `user`: a test runs as the caller, and if that is root also as an ordinary user."""

from __future__ import annotations

import os
import pickle
import signal
import tempfile
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from overlaykit import _native
from overlaykit.rmtree import rmtree

from ..posix import syscalls

_T = TypeVar("_T")

ORDINARY = 1000


class Child:
    """A child process of the test; killed at its end."""

    def __init__(self, pid: int, result_pipe: int) -> None:
        self.pid = pid
        self._result_pipe = result_pipe
        self._reaped = False

    def result(self) -> object:
        """The result of the function, or its exception raised."""
        with os.fdopen(self._result_pipe, "rb") as pipe:
            text = pipe.read()
        self._result_pipe = -1
        self._reap()
        assert text, "the process was killed before it had a result"
        value = pickle.loads(text)
        if isinstance(value, BaseException):
            raise value
        return value

    def kill(self) -> None:
        if not self._reaped:
            os.kill(self.pid, signal.SIGKILL)
            self._reap()
        if self._result_pipe >= 0:
            os.close(self._result_pipe)
            self._result_pipe = -1

    def _reap(self) -> None:
        os.waitpid(self.pid, 0)
        self._reaped = True


class User:
    """The user that a test runs as: `run` and `start` call functions in processes of that user."""

    def __init__(self, uid: int, home: str) -> None:
        self.uid = uid
        self.home = home
        self.is_root = uid == 0
        self._children: list[Child] = []

    def path(self, *names: str) -> str:
        """A path in the user's directory, which is removed after the test."""
        return os.path.join(self.home, *names)

    def start(self, function: Callable[[], object]) -> Child:
        """Call a function in a process of the user."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(reading)
                value = self._child(function)
                with os.fdopen(writing, "wb") as pipe:
                    pipe.write(value)
            finally:
                os._exit(0)
        os.close(writing)
        child = Child(pid, reading)
        self._children.append(child)
        return child

    def run(self, function: Callable[[], _T]) -> _T:
        """Call a function in a process of the user and wait; its result or its exception."""
        return self.start(function).result()  # type: ignore[return-value]

    def run_among_own_mounts(self, function: Callable[[], _T]) -> _T:
        """`run` in a mount namespace where the user, with the same uid, may mount."""

        def unshared() -> _T:
            uid, gid = os.getuid(), os.getgid()
            _native.unshare(_native.CLONE_NEWNS | (0 if uid == 0 else _native.CLONE_NEWUSER))
            if uid != 0:
                for name, text in (
                    ("setgroups", "deny"),
                    ("uid_map", f"{uid} {uid} 1"),
                    ("gid_map", f"{gid} {gid} 1"),
                ):
                    with open(f"/proc/self/{name}", "w") as file:
                        file.write(text)
            _native.mount(None, "/", None, _native.MS_REC | _native.MS_PRIVATE)
            return function()

        return self.run(unshared)

    def close(self) -> None:
        for child in self._children:
            child.kill()

    def _child(self, function: Callable[[], object]) -> bytes:
        try:
            if os.getuid() != self.uid:
                os.setgroups([])
                os.setresgid(self.uid, self.uid, self.uid)
                os.setresuid(self.uid, self.uid, self.uid)
                # The user owns /proc/self again.
                syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
            os.environ["HOME"] = self.home
            os.umask(0o022)
            return pickle.dumps(function())
        except BaseException as error:
            return pickle.dumps(error)


@pytest.fixture(params=["root", "user"] if os.geteuid() == 0 else ["user"])
def user(request: pytest.FixtureRequest) -> Iterator[User]:
    uid = os.geteuid()
    if request.param == "user" and uid == 0:
        uid = ORDINARY
    home = tempfile.mkdtemp(prefix="overlaykit-test-")
    os.chown(home, uid, -1)
    user = User(uid, home)
    try:
        yield user
    finally:
        user.close()
        top = os.open(os.path.dirname(home), os.O_RDONLY | os.O_DIRECTORY)
        try:
            rmtree(top, os.fsencode(os.path.basename(home)))
        finally:
            os.close(top)
