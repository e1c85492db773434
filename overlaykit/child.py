"""Descriptors and bytes that a child makes, because it takes other namespaces than those of this process."""

from __future__ import annotations

import errno
import os
import sys

from overlaykit import sockets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, NoReturn, TypeAlias

    Made: TypeAlias = tuple[list[int], bytes]
    """Descriptors, and data beside them."""

_LONGEST_ERROR: Final = 4096 + 16
"""Bytes: a number and a path."""


def make(body: Callable[[], Made], *, most_descriptors: int = 1, most_bytes: int = 0) -> Made:
    """What `body` makes in a child, which ends after it. Returns: descriptors, which the caller closes, and data.

    Raises:
      OSError: as `body`, with its path; EMFILE: this process has too many open files to take the descriptors;
        ECHILD: the child was killed, or failed in another way, which it has printed on standard error.
    """
    ours, theirs = sockets.socketpair(sockets.AF_UNIX, sockets.SOCK_SEQPACKET)
    with ours, theirs:
        child = os.fork()
        if child == 0:
            _answer(body, theirs)
        theirs.close()
        try:
            message, descriptors, flags, _ = sockets.recv_fds(
                ours, max(most_bytes + 2, _LONGEST_ERROR), most_descriptors
            )
        finally:
            os.waitpid(child, 0)
    number, zero, data = message.partition(b"\0")
    if flags & sockets.MSG_CTRUNC:
        number = b"%d" % errno.EMFILE
        data = b""
    elif not zero:
        number = b"%d" % errno.ECHILD
    if int(number) == 0:
        return descriptors, data
    for descriptor in descriptors:
        os.close(descriptor)
    raise OSError(int(number), os.strerror(int(number)), os.fsdecode(data) if data else None)


def _answer(body: Callable[[], Made], reply: sockets.socket) -> NoReturn:
    """The child's side."""
    try:
        descriptors, data = body()
        sockets.send_fds(reply, [b"0\0", data], descriptors)
    except OSError as error:
        path = error.filename if isinstance(error.filename, str | bytes) else b""
        reply.send(b"%d\0%s" % (error.errno or errno.EIO, os.fsencode(path)))
    except BaseException:
        sys.excepthook(*sys.exc_info())
        raise
    finally:
        os._exit(0)
