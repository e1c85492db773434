"""A harness that launches views, as root or as an ordinary user with a user namespace.

The root that a view is given is a detached clone of this machine's own root: a genuine detached mount, of the kind
that the FUSE daemon hands over.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from overlaykit import _native, namespace
from overlaykit.procfs import descendants

from ..patience import patience
from ..posix import syscalls
from .processes import command_line

ORDINARY = 1000
DEADLINE_SECONDS = patience(60)
CLONE = _native.OPEN_TREE_CLONE | _native.OPEN_TREE_CLOEXEC | _native.AT_RECURSIVE


def read_to_end(descriptor: int) -> bytes:
    """Everything until end of file."""
    return b"".join(iter(lambda: os.read(descriptor, 65536), b""))


def line(descriptor: int) -> bytes:
    """One line, without what follows it."""
    read = b""
    while not read.endswith(b"\n"):
        byte = os.read(descriptor, 1)
        assert byte, f"end of file after {read!r}"
        read += byte
    return read


@dataclass
class LaunchHarness:
    """Launches views as root (`privileged`) or as an ordinary user."""

    privileged: bool
    scratch: str
    """A directory of the user, at the same path in a view."""
    user_namespace: int | None = None
    mount_namespace: int | None = None
    keeper: int | None = None
    keeper_held: int | None = None
    roots: list[int] = field(default_factory=list)

    def root(self, attributes: int = 0) -> int:
        """A detached clone of the machine's root."""
        if self.privileged:
            root = self._clone(attributes)
        else:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                child = os.fork()
                if child == 0:
                    assert self.user_namespace is not None
                    assert self.mount_namespace is not None
                    _native.setns(self.user_namespace, _native.CLONE_NEWUSER)
                    _native.setns(self.mount_namespace, _native.CLONE_NEWNS)
                    socket.send_fds(theirs, [b"r"], [self._clone(attributes)])
                    os._exit(0)
                os.waitpid(child, 0)
                root = socket.recv_fds(ours, 1, 1)[1][0]
        self.roots.append(root)
        return root

    def spec(self, *argv: str, **fields: Any) -> namespace.LaunchSpec:
        fields["env"] = namespace.environment.entries(fields.get("env", os.environ))
        return namespace.LaunchSpec(argv=argv, **fields)

    def launch(self, *argv: str, root: int | None = None, **fields: Any) -> namespace.Processes:
        mount = self.root() if root is None else root
        return namespace.launch(
            self.spec(*argv, **fields),
            namespace.RootMount(mount=mount, user_namespace=self.user_namespace),
        )

    def run(self, *argv: str, **fields: Any) -> int:
        with self.launch(*argv, **fields) as running:
            return running.wait()

    def output(self, *argv: str, **fields: Any) -> str:
        """The output of a command, which must succeed."""
        with self.piped() as reader, self.launch(*argv, **fields) as running:
            self.stop_writing()
            printed = read_to_end(reader)
            assert running.wait() == 0, printed
        return printed.decode()

    @contextmanager
    def piped(self) -> Iterator[int]:
        """Redirect standard output into a pipe; its read end."""
        sys.stdout.flush()
        before = os.dup(1)
        reader, writer = os.pipe()
        os.dup2(writer, 1)
        os.close(writer)
        try:
            yield reader
        finally:
            os.dup2(before, 1)
            os.close(before)
            os.close(reader)

    def stop_writing(self) -> None:
        """Close this process's write end of the pipe of `piped`, so that the view's end is end of file."""
        null = os.open("/dev/null", os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)

    def _clone(self, attributes: int) -> int:
        root = _native.open_tree(_native.AT_FDCWD, "/", CLONE)
        if attributes:
            _native.mount_setattr(
                root, "", _native.AT_EMPTY_PATH | _native.AT_RECURSIVE, attributes
            )
        return root

    def enter(self) -> None:
        """Become the user. Requires: the child process of the test."""
        signal.alarm(DEADLINE_SECONDS)
        _native.prctl(_native.PR_SET_CHILD_SUBREAPER, 1)
        if os.geteuid() == 0:
            _native.unshare(_native.CLONE_NEWNS)
            _native.mount(None, "/", None, _native.MS_REC | _native.MS_PRIVATE)
        if self.privileged:
            return
        if os.geteuid() == 0:
            _let_others_reach(os.path.realpath(sys.base_prefix))
            os.setgroups([])
            os.setresgid(ORDINARY, ORDINARY, ORDINARY)
            os.setresuid(ORDINARY, ORDINARY, ORDINARY)
            syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)  # as after an ordinary login
        ready, is_ready = os.pipe()
        released, self.keeper_held = os.pipe()
        self.keeper = os.fork()
        if self.keeper == 0:
            os.close(self.keeper_held)
            namespace.enter()
            os.write(is_ready, b"r")
            os.read(released, 1)
            os._exit(0)
        os.close(is_ready)
        os.close(released)
        assert os.read(ready, 1) == b"r"
        os.close(ready)
        self.user_namespace = os.open(f"/proc/{self.keeper}/ns/user", os.O_RDONLY)
        self.mount_namespace = os.open(f"/proc/{self.keeper}/ns/mnt", os.O_RDONLY)

    def leave(self) -> None:
        """Check that no process is left. Requires: the child process of the test."""
        for root in self.roots:
            os.close(root)
        if self.keeper is not None and self.keeper_held is not None:
            os.close(self.keeper_held)
            os.waitpid(self.keeper, 0)
        assert [command_line(process) for process in descendants(os.getpid())] == []


def _let_others_reach(path: str) -> None:
    """Make an interpreter in a closed home directory reachable for ordinary users, in this mount namespace."""
    parents = [path[:i] for i, letter in enumerate(path) if letter == "/" and i]
    closed = [parent for parent in parents if not os.stat(parent).st_mode & 0o001]
    if closed:
        tree = _native.open_tree(_native.AT_FDCWD, path, CLONE)
        _native.mount("tmpfs", closed[0], "tmpfs", 0, "mode=0755")
        os.makedirs(path)
        _native.move_mount(tree, "", _native.AT_FDCWD, path, _native.MOVE_MOUNT_F_EMPTY_PATH)
        os.close(tree)
