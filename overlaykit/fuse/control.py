"""The protocol of a daemon's control socket (docs/control.md), and its client.

A request is a line, and so is each answer. The socket's mode says who may connect, and so who may send requests.
`control_server` is the daemon's side.
"""

from __future__ import annotations

import errno
import os

from overlaykit import codec, sockets
from overlaykit.fuse.statistics import Latencies
from overlaykit.overlay.explanation import Explanation
from overlaykit.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Final, Self, TypeVar

    T = TypeVar("T", bound=Record)

PROTOCOL: Final = 1
"""Goes up when an answer's member goes, or gets another meaning."""

LONGEST_LINE: Final = 1 << 16
"""Bytes of a request, without its newline."""


class Version(Record):
    """What the daemon is."""


class Explain(Record):
    """What `path`, from the root of the mount, means in each layer."""

    path: str


class Diff(Record):
    """What the upper changes of its layers at `path`, from the root of the mount, and below it.

    Each change is a line before the answer. `times`: also files of which nothing but the modification time differs.
    """

    path: str = "/"
    times: bool = False


class Stats(Record):
    """What the daemon holds in memory, and which requests of the kernel it has had."""


class Stack(Record):
    """Which directories the daemon merges."""


class Freeze(Record):
    """Let the upper be a lower from now on, and a new, empty one take its place (`overlay.freezing`).

    Sent with descriptors of the directory above the upper, of that above the work directory, and of the one that the
    two go to, whose path is `path`. `upper`, `work`: their names. The answer is as that to `Stack`.
    """

    path: str
    upper: str
    work: str


class Layers(Record):
    """Have other lowers from now on (`overlay.restacking`).

    `lowers`: top first, the indexes of those that stay, -1 for each new one. `paths`: those of the new ones, of which
    the request comes with two descriptors each: of the directory, and one that keeps it from being removed (flock(2)).
    `alone`: whether no mount lies in any of these directories. The answer is as that to `Stack`.
    """

    lowers: tuple[int, ...]
    paths: tuple[str, ...] = ()
    alone: bool = False


class Trace(Record):
    """Send what programs do with files from now on, an event on a line, until the client ends the connection."""


class End(Record):
    """End the connection with the kernel, even if files are in use: users of the mount get ENOTCONN."""


class Versions(Record):
    """`protocol`: see `PROTOCOL`. `requests`: those that the daemon knows."""

    protocol: int
    overlaykit: str
    requests: tuple[str, ...]


class Compared(Record):
    """The number of `changes`."""

    changes: int


class Progress(Record):
    """How far a comparison is: `done` of `total`, which is 0 if it is not known."""

    what: str
    done: int
    total: int


class Measured(Record):
    """`held`: numbers of nodes, nlookup, open files and directory descriptors.

    `requests`: numbers by kind, of those that reached Python. `answered`: how many the data plane has answered.
    `python`, `native`: the latencies by kind, of those answered by Python and by the data plane.
    """

    held: dict[str, int]
    requests: dict[str, int]
    answered: int
    python: dict[str, Latencies]
    native: dict[str, Latencies]


class Stacked(Record):
    """`upper`, `layers`: paths as the daemon was given them, the layers top first; no upper: it is read-only.

    `attributes`: the prefix of the overlay attributes that it writes. `frozen`: how many of the layers, the first ones,
    were uppers. `work`: the upper's work directory.
    """

    upper: str | None
    layers: tuple[str, ...]
    attributes: str
    frozen: int = 0
    work: str | None = None


class Tracing(Record):
    """Events follow. `opens`: whether each open(2) is one."""

    opens: bool


class Ending(Record):
    """The connection ends after this answer."""


class Refusal(Record):
    """A request that has failed, as an OSError: the name of its errno, its text, and the path that it is about."""

    errno: str
    message: str
    path: str | None

    def error(self) -> OSError:
        number = getattr(errno, self.errno, errno.EIO)
        return OSError(number, self.message, *(() if self.path is None else (self.path,)))


Request = Version | Explain | Diff | Stats | Stack | Freeze | Layers | Trace | End
Answer = Versions | Explanation | Compared | Measured | Stacked | Tracing | Ending

_REQUESTS: Final[dict[str, type[Request]]] = {
    "version": Version,
    "explain": Explain,
    "diff": Diff,
    "stats": Stats,
    "stack": Stack,
    "freeze": Freeze,
    "layers": Layers,
    "trace": Trace,
    "end": End,
}
NAMES: Final = tuple(_REQUESTS)
"""The requests as they are named on the socket."""

CHANGE: Final = b'{"change": '
"""What the line of a change begins with."""
_LONGEST_PATH: Final = 4096
"""PATH_MAX."""

_PIECE: Final = 1 << 16
"""Bytes."""


def parse_request(line: bytes) -> Request:
    """The request of a line. Raises: OSError: EINVAL; ENOSYS: there is no such request."""
    try:
        data = codec.parsed(line)
        name = data.pop("request")
    except (KeyError, ValueError) as error:
        message = 'not a request: an object with the member "request" on a line'
        raise OSError(errno.EINVAL, message) from error
    kind = _REQUESTS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise OSError(errno.ENOSYS, f"no such request: those are {', '.join(NAMES)}")
    try:
        return codec.convert(data, kind)
    except (TypeError, ValueError) as error:
        members = ", ".join(kind.fields) or "none"
        raise OSError(errno.EINVAL, f"{name}: wrong members: it has {members}") from error


def answer_line(answer: Answer) -> bytes:
    return codec.line({"answer": answer})


def progress_line(progress: Progress) -> bytes:
    return codec.line({"progress": progress})


def check_path(path: bytes) -> None:
    """Raises: OSError: no file has such a path."""
    if len(path) > _LONGEST_PATH:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    if b"\0" in path:
        raise OSError(errno.EINVAL, "a path has no NUL")


def refusal_line(error: OSError) -> bytes:
    """The line for a request that has failed."""
    number = error.errno or errno.EIO
    path = error.filename if isinstance(error.filename, str | bytes) else None
    refusal = Refusal(
        errno.errorcode.get(number, "EIO"),
        error.strerror or os.strerror(number),
        None if path is None else os.fsdecode(path),
    )
    return codec.line({"error": refusal})


class Connection:
    """A connection to the socket at `path`. `seconds`: the longest wait for an answer; None: for ever.

    Raises: OSError: ECONNREFUSED: the daemon has ended; EACCES: the socket's mode; EAGAIN: too many wait to connect.
    """

    def __init__(self, path: str, seconds: float | None = None) -> None:
        self._path = path
        self._held = bytearray()
        self._socket = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        try:
            self._socket.settimeout(seconds)
            directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                # A socket's path is short (unix(7)); this one may be long.
                self._socket.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
            finally:
                os.close(directory)
        except BaseException:
            self.close()
            raise

    def ask(self, request: Request, kind: type[T], descriptors: Sequence[int] = ()) -> T:
        """Send a request whose answer is a `kind`, with `descriptors`.

        Raises: OSError of a `Refusal`; ECONNRESET or EPIPE: the daemon has ended the connection; TimeoutError.
        """
        self._send(request, descriptors)
        data = codec.parsed(b"".join(next(self._pieces())))
        if "error" in data:
            raise codec.convert(data["error"], Refusal).error()
        return codec.convert(data["answer"], kind)

    def changes(self, request: Diff) -> Iterator[bytes]:
        """Send a request for changes. Returns: each, a JSON object. Raises: as `ask`.

        While the daemon compares, it is shown how far that is (`progress`). The connection is of no use if it is not
        read to its end.
        """
        from overlaykit import progress

        self._send(request)
        compared = False
        for lines in self._pieces():
            for line in lines:
                if line.startswith(CHANGE):
                    if not compared:
                        progress.end()
                        compared = True
                    yield line[len(CHANGE) : -2]
                    continue
                data = codec.parsed(line)
                if "progress" in data:
                    progress.show(**data["progress"])
                    continue
                progress.end()
                if "error" in data:
                    raise codec.convert(data["error"], Refusal).error()
                return

    def _send(self, request: Request, descriptors: Sequence[int] = ()) -> None:
        name = next(name for name, one in _REQUESTS.items() if one is type(request))
        line = codec.line({"request": name} | vars(request))
        if descriptors:
            line = line[sockets.send_fds(self._socket, [line], descriptors) :]
        self._socket.sendall(line)

    def _pieces(self) -> Iterator[list[bytes]]:
        """The lines that have arrived, again and again. Raises: ConnectionResetError; TimeoutError."""
        held: list[bytes] = []
        while more := self._socket.recv(_PIECE):
            *lines, rest = more.split(b"\n")
            if lines:
                lines[0] = b"".join((*held, lines[0]))
                held = []
                yield [line + b"\n" for line in lines]
            held.append(rest)
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET), self._path)

    def trace(self) -> Tracing:
        """Begin a trace: its events are the lines that follow. Raises: as `ask`."""
        self._send(Trace())
        line = self.line()
        if not line:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET), self._path)
        data = codec.parsed(line)
        if "error" in data:
            raise codec.convert(data["error"], Refusal).error()
        self._socket.settimeout(None)
        return codec.convert(data["answer"], Tracing)

    @property
    def holds_line(self) -> bool:
        """Whether the next line has arrived."""
        return b"\n" in self._held

    def line(self) -> bytes:
        """The next line, with its newline; empty: the daemon has ended the connection. Raises: TimeoutError."""
        while (end := self._held.find(b"\n") + 1) == 0:
            try:
                more = self._socket.recv(_PIECE)
            except ConnectionResetError:
                return b""
            if not more:
                return b""
            self._held += more
        line = bytes(self._held[:end])
        del self._held[:end]
        return line

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def ask(path: str, request: Request, kind: type[T], *, seconds: float | None = None) -> T:
    """Send one request to the daemon whose socket is at `path`, and return its answer. Raises: as `Connection`."""
    with Connection(path, seconds) as connection:
        return connection.ask(request, kind)
