"""The process that serves one mount, and how it is started.

`Daemon` runs this module as a program of its own: a fresh interpreter holds neither its caller's memory nor its
threads. A socket tells it what to mount, with the descriptors it needs, and answers once: that the mount
answers, or why there is none; if its starter has ended, so does the daemon. It ends when its mount is gone. SIGTERM
unmounts: at once, or, where files are in use, as soon as they are not; a second SIGTERM ends it whatever is in use.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import logging
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from overlaykit import _native, codec, signals, standard
from overlaykit.errors import Error
from overlaykit.fuse import unmount
from overlaykit.fuse.directories import Directories, shown_path
from overlaykit.fuse.spec import (
    CleanupPaths,
    Failed,
    MountSpec,
    PassedDirectory,
    Ready,
    StartReply,
    StartRequest,
)
from overlaykit.rmtree import rmtree_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log: Final = logging.getLogger(__name__)

_LONGEST_MESSAGE: Final = 1 << 20
_MOST_DESCRIPTORS: Final = 253  # of one message (SCM_MAX_FD)
_PATIENCE: Final = 3  # seconds
_DEBUG_VARIABLE: Final = "OVERLAYKIT_DEBUG"


class DaemonDied(Error):
    message = "the daemon ended before the mount was ready; {0}"


class MountRefused(Error):
    message = "{0}"


class UpperLocked(MountRefused):
    """The upper is another daemon's. `pid`: that daemon; 0 where it cannot be seen."""

    def __init__(self, message: str, pid: int) -> None:
        super().__init__(message)
        self.pid = pid


class Daemon:
    """A daemon, from the starter's side: started, told what to mount, waited for.

    The two steps are apart so that the starter can work out what to mount while the new interpreter loads.
    Attributes: `process`; `mount`, the detached mount's descriptor, which is the caller's to close (-1: none);
    `device`, the mount's st_dev; `notes`, what the user of the mount may not expect, a line each.
    """

    def __init__(self, *, prepare: Callable[[], None] | None = None) -> None:
        """Start the process. `prepare` runs in it first of all, to put it in the namespaces it shall live in."""
        ours, theirs = map(
            _above_standard, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        )
        self.mount = -1
        self.device = 0
        self.notes: tuple[str, ...] = ()
        self._channel = ours
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "overlaykit.fuse.daemon", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=prepare,  # only system calls: nothing that takes a lock
            )

    def set_cleanup_paths(self, *directories: str) -> None:
        """Have the daemon remove these if the starter dies before `serve`; then the spec says what goes when."""
        with contextlib.suppress(BrokenPipeError):  # it is gone already, as `serve` will say
            self._channel.sendall(codec.encode(CleanupPaths(directories)))

    def hand_over(self, path: str, fd: int) -> str:
        """Give the daemon a directory that `path` has led to; the absolute path that stands for it in the spec.

        The descriptor stays the caller's.
        """
        shown = shown_path(path, fd)
        with contextlib.suppress(BrokenPipeError):  # it is gone already, as `serve` will say
            socket.send_fds(self._channel, [codec.encode(PassedDirectory(shown))], [fd])
        return shown

    def serve(self, spec: MountSpec, control: socket.socket, *, keep: Sequence[int] = ()) -> None:
        """Mount what `spec` says, and return once the mount answers; `control` listens for `control.ask`.

        Signals that the caller holds arrive while there is no answer. The descriptors `keep` stay open in the daemon as
        long as it lives (locks). Raises Error, OSError or what a signal's handler raises: the daemon is gone then, and
        nothing left behind.
        """
        try:
            descriptors = [control.fileno(), *keep]
            socket.send_fds(self._channel, [codec.encode(spec)], descriptors)
            # A mount that is attached must be unmounted before a signal ends this process.
            signals.await_readable(self._channel.fileno(), orderly=spec.target is not None)
            raw, received, _, _ = socket.recv_fds(self._channel, _LONGEST_MESSAGE, 1)
            answer = codec.decode(raw, StartReply) if raw else None
        except (BrokenPipeError, ConnectionResetError):
            answer, received = None, []
        except BaseException:
            self.abandon()
            if spec.target is not None:
                unmount.discard(spec.target)
            raise
        self._channel.close()
        if isinstance(answer, Ready):
            self.mount = received[0] if received else -1
            self.device = answer.device
            self.notes = answer.notes
            return
        self.process.wait()
        if answer is None:
            raise DaemonDied(log_of(spec.log_path))
        if answer.upper_in_use >= 0:
            raise UpperLocked(answer.message, answer.upper_in_use)
        if answer.message:
            raise MountRefused(answer.message)
        raise OSError(answer.errno, os.strerror(answer.errno), answer.path)

    def abandon(self) -> None:
        """Give it up before its starter knows that it serves: it ends with the socket, or else by signals."""
        self._channel.close()
        if not self._ends():
            self.end()

    def end(self) -> None:
        """End it, whatever is in use, and wait until it has ended."""
        for signal_it in (self.process.terminate, self.process.terminate, self.process.kill):
            signal_it()
            if self._ends():
                return
        self.process.wait()

    def _ends(self) -> bool:
        """Whether it ends soon; then it is reaped."""
        if self.process.poll() is not None:
            return True
        ended = os.pidfd_open(self.process.pid)
        try:
            if not unmount.readable_within(ended, _PATIENCE):
                return False
        finally:
            os.close(ended)
        self.process.wait()
        return True

    def close_mount(self) -> None:
        """Leave the mount to the other processes that hold it; it ends with the last one."""
        if self.mount >= 0:
            os.close(self.mount)
            self.mount = -1


def main() -> None:
    """The program: `python -m overlaykit.fuse.daemon SOCKET`, a descriptor."""
    from overlaykit.fuse import limits

    standard.fill()
    limits.raise_own()
    signals.restore(set())  # the starter's were held
    _native.name_directories()  # before pyfuse3 is there
    # Here: what takes long to load loads while the starter is at work.
    from overlaykit.fuse.session import run
    from overlaykit.fuse.stack import UpperInUse

    channel = socket.socket(fileno=int(sys.argv[1]))
    directories = Directories()
    spec, descriptors = _await_orders(channel, directories)
    if spec is None:
        return
    listener = socket.socket(fileno=descriptors[0])
    _log_to(spec.log_path)
    _settle_down()
    if spec.target is not None:
        limits.serve_everyone()
    told = False

    def tell(device: int, detached: int) -> None:
        nonlocal told
        _leave_terminal()
        descriptors = [detached] if detached >= 0 else []
        started = Ready(device, limits.notes(writable=spec.upper is not None))
        socket.send_fds(channel, [codec.encode(started)], descriptors)
        told = True

    try:
        run(spec, directories, listener, channel, tell)
    except UpperInUse as error:
        failure = Failed(message=str(error), upper_in_use=error.args[1])
    except Error as error:
        failure = Failed(message=str(error))
    except OSError as error:
        failure = Failed(errno=error.errno or errno.EIO, path=_text(error.filename))
    except Exception:
        log.exception("the daemon failed")
        raise
    else:
        logging.shutdown()
        os._exit(
            0
        )  # all is done and closed: taking the interpreter apart would only keep the caller waiting
    if told:
        log.error("the mount ended: %s", failure)
        sys.exit(Error.exit_code)
    with contextlib.suppress(BrokenPipeError):  # the starter is gone, and this is why
        channel.sendall(codec.encode(failure))


def _above_standard(one: socket.socket) -> socket.socket:
    """The socket on a descriptor from 3 on: a child takes 0 to 2 for its own, which the caller may have closed."""
    with one:
        descriptor = fcntl.fcntl(one.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)
    return socket.socket(one.family, one.type, one.proto, descriptor)


def _await_orders(
    channel: socket.socket, directories: Directories
) -> tuple[MountSpec | None, list[int]]:
    """What to mount, and the descriptors that came with it; None if the starter is gone, with what it left behind."""
    inherited: tuple[str, ...] = ()
    while True:
        raw, descriptors, _, _ = socket.recv_fds(channel, _LONGEST_MESSAGE, _MOST_DESCRIPTORS)
        order: StartRequest | None = codec.decode(raw, StartRequest) if raw else None
        match order:
            case MountSpec():
                return order, descriptors
            case PassedDirectory(path=path):
                directories.add(path, descriptors[0])
            case CleanupPaths(paths=paths):
                inherited = paths
            case None:
                for path in inherited:
                    with contextlib.suppress(OSError):  # the next one to come clears it away
                        rmtree_path(path)
                return None, []


def log_of(path: str) -> str:
    """A daemon's log, for a message: there is none while it had nothing to say."""
    return f"its log: {path}" if path and os.path.exists(path) else "it left no log"


class _LogFile(logging.FileHandler):
    """A file that is made, with its directory, by the first record. A record that finds no room is lost."""

    def __init__(self, path: str) -> None:
        super().__init__(path, delay=True)

    def _open(self) -> io.TextIOWrapper:
        os.makedirs(os.path.dirname(self.baseFilename), 0o700, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self.baseFilename, flags, 0o600)
        return open(fd, "a", encoding="utf-8", errors="backslashreplace")

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        pass


def _log_to(path: str) -> None:
    """Warnings and worse go to a file, never to a terminal, which may be closed."""
    level = logging.DEBUG if os.environ.get(_DEBUG_VARIABLE) else logging.WARNING
    handler: logging.Handler = _LogFile(path) if path else logging.NullHandler()
    logging.basicConfig(
        level=level,
        handlers=[handler],
        format=f"%(asctime)s {os.getpid()} %(name)s %(levelname)s: %(message)s",
    )
    logging.captureWarnings(True)
    logging.getLogger("pyfuse3").addFilter(_is_worth_logging)


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """An answer to a request that its asker did not live to see is refused with ENOENT: no error of anybody's."""
    return os.strerror(errno.ENOENT) not in record.getMessage()


def _leave_terminal() -> None:
    """Let go of the starter's standard error: from now on only the log is read."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)


def _settle_down() -> None:
    """Leave the starter's directory and umask."""
    os.chdir("/")
    os.umask(0)


def _text(name: object) -> str | None:
    if isinstance(name, bytes):
        return os.fsdecode(name)
    return None if name is None else str(name)


if __name__ == "__main__":
    main()
