"""Read an ordinary user's own files past their modes, without changing the modes.

In a new user namespace that maps the user and the group to themselves, a process has CAP_DAC_OVERRIDE over files of
both (capabilities(7), user_namespaces(7)). A child enters one for each reading.
"""

from __future__ import annotations

import errno
import os
import pickle
import socket
import warnings
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from overlaykit import _native

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_LONGEST_RESULT: Final = 1 << 16
"""Bytes."""


class Reader:
    """Implements `overlay.layer.Reader`."""

    def run(self, action: Callable[[], T]) -> T:
        """The result of `action`, pickled on its way. Raises OSError: as `action`; EACCES without user namespaces."""
        result: T = _run_in_child(action, opens=False)[0]
        return result

    def open(self, action: Callable[[], int]) -> int:
        """The descriptor that `action` opens. Raises OSError: as `run`."""
        return _run_in_child(action, opens=True)[1]


def _run_in_child(action: Callable[[], object], *, opens: bool) -> tuple[Any, int]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, warnings.catch_warnings():
        # Python 3.12 warns of locks that other threads hold: the child makes only system calls.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
        if child == 0:
            _child(action, theirs, opens=opens)
        theirs.close()
        try:
            raw, descriptors, _, _ = socket.recv_fds(ours, _LONGEST_RESULT, 1)
        finally:
            os.waitpid(child, 0)
    if not raw:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    number, result = pickle.loads(raw)  # noqa: S301  # our own child's
    if number:
        raise OSError(number, os.strerror(number))
    if descriptors:
        os.set_inheritable(descriptors[0], False)
    return result, descriptors[0] if descriptors else -1


def _child(action: Callable[[], object], channel: socket.socket, *, opens: bool) -> NoReturn:
    """Run the child. Only system calls: other threads may hold locks."""
    try:
        _enter_namespace()
        result = action()
        if opens:
            assert isinstance(result, int)
            socket.send_fds(channel, [pickle.dumps((0, None))], [result])
        else:
            channel.sendall(pickle.dumps((0, result)))
    except OSError as error:
        channel.sendall(pickle.dumps((error.errno or errno.EIO, None)))
    finally:
        os._exit(0)


def _enter_namespace() -> None:
    """Raises OSError (EACCES) if user namespaces are refused."""
    uid, gid = os.geteuid(), os.getegid()
    try:
        _native.unshare(_native.CLONE_NEWUSER)
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {uid} 1"),
            ("gid_map", f"{gid} {gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    except OSError as error:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES)) from error
