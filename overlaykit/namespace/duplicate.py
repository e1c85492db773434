"""Copies of a detached mount: a launch uses up its root, and a view may launch several commands."""

from __future__ import annotations

import os

from overlaykit import _native, sockets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from overlaykit.namespace.spec import RootMount

_COPIES = 2
# With the mounts below, such as masks.
_CLONE = (
    _native.OPEN_TREE_CLONE
    | _native.OPEN_TREE_CLOEXEC
    | _native.AT_EMPTY_PATH
    | _native.AT_RECURSIVE
)


def duplicate(root: RootMount) -> tuple[int, int]:
    """Replace a detached mount, whose descriptor is closed, by two copies.

    Before Linux 6.15 open_tree(2) clones only mounts of the caller's mount namespace (__do_loopback() in
    fs/namespace.c), so a child attaches it over the root directory of a mount namespace of its own.

    Raises:
      OSError: as setns(2), unshare(2), move_mount(2) and open_tree(2); the mount is unchanged.
    """
    ours, theirs = sockets.socketpair(sockets.AF_UNIX, sockets.SOCK_SEQPACKET)
    with ours, theirs:
        child = os.fork()
        if child == 0:
            _clone_in_child(root, theirs)
        theirs.close()
        raw, received, _, _ = sockets.recv_fds(ours, 16, _COPIES)
        os.waitpid(child, 0)
    if len(received) == _COPIES:
        os.close(root.mount)
        return received[0], received[1]
    for descriptor in received:
        os.close(descriptor)
    number = int(raw or b"5")
    raise OSError(number, f"cannot copy the mount of the view: {os.strerror(number)}")


def _clone_in_child(root: RootMount, reply: sockets.socket) -> NoReturn:
    try:
        if root.user_namespace is not None:
            _native.setns(root.user_namespace, _native.CLONE_NEWUSER)
        _native.unshare(_native.CLONE_NEWNS)
        _native.mount(None, "/", None, _native.MS_REC | _native.MS_PRIVATE)
        _native.move_mount(root.mount, "", _native.AT_FDCWD, "/", _native.MOVE_MOUNT_F_EMPTY_PATH)
        copies = [_native.open_tree(root.mount, "", _CLONE) for _ in range(_COPIES)]
        sockets.send_fds(reply, [b"0"], copies)
    except OSError as error:
        reply.send(b"%d" % (error.errno or 5))
    finally:
        os._exit(0)
