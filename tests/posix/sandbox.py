"""A sandbox: a mount namespace for tests, and on request a user namespace.

The test process holds the namespaces by descriptors. Mounts in them are invisible elsewhere and go when the descriptors
are closed, however the test process ends. `Sandbox.run` forks a child that enters the namespaces, runs one function and
sends back its result or exception. So a check may change its umask, identity and directory, leak descriptors or hang:
the next one starts clean.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import stat
import sys
import time
import traceback
from collections.abc import Callable
from typing import NoReturn, TypeVar, final

from ..patience import patience
from . import syscalls

T = TypeVar("T")

ORDINARY_UID = 1000
"""The uid of "an ordinary user" when the tests run as root."""


class Failed(AssertionError):
    """The function raised; the text is its traceback."""


class Hung(AssertionError):
    """The function did not end in time and was killed."""


@final
class Sandbox:
    """Namespaces to run functions in.

    `unprivileged`: in a new user namespace that maps one ordinary uid to 0 (user_namespaces(7)).
    `ordinary`: as an ordinary user in root's user namespace; making it takes root.
    """

    def __init__(self, *, unprivileged: bool = False, ordinary: bool = False) -> None:
        self.unprivileged = unprivileged
        self.ordinary = ordinary
        self._namespaces: list[tuple[int, int]] = []
        # A daemon that fusermount3 mounts for stays in the namespace and ends as its last process.
        self._keeps_process = ordinary
        self._release: tuple[int, int] | None = None
        ready, ready_writer = os.pipe()
        release, release_writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.close(release_writer)
                _enter_new_namespaces(unprivileged=unprivileged, ordinary=ordinary)
                os.write(ready_writer, b".")
                os.read(release, 1)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(ready_writer)
        os.close(release)
        try:
            if os.read(ready, 1) != b".":
                raise Failed("cannot make the namespaces; see the captured standard error")
            if unprivileged:
                self._hold(pid, "user", syscalls.CLONE_NEWUSER)
            self._hold(pid, "mnt", syscalls.CLONE_NEWNS)
        except BaseException:
            self._keeps_process = False
            raise
        finally:
            os.close(ready)
            if self._keeps_process:
                self._release = pid, release_writer
            else:
                os.close(release_writer)
                os.waitpid(pid, 0)

    def _hold(self, pid: int, name: str, kind: int) -> None:
        self._namespaces.append((os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY), kind))

    def close(self) -> None:
        """Kill the processes that still run in the namespaces; release the namespaces and their mounts."""
        if self._namespaces:
            namespace = os.fstat(self._namespaces[-1][0]).st_ino
            for name in filter(str.isdigit, os.listdir("/proc")):
                with contextlib.suppress(OSError):  # it ended, or belongs to another user
                    if os.stat(f"/proc/{name}/ns/mnt").st_ino == namespace:
                        os.kill(int(name), signal.SIGKILL)
        while self._namespaces:
            os.close(self._namespaces.pop()[0])
        if self._release is not None:
            pid, write_end = self._release
            self._release = None
            os.close(write_end)
            os.waitpid(pid, 0)

    def enter(self, *, as_root: bool = False) -> None:
        """Move this single-threaded process into the namespaces, as the sandbox's user; `as_root`: as its root."""
        if self.unprivileged and os.geteuid() == 0:
            os.setgroups([])
        for fd, kind in self._namespaces:
            syscalls.setns(fd, kind)
        if self.unprivileged:
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
        elif self.ordinary and not as_root:
            _become_ordinary()

    def run(
        self, function: Callable[[], T], *, timeout: float = patience(60), as_root: bool = False
    ) -> T:
        """Run `function` in a child inside the namespaces, as the sandbox's user; `as_root`: as its root.

        The child leads a session; processes left in it are killed when the child has ended.
        Returns: the function's result, which must pickle.
        Raises: `Failed` with the child's traceback, `Hung` after `timeout` seconds.
        """
        __tracebackhide__ = True
        receive, send = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._run_and_exit(function, send, as_root=as_root)
        os.close(send)
        pidfd = os.pidfd_open(pid)
        try:
            answer = _read_until_ended(receive, pidfd, timeout)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(pidfd)
            os.close(receive)
        if not answer:
            raise Failed("the process died without an answer")
        succeeded, value = pickle.loads(answer)
        if not succeeded:
            raise Failed(value)
        result: T = value
        return result

    def _run_and_exit(self, function: Callable[[], T], send: int, *, as_root: bool) -> NoReturn:
        """Run the function in the child, send its result and exit."""
        try:
            os.setsid()
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            os.umask(0o022)
            self.enter(as_root=as_root)
            data = pickle.dumps((True, function()))
        except BaseException:
            data = pickle.dumps((False, traceback.format_exc()))
        try:
            while data:
                data = data[os.write(send, data) :]
        finally:
            os._exit(0)


def _read_until_ended(fd: int, pidfd: int, timeout: float) -> bytes:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    chunks = []
    deadline = time.monotonic() + timeout
    while True:
        ready = {ready for ready, _ in poll.poll(max(0.0, deadline - time.monotonic()) * 1000)}
        if not ready:
            raise Hung(f"still running after {timeout:g} seconds")
        if fd in ready and (chunk := os.read(fd, 1 << 20)):
            chunks.append(chunk)
        elif pidfd in ready:
            return b"".join(chunks)
        else:
            poll.unregister(fd)


def _enter_new_namespaces(*, unprivileged: bool, ordinary: bool) -> None:
    uid = os.geteuid()
    if uid == 0:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount(b"none", b"/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        if unprivileged or ordinary:
            make_reachable()
    if not unprivileged:
        _mount_empty(b"/run", b"mode=755")
        return
    if uid == 0:
        uid = ORDINARY_UID
        _become_ordinary()
    gid = os.getegid()
    syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    syscalls.mount(b"none", b"/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    _mount_empty(b"/run", b"mode=755")


def _become_ordinary() -> None:
    os.setgroups([])
    os.setresgid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID)
    os.setresuid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)


def _mount_empty(directory: bytes, options: bytes) -> None:
    """Cover a directory in this mount namespace, so that tests write nothing below the machine's own."""
    syscalls.mount(b"none", directory, b"tmpfs", 0, options)


def _checkout() -> str:
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))


def make_reachable() -> None:
    """Let an ordinary user run the interpreter and the checkout, in this mount namespace only."""
    for needed in {sys.base_prefix, sys.prefix, _checkout()}:
        _make_reachable(os.fsencode(needed))


def _make_reachable(directory: bytes) -> None:
    """Let an ordinary user reach `directory`, in this mount namespace only.

    uid 1000 cannot run an interpreter below /root. An empty file system covers the first closed directory of the path,
    and `directory` is mounted on it at its own path.
    """
    path = b""
    for part in os.path.realpath(directory).split(b"/")[1:]:
        path += b"/" + part
        if not os.stat(path).st_mode & stat.S_IXOTH:
            break
    else:
        return
    held = os.open(directory, os.O_PATH)
    _mount_empty(path, b"mode=755")
    os.makedirs(directory, mode=0o755)
    syscalls.mount(b"/proc/self/fd/%d" % held, directory, None, syscalls.MS_BIND)
    os.close(held)
