"""The program of the fork server: `python -m overlaykit.views.server_main LOCK LISTENER`, two descriptors."""

from __future__ import annotations

import os
import signal
import socket
import sys

from overlaykit.fuse.server_code import Code

_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)

_SUBORDINATE_IDS = ("/etc/subuid", "/etc/subgid", "/usr/bin/newuidmap", "/usr/bin/newgidmap")
"""What `namespace.available` depends on: a server with a filter gives way to one without when they appear."""

_REHEARSALS = 10
"""More than the calls after which Python 3.11 and later specialize code: it writes into the code's pages then."""


def main() -> None:
    """Load everything, and serve. LOCK is the directory of the socket, LISTENER the socket."""
    code = Code()
    from overlaykit.fuse import daemon_process

    daemon_process.load()
    from overlaykit import namespace
    from overlaykit.fuse import cleanup, confinement, daemon_log, server
    from overlaykit.views import places
    from overlaykit.views.server import MOUNTS, USER, idle_seconds

    prepare = {
        MOUNTS: namespace.isolate_mounts,
        USER: lambda: namespace.enter(namespace.available()),
    }
    _rehearse()
    # A daemon whose namespace maps subordinate ids executes setuid programs: no filter of its parent's may be on it.
    executes = not namespace.is_privileged() and namespace.available().writer == "helpers"
    code.complete(*_SUBORDINATE_IDS)
    lock, listener = map(int, sys.argv[1:])
    os.umask(0o077)
    _reset_dispositions()
    registry = os.path.dirname(os.readlink(f"/proc/self/fd/{lock}"))
    try:
        given = socket.socket(fileno=listener)
        serving = server.Server(lock, given, code, prepare, idle_seconds() or 0)
        if not executes:
            confinement.confine_server()
        serving.run()
    except Exception:
        daemon_log.configure(places.log())
        server.log.exception("the fork server failed")
        raise
    finally:
        cleanup.remove_registry_if_empty(registry)


def _reset_dispositions() -> None:
    """Stop ignoring what the first client ignores: the daemons of others inherit it."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if number not in _IGNORED_BY_PYTHON and signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def _rehearse() -> None:
    """Have the interpreter load and cache what it does at the first calls, before it is shared."""
    import codecs

    import trio

    from overlaykit import codec
    from overlaykit.fuse import spec
    from overlaykit.fuse.directories import MountTable

    async def wait() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 0)

    codecs.lookup("ascii")
    for _ in range(_REHEARSALS):
        trio.run(wait)
        mount = spec.MountSpec(
            source="", layers=(spec.LayerSpec(path="/"),), upper="/", work="/", stage="/"
        )
        for message in (mount, spec.PassedDirectory("/"), spec.Cleanup(trees=("/",))):
            codec.decode(codec.encode(message), spec.StartRequest)
        codec.encode(spec.Ready(0))
        MountTable()


if __name__ == "__main__":
    main()
