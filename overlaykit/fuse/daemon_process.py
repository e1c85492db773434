"""The daemon process: `python -m overlaykit.fuse.daemon_process SOCKET`, a descriptor. `daemon` starts it.

It ends when its mount is gone. SIGTERM unmounts: at once, or, while files are in use, when they are closed; a second
SIGTERM ends the mount even if files are in use.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import logging
import os
import socket
import sys
from typing import TYPE_CHECKING, Final

from overlaykit import codec, projects, signals, standard
from overlaykit.errors import Error
from overlaykit.fuse import channel, cleanup, daemon_log, limits, no_open, unmount
from overlaykit.fuse.daemon_start import WRITTEN
from overlaykit.fuse.directories import Directories
from overlaykit.fuse.spec import (
    Cleanup,
    Failed,
    MountSpec,
    PassedDirectory,
    Ready,
    StartRequest,
)

if TYPE_CHECKING:
    from typing import NoReturn

    from overlaykit.fuse.image import Image

log: Final = logging.getLogger(__name__)


def main() -> None:
    """Serve a mount for the parent at the other end of a socket, whose descriptor is the argument."""
    standard.fill()
    limits.raise_own()
    # The parent held signals, and a child inherits that.
    signals.restore(set())
    # pyfuse3 and trio take long to load: they load here, while the parent prepares the mount.
    load()
    serve(socket.socket(fileno=int(sys.argv[1])))


def load() -> None:
    """Load all that `serve` needs."""
    # Modules are no garbage: to search them for it takes a seventh of the time.
    gc.disable()
    # Loads trio: not before the signal mask is the daemon's own.
    from overlaykit.fuse import patches

    patches.interpose_libfuse()
    patches.import_pyfuse3()
    importlib.import_module("overlaykit.fuse.session")
    gc.freeze()
    gc.enable()


def serve(parent: socket.socket, image: Image | None = None) -> None:
    """Receive what to mount, mount it, reply to the parent, and serve the mount until it is gone.

    `image`: what the daemons of a fork server share. Requires: `load`. No thread runs, and no signal is blocked.
    """
    from overlaykit.fuse.session import run
    from overlaykit.fuse.stack import UpperInUse

    limits.raise_own()
    directories = Directories()
    spec, descriptors = _receive_spec(parent, directories)
    if spec is None:
        return
    listener = socket.socket(fileno=descriptors[0])
    daemon_log.configure(spec.log_path)
    _leave_working_directory()
    if spec.target is not None:
        limits.serve_everyone()
    if spec.options.by_project:
        projects.heed_limits()
    told = None
    try:
        told = _Parent(parent, spec)
        run(spec, directories, listener, told, image)
    except UpperInUse as error:
        failure = Failed(message=str(error), upper_locked_by=error.args[1])
    except Error as error:
        failure = Failed(message=str(error))
    except OSError as error:
        failure = Failed(errno=error.errno or errno.EIO, path=_text(error.filename))
    except Exception:
        log.exception("the daemon failed")
        raise
    else:
        _exit()
    if told is not None and told.has_begun:
        log.error("the mount ended: %s", failure)
        sys.exit(Error.exit_code)
    # The failure may be that the parent has ended.
    with contextlib.suppress(BrokenPipeError):
        parent.sendall(codec.encode(failure))


class _Parent:
    """Implements `session.Parent`. `has_begun`: the mount is ready, so the parent hears of no failure."""

    def __init__(self, connection: socket.socket, spec: MountSpec) -> None:
        self._connection = connection
        self._spec = spec
        self.has_begun = False
        # It is out of reach once the mount is ready.
        self._null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)

    def require(self) -> None:
        # It sends nothing more, so its socket is readable only then.
        if unmount.readable_within(self._connection.fileno(), 0):
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))

    def ready(self, device: int, detached: int = -1) -> None:
        # Daemonize, last step: messages go to the log only from now on. The other descriptor stays open: a keeper takes
        # its number for one of its own (keeper.keep), so no daemon may get it.
        os.dup2(self._null, 2)
        writable = self._spec.upper is not None
        reply = Ready(device, (*limits.notes(writable=writable), *no_open.notes(self._spec)))
        descriptors = [detached] if detached >= 0 else []
        channel.send(self._connection, codec.encode(reply), descriptors)
        self.has_begun = True

    def written(self) -> None:
        # The parent may have ended.
        with contextlib.suppress(OSError):
            self._connection.sendall(WRITTEN)


def _receive_spec(
    parent: socket.socket, directories: Directories
) -> tuple[MountSpec | None, list[int]]:
    """Receive the spec, with its descriptors, and the directories before it.

    Returns None if the parent has ended instead; its `Cleanup` is carried out then.
    """
    given = Cleanup()
    while True:
        raw, descriptors = channel.receive(parent)
        request: StartRequest | None = codec.decode(raw, StartRequest) if raw else None
        match request:
            case MountSpec():
                return request, descriptors
            case PassedDirectory(path=path):
                directories.add(path, descriptors[0])
            case Cleanup():
                given = request
            case None:
                cleanup.remove(given)
                return None, []


def _leave_working_directory() -> None:
    """Daemonize, first step: leave the parent's working directory and umask. `Daemon` has made the new session."""
    os.chdir("/")
    os.umask(0)


def _exit() -> NoReturn:
    """Exit without taking the interpreter apart, which would only delay the process that waits for the end."""
    logging.shutdown()
    os._exit(0)


def _text(name: object) -> str | None:
    if isinstance(name, bytes):
        return os.fsdecode(name)
    return None if name is None else str(name)


if __name__ == "__main__":
    main()
