"""Messages with descriptors over sockets of packets (SOCK_SEQPACKET)."""

from __future__ import annotations

import fcntl
import os

from overlaykit import sockets

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from typing import Final

LONGEST_MESSAGE: Final = 1 << 20
"""Bytes."""

MOST_DESCRIPTORS: Final = 253
"""Of one message (include/net/scm.h: SCM_MAX_FD)."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets on descriptors from 3 on: those below, if closed here, are opened in a child."""
    ours, theirs = sockets.socketpair(sockets.AF_UNIX, sockets.SOCK_SEQPACKET)
    return above_standard(ours), above_standard(theirs)


def above_standard(one: socket.socket) -> socket.socket:
    """Move a socket to a descriptor from 3 on."""
    with one:
        moved = fcntl.fcntl(one.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)
    return sockets.socket(fileno=moved)


def send(
    channel: socket.socket, message: bytes, descriptors: Sequence[int] = (), flags: int = 0
) -> None:
    """Send a message. Raises: OSError: EPIPE if the other side has gone."""
    if descriptors:
        sockets.send_fds(channel, [message], descriptors, flags)
    else:
        channel.send(message, flags)


def receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    """Receive a message and its descriptors, close-on-exec. It is empty if the other side has gone."""
    message, descriptors, _, _ = sockets.recv_fds(channel, LONGEST_MESSAGE, MOST_DESCRIPTORS)
    return message, descriptors


def close_all(descriptors: Sequence[int]) -> None:
    """Close descriptors that were received."""
    for descriptor in descriptors:
        os.close(descriptor)
