"""Whoever runs the tests runs each as themselves; root runs each as an ordinary user too."""

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

_T = TypeVar("_T")

AN_ORDINARY_USER = 1000


class Child:
    """A process of the test's own; killed at the end if it still runs."""

    def __init__(self, pid: int, answer: int) -> None:
        self.pid = pid
        self._answer = answer
        self._reaped = False

    def result(self) -> object:
        """What the function returned; raises what it raised."""
        with os.fdopen(self._answer, "rb") as answer:
            text = answer.read()
        self._answer = -1
        self._reap()
        assert text, "the process was killed before it had an answer"
        value = pickle.loads(text)
        if isinstance(value, BaseException):
            raise value
        return value

    def kill(self) -> None:
        if not self._reaped:
            os.kill(self.pid, signal.SIGKILL)
            self._reap()
        if self._answer >= 0:
            os.close(self._answer)
            self._answer = -1

    def _reap(self) -> None:
        os.waitpid(self.pid, 0)
        self._reaped = True


class Person:
    """Who a test runs as. Everything that is to have their rights runs in a process of theirs."""

    def __init__(self, uid: int, home: str) -> None:
        self.uid = uid
        self.home = home
        self.is_root = uid == 0
        self._children: list[Child] = []

    def path(self, *names: str) -> str:
        """A path in a directory of theirs, gone after the test."""
        return os.path.join(self.home, *names)

    def start(self, function: Callable[[], object]) -> Child:
        """Start a process of theirs."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(reading)
                value = self._child(function)
                with os.fdopen(writing, "wb") as answer:
                    answer.write(value)
            finally:
                os._exit(0)
        os.close(writing)
        child = Child(pid, reading)
        self._children.append(child)
        return child

    def run(self, function: Callable[[], _T]) -> _T:
        """Call it in a process of theirs; its result and exceptions are ours."""
        return self.start(function).result()  # type: ignore[return-value]

    def run_among_own_mounts(self, function: Callable[[], _T]) -> _T:
        """The same, in a mount namespace where they may mount, still as themselves."""

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
                _native.prctl(_native.PR_SET_DUMPABLE, 1)  # /proc/self is theirs again
            os.environ["HOME"] = self.home
            os.umask(0o022)
            return pickle.dumps(function())
        except BaseException as error:
            return pickle.dumps(error)


@pytest.fixture(params=["root", "user"] if os.geteuid() == 0 else ["user"])
def me(request: pytest.FixtureRequest) -> Iterator[Person]:
    uid = os.geteuid()
    if request.param == "user" and uid == 0:
        uid = AN_ORDINARY_USER
    home = tempfile.mkdtemp(prefix="overlaykit-test-")
    os.chown(home, uid, -1)
    person = Person(uid, home)
    try:
        yield person
    finally:
        person.close()
        top = os.open(os.path.dirname(home), os.O_RDONLY | os.O_DIRECTORY)
        try:
            rmtree(top, os.fsencode(os.path.basename(home)))
        finally:
            os.close(top)
