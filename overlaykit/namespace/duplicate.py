"""Copies of a detached mount: each becomes the root of a single launch, and a view may launch several commands."""

from __future__ import annotations

import os
import socket

from overlaykit import _native

_COPIES = 2
_CLONE = _native.OPEN_TREE_CLONE | _native.OPEN_TREE_CLOEXEC | _native.AT_EMPTY_PATH


def duplicate(mount: int, *, user_namespace: int | None) -> tuple[int, int]:
    """Two detached mounts in place of one, whose descriptor is closed.

    `user_namespace` is as for `launch`. Before
    Linux 6.15 open_tree(2) clones a mount of the caller's mount namespace alone (fs/namespace.c: __do_loopback), so a
    child attaches it in one of its own, over a root directory that nothing looks at.

    Raises:
      OSError: as setns(2), unshare(2), move_mount(2) and open_tree(2) fail; the mount is left as it was.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = os.fork()
        if child == 0:
            _clone_in_child(mount, user_namespace, theirs)
        theirs.close()
        raw, received, _, _ = socket.recv_fds(ours, 16, _COPIES)
        os.waitpid(child, 0)
    if len(received) == _COPIES:
        os.close(mount)
        return received[0], received[1]
    for descriptor in received:
        os.close(descriptor)
    number = int(raw or b"5")
    raise OSError(number, f"cannot copy the mount of the view: {os.strerror(number)}")


def _clone_in_child(mount: int, user_namespace: int | None, answer: socket.socket) -> None:
    try:
        if user_namespace is not None:
            _native.setns(user_namespace, _native.CLONE_NEWUSER)
        _native.unshare(_native.CLONE_NEWNS)
        _native.mount(None, "/", None, _native.MS_REC | _native.MS_PRIVATE)
        _native.move_mount(mount, "", _native.AT_FDCWD, "/", _native.MOVE_MOUNT_F_EMPTY_PATH)
        copies = [_native.open_tree(mount, "", _CLONE) for _ in range(_COPIES)]
        socket.send_fds(answer, [b"0"], copies)
    except OSError as error:
        answer.send(b"%d" % (error.errno or 5))
    finally:
        os._exit(0)
