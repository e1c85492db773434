"""Unix sockets that pass descriptors, on the C module `_socket`: the import of socket costs a launcher 7 ms.

`socket`, `socketpair`, `send_fds` and `recv_fds` are those of socket, as far as overlaykit uses them; received
descriptors are close-on-exec. No other module imports `_socket`.
"""

from __future__ import annotations

import os
import sys

__all__ = [
    "AF_INET",
    "AF_INET6",
    "AF_UNIX",
    "IPPROTO_IP",
    "IPPROTO_IPV6",
    "IPPROTO_TCP",
    "IPV6_RECVPKTINFO",
    "IPV6_V6ONLY",
    "MSG_CTRUNC",
    "MSG_DONTWAIT",
    "SOCK_DGRAM",
    "SOCK_SEQPACKET",
    "SOCK_STREAM",
    "SOL_SOCKET",
    "SOMAXCONN",
    "SO_PEERCRED",
    "SO_REUSEADDR",
    "TCP_NODELAY",
    "inet_pton",
    "recv_fds",
    "send_fds",
    "socket",
    "socketpair",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import (
        AF_INET,
        AF_INET6,
        AF_UNIX,
        IPPROTO_IP,
        IPPROTO_IPV6,
        IPPROTO_TCP,
        IPV6_RECVPKTINFO,
        IPV6_V6ONLY,
        MSG_CTRUNC,
        MSG_DONTWAIT,
        SO_PEERCRED,
        SO_REUSEADDR,
        SOCK_DGRAM,
        SOCK_SEQPACKET,
        SOCK_STREAM,
        SOL_SOCKET,
        SOMAXCONN,
        TCP_NODELAY,
        inet_pton,
        recv_fds,
        send_fds,
        socket,
        socketpair,
    )
else:
    import _socket

    _FD_BYTES = 4

    def __getattr__(name):
        """A constant or a function that is that of `_socket`."""
        return getattr(_socket, name)

    class socket(_socket.socket):  # noqa: N801
        """A socket, closed at the end of a block."""

        __slots__ = ()

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.close()

        def set_inheritable(self, inheritable):
            """Whether children get the descriptor."""
            os.set_inheritable(self.fileno(), inheritable)

    def socketpair(family, kind):
        """Two connected sockets."""
        return tuple(socket(fileno=one.detach()) for one in _socket.socketpair(family, kind))

    def send_fds(channel, buffers, descriptors, flags=0):
        """Send a message with descriptors (unix(7)). Returns: the number of bytes sent."""
        packed = b"".join(number.to_bytes(_FD_BYTES, sys.byteorder) for number in descriptors)
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)
        return channel.sendmsg(buffers, [rights], flags)

    def recv_fds(channel, size, most):
        """Receive a message and its descriptors. Returns: them, the flags and the address of recvmsg(2)."""
        data, ancillary, flags, address = channel.recvmsg(
            size, _socket.CMSG_LEN(most * _FD_BYTES), _socket.MSG_CMSG_CLOEXEC
        )
        descriptors = []
        for level, kind, packed in ancillary:
            if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
                for start in range(0, len(packed) - len(packed) % _FD_BYTES, _FD_BYTES):
                    number = packed[start : start + _FD_BYTES]
                    descriptors.append(int.from_bytes(number, sys.byteorder))
        return data, descriptors, flags, address
