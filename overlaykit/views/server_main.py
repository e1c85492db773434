"""The program of the fork server: `python -m overlaykit.views.server_main LOCK SOCKET`, two descriptors."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

import overlaykit

if TYPE_CHECKING:
    from collections.abc import Iterator


def main() -> None:
    """Load everything, and serve. The lock's directory becomes that of the socket."""
    # Before they are loaded: a file that changes later is not taken for the one that was loaded.
    before = {path: _version(path) for path in _package_files()}
    from overlaykit.fuse import daemon_log, daemon_process

    daemon_process.load()
    from overlaykit import namespace
    from overlaykit.fuse import cleanup, server
    from overlaykit.views import places
    from overlaykit.views.server import MOUNTS, USER, idle_seconds

    lock, first = map(int, sys.argv[1:])
    os.umask(0o077)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) == signal.SIG_IGN and number not in _IGNORED_BY_PYTHON:
            signal.signal(number, signal.SIG_DFL)
    registry = os.path.dirname(os.readlink(f"/proc/self/fd/{lock}"))
    try:
        serving = server.Server(
            lock,
            server.Loaded(before),
            {
                MOUNTS: namespace.isolate_mounts,
                USER: lambda: namespace.enter(namespace.available()),
            },
            idle_seconds() or 0,
        )
        serving.run(socket.socket(fileno=first))
    except Exception:
        daemon_log.configure(places.log())
        server.log.exception("the fork server failed")
        raise
    finally:
        cleanup.remove_registry_if_empty(registry)


_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


def _package_files() -> Iterator[str]:
    for place in overlaykit.__path__:
        for folder, _, names in os.walk(place):
            yield from (os.path.join(folder, name) for name in names)


def _version(path: str) -> tuple[int, ...]:
    """As `server.version`, which is not loaded yet."""
    with contextlib.suppress(OSError):
        st = os.stat(path)
        return st.st_dev, st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns
    return ()


if __name__ == "__main__":
    main()
