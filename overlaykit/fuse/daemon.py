"""The process that serves one mount, and how it is started.

`start` runs this module as a program of its own: a fresh interpreter holds neither the caller's memory nor its threads.
It gets a socket to its starter, on which it says once that the mount answers, or why there is none; and the listener of
its control socket. It ends when its mount is gone. SIGTERM unmounts: at once, or, where files are in use, as soon as
they are not; a second SIGTERM ends it whatever is in use.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from overlaykit.errors import Error
from overlaykit.fuse.spec import Answer, Failed, MountSpec, Started

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log: Final = logging.getLogger(__name__)

_LONGEST_MESSAGE: Final = 1 << 20
_DEBUG_VARIABLE: Final = "OVERLAYKIT_DEBUG"


class DaemonDied(Error):
    """the daemon ended before the mount was ready; its log: {0}"""


class Refused(Error):
    """{0}"""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A daemon whose mount answers. `mount` is the detached mount's descriptor, -1 if it is attached to a target."""

    process: subprocess.Popen[bytes]
    mount: int


def start(
    spec: MountSpec,
    control: socket.socket,
    *,
    prepare: Callable[[], None] | None = None,
    keep: Sequence[int] = (),
) -> Daemon:
    """Mount what `spec` says, and return once the mount answers. `control` listens for `control.ask`.

    `prepare` runs in the new process before anything else, to put it in the namespaces it shall live in; the
    descriptors `keep` stay open in it as long as it lives (locks). Raises Error or OSError with nothing left behind.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "overlaykit.fuse.daemon",
                str(theirs.fileno()),
                str(control.fileno()),
            ],
            pass_fds=(theirs.fileno(), control.fileno(), *keep),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=prepare,  # only system calls: nothing that takes a lock
        )
        theirs.close()
        try:
            ours.sendall(msgspec.json.encode(spec))
            raw, descriptors, _, _ = socket.recv_fds(ours, _LONGEST_MESSAGE, 1)
            answer = msgspec.json.decode(raw, type=Answer) if raw else None
        except BaseException:
            process.kill()
            process.wait()
            raise
    if isinstance(answer, Started):
        return Daemon(process, descriptors[0] if descriptors else -1)
    process.wait()
    if answer is None:
        raise DaemonDied(spec.log_path)
    if answer.message:
        raise Refused(answer.message)
    raise OSError(answer.errno, os.strerror(answer.errno), answer.path)


def main() -> None:
    """The program: `python -m overlaykit.fuse.daemon SOCKET LISTENER`, both descriptors."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    listener = socket.socket(fileno=int(sys.argv[2]))
    spec = msgspec.json.decode(channel.recv(_LONGEST_MESSAGE), type=MountSpec)
    _log_to(spec.log_path)
    _settle_down()
    told = False

    def tell(detached: int) -> None:
        nonlocal told
        told = True
        descriptors = [detached] if detached >= 0 else []
        socket.send_fds(channel, [msgspec.json.encode(Started())], descriptors)
        channel.close()
        _leave_terminal()

    try:
        from overlaykit.fuse.session import run  # late: a spec that is wrong needs no trio

        run(spec, listener, tell)
    except Error as error:
        failure = Failed(message=str(error))
    except OSError as error:
        failure = Failed(errno=error.errno or errno.EIO, path=_text(error.filename))
    else:
        return
    if told:
        log.error("the mount ended: %s", failure)
        sys.exit(Error.exit_code)
    channel.sendall(msgspec.json.encode(failure))


def _log_to(path: str) -> None:
    """Warnings and worse go to a file, never to a terminal that may be closed by then."""
    level = logging.DEBUG if os.environ.get(_DEBUG_VARIABLE) else logging.WARNING
    handler: logging.Handler = (
        logging.FileHandler(path, delay=True) if path else logging.NullHandler()
    )
    logging.basicConfig(
        level=level,
        handlers=[handler],
        format=f"%(asctime)s {os.getpid()} %(name)s %(levelname)s: %(message)s",
    )
    logging.captureWarnings(True)


def _leave_terminal() -> None:
    """Let go of the starter's standard error: from now on only the log is read."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)


def _settle_down() -> None:
    """What a daemon is: at home in /, with no umask of its own, and as many descriptors as it may have."""
    os.chdir("/")
    os.umask(0)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _text(name: object) -> str | None:
    if isinstance(name, bytes):
        return os.fsdecode(name)
    return None if name is None else str(name)


if __name__ == "__main__":
    main()
