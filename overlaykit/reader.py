"""Read an ordinary user's own files past their modes, without changing the modes.

In a new user namespace that maps the user and the group to themselves, a process has CAP_DAC_OVERRIDE over files of
both (capabilities(7), user_namespaces(7)). A child enters one for each reading.
"""

from __future__ import annotations

import errno
import os

from overlaykit import _native, child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, TypeVar

    T = TypeVar("T")


_LONGEST_RESULT: Final = 1 << 16
"""Bytes."""


class Reader:
    """Implements `overlay.layer.Reader`."""

    def run(self, action: Callable[[], T]) -> T:
        """The result of `action`, pickled on its way. Raises OSError: as `action`; EACCES without user namespaces."""
        import pickle  # late, as warnings: few files are closed by their modes

        _, pickled = _in_child(lambda: ([], pickle.dumps(action())))
        result: T = pickle.loads(pickled)  # noqa: S301  # our own child's
        return result

    def open(self, action: Callable[[], int]) -> int:
        """The descriptor that `action` opens. Raises OSError: as `run`."""
        (descriptor,), _ = _in_child(lambda: ([action()], b""))
        return descriptor


def past_modes(action: Callable[[], T]) -> T:
    """Run an action, again with the right to files of any mode of the user's own if one denies it. Raises: OSError."""
    return _tried(action, Reader().run)


def opened_past_modes(action: Callable[[], int]) -> int:
    """As `past_modes`, for an action that opens a descriptor. Raises: OSError."""
    return _tried(action, Reader().open)


def _tried(action: Callable[[], T], again: Callable[[Callable[[], T]], T]) -> T:
    try:
        return action()
    except PermissionError as error:
        if error.errno != errno.EACCES or os.geteuid() == 0:
            raise
    return again(action)


def _in_child(body: Callable[[], child.Made]) -> child.Made:
    """Only system calls: other threads may hold locks."""

    def entered() -> child.Made:
        _enter_namespace()
        return body()

    import warnings

    with warnings.catch_warnings():
        # Python 3.12 warns of such locks.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return child.make(entered, most_bytes=_LONGEST_RESULT)
        except ChildProcessError as error:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES)) from error


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
