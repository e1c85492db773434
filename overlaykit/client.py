"""What runs, asked: `Client`, which the commands use too.

May import: `views`, `changes`, `fuse`, `overlay` and the ground floor. It joins a daemon's control socket
(docs/control.md) to the comparison of layers where no daemon can compare them.
"""

from __future__ import annotations

import errno
import os

from overlaykit.errors import Error
from overlaykit.record import Record
from overlaykit.views.flushing import flush
from overlaykit.views.registry import ANSWER_SECONDS, DaemonSilent, NotRunning, Registry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike
    from typing import Any, Self, TypeVar

    from overlaykit.changes.opening import Opened
    from overlaykit.fuse import control
    from overlaykit.fuse.control import Measured
    from overlaykit.overlay.explanation import Copied, Explanation, Hiding
    from overlaykit.views.entry import About
    from overlaykit.views.registry import RunningView

    T = TypeVar("T", bound=Record)

__all__ = [
    "Client",
    "Copied",
    "Events",
    "Explanation",
    "Hiding",
    "LayerCovered",
    "NoDaemon",
    "NoSuchPath",
    "NothingWritten",
    "Stack",
    "flush",
]


def __getattr__(name: str) -> object:
    # Late: `diff` and `apply` explain nothing.
    if name in ("Copied", "Explanation", "Hiding"):
        from overlaykit.overlay import explanation

        return getattr(explanation, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class NoDaemon(Error):
    message = (
        "{0}: no daemon answers its requests: the kernel does, or it has ended ('overlaykit ps')"
    )


class NothingWritten(Error):
    message = "{0}: the view is read-only: nothing can be written in it"


class NoSuchPath(Error):
    message = "{0}: no such file, neither in the view nor below it"


class LayerCovered(Error):
    message = "{0}: the mount covers its own layer, which only root can reach below it: use sudo"


class Stack(Record, kw_only=True):
    """Directories that are merged: `layers`, top first, below the snapshots `frozen`, below `upper`.

    `point`: the snapshot that the upper is, which never changes; empty: it is none.
    `upper`: None: there is none. `running`: what shows the merge now. `assumed`: the layers are those that `run` takes
    without `-l`: nothing says which the upper lay on. `control`: the socket of its daemon. `tried`, `ignored`: of a
    view of `try`, the directories whose changes may be applied, and patterns of paths that never are. `disk`: of a
    machine, what `upper` is a copy of.
    """

    name: str
    upper: str | None
    layers: tuple[str, ...]
    frozen: tuple[str, ...] = ()
    point: str = ""
    running: About | None = None
    assumed: bool = False
    control: str = ""
    tried: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    disk: str = ""

    def open(self) -> tuple[Opened | None, list[Opened]]:
        """Open the directories, once all that programs have written is in the upper. Raises: OSError, LayerCovered."""
        from overlaykit.changes.opening import open_directory, open_frozen

        if self.running is not None:
            flush(self.running)
        upper = None if self.upper is None else open_directory(self.upper)
        frozen = [open_frozen(path) for path in self.frozen]
        return upper, [*frozen, *(self._open_layer(path) for path in self.layers)]

    def _open_layer(self, path: str) -> Opened:
        """Open a layer, which the mount itself may cover."""
        from overlaykit.changes.opening import open_covered, open_directory

        opened = open_directory(path)
        if self.running is None or os.fstat(opened.fd).st_dev != self.running.device:
            return opened
        os.close(opened.fd)
        try:
            return open_covered(path)
        except PermissionError:
            raise LayerCovered(path) from None


class Client:
    """A client of a running view or mount, by its name or mountpoint.

        with overlaykit.Client("web") as client:
            print(client.explain("/etc/issue").hits)

    It asks the daemon through the control socket. The kernel's driver has no daemon: then `explain` and `diff` read the
    layers, and `stats` raises NoDaemon. After a restart of the daemon it connects again.

    Args: `view`: the name, or the path. `seconds`: the longest wait for an answer.
    Raises: NotRunning: nothing of that name runs. Every method: NotRunning: it has ended; DaemonSilent: no answer in
    time; OSError: what the request says, or EACCES: the socket's mode.
    """

    def __init__(self, view: str | PathLike[str], *, seconds: float = ANSWER_SECONDS) -> None:
        self._name = os.fspath(view)
        self._running = Registry().find(self._name)
        self._seconds = seconds
        self._connection: control.Connection | None = None

    @classmethod
    def of(cls, running: RunningView) -> Self:
        """A client of what the registry has found."""
        client = cls.__new__(cls)
        client._name = running.about.name
        client._running = running
        client._seconds = ANSWER_SECONDS
        client._connection = None
        return client

    @property
    def is_machine(self) -> bool:
        """Whether its files are on a disk of its own, above those of its layers."""
        return bool(self._running.about.machine)

    def explain(self, path: str) -> Explanation:
        """What a path, from the root of the view, means in each layer. Raises: OSError (ENOENT, ENOTDIR, ELOOP)."""
        about = self._running.about
        if about.daemon:
            from overlaykit.fuse import control
            from overlaykit.overlay.explanation import Explanation

            found = self._ask(control.Explain(path), Explanation)
            return self._running.with_present_paths(found)
        from overlaykit.views.explaining import explain_layers

        return explain_layers(about.paths, about.changes, path)

    def stats(self) -> Measured:
        """What the daemon holds in memory, and the requests of the kernel with their latencies. Raises: NoDaemon."""
        if not self._running.about.daemon:
            raise NoDaemon(self._name)
        from overlaykit.fuse import control

        return self._ask(control.Stats(), control.Measured)

    def diff(self, path: str = "/", *, times: bool = False) -> list[dict[str, Any]]:
        """The changes of a path and of all below it: objects as of `overlaykit diff --json` (docs/changes.md).

        `times`: also files of which nothing but the modification time differs.
        Raises: NothingWritten: it is read-only; NoSuchPath; LayerCovered; OSError.
        """
        import json

        return [json.loads(change) for change in self.changes_as_json(path, times=times)]

    def changes_as_json(self, path: str = "/", *, times: bool = False) -> Iterator[str]:
        """As `diff`: each the text of an object, as it is found.

        The daemon compares, in a child. One in a user namespace of its own, as that of an ordinary user's view, does
        not see all owners: then, and without a daemon, this process compares. It needs the right to read the layers.
        """
        if self._running.about.daemon:
            from overlaykit.fuse import control

            flush(self._running.about)
            try:
                yield from self._compared_by_daemon(control.Diff(path, times))
                return
            except OSError as error:
                if error.errno == errno.EROFS:
                    raise NothingWritten(self._name) from None
                if error.errno == errno.ENOENT:
                    raise NoSuchPath(path) from None
                if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
        yield from self._compared_here(path, times=times)

    def _compared_by_daemon(self, request: control.Diff) -> Iterator[str]:
        """Raises: NotRunning, DaemonSilent, OSError of the answer."""
        was_connected = self._connection is not None
        has_ended = False
        try:
            if self._connection is None:
                self._connection = self._connect()
            for change in self._connection.changes(request):
                was_connected = False
                yield change.decode("ascii")
            has_ended = True
            return
        except (TimeoutError, BlockingIOError):
            raise self._silent() from None
        except (ConnectionResetError, BrokenPipeError):
            if not was_connected:
                raise NotRunning(self._name) from None
        finally:
            if not has_ended:
                self.close()
        yield from self._compared_by_daemon(request)

    def _compared_here(self, path: str, *, times: bool) -> Iterator[str]:
        import json

        from overlaykit.changes.plain import plain
        from overlaykit.changes.read import Comparison

        upper, lowers = self.stack().open()
        assert upper is not None
        beneath = os.fsencode(os.path.normpath("/" + path).strip("/"))
        with Comparison.of_upper(upper, lowers) as comparison:
            if beneath and not comparison.has(beneath):
                raise NoSuchPath(path)
            for change in comparison.changes(beneath, times=times):
                yield json.dumps(plain(change))

    def stack(self) -> Stack:
        """The directories that are merged. Raises: NothingWritten: it is read-only."""
        about = self._running.about
        upper, layers, frozen = about.changes, about.paths, about.frozen
        if about.daemon:
            from overlaykit.fuse import control

            found = self._ask(control.Stack(), control.Stacked)
            layers, frozen = tuple(map(self._running.present_path, found.layers)), found.frozen
            # The daemon knows the upper by the path of its start.
            upper = None if found.upper is None else about.changes or found.upper
        if upper is None:
            raise NothingWritten(self._name)
        return Stack(
            name=self._name,
            upper=upper,
            layers=layers[frozen:],
            frozen=layers[:frozen],
            running=about,
            control=self._running.control,
        )

    def trace(self) -> Events:
        """Begin a trace of what programs do with files. Raises: NoDaemon; OSError: EBUSY: one runs already."""
        if not self._running.about.daemon:
            raise NoDaemon(self._name)
        try:
            return Events(self._running.control)
        except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError):
            raise NotRunning(self._name) from None

    def close(self) -> None:
        """End the connection. The next request makes another one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, request: control.Request, kind: type[T]) -> T:
        """Raises: NotRunning, DaemonSilent, OSError of the answer."""
        was_connected = self._connection is not None
        try:
            if self._connection is None:
                self._connection = self._connect()
            return self._connection.ask(request, kind)
        except (TimeoutError, BlockingIOError):  # EAGAIN: too many clients wait already
            self.close()
            raise self._silent() from None
        except (ConnectionResetError, BrokenPipeError):
            # Idle for too long, or of a daemon that was restarted.
            self.close()
            if not was_connected:
                raise NotRunning(self._name) from None
        return self._ask(request, kind)

    def _silent(self) -> DaemonSilent:
        return DaemonSilent(self._name, self._running.about.daemon, round(self._seconds))

    def _connect(self) -> control.Connection:
        from overlaykit.fuse import control

        try:
            return control.Connection(self._running.control, self._seconds)
        except (FileNotFoundError, ConnectionRefusedError):
            raise NotRunning(self._name) from None


class Events:
    """The events of a trace, as JSON objects on a line each (docs/trace.md), until the mount ends or `close`.

    `control_path`: of the control socket. `opens`: whether each open(2) is an event. Raises: as `Connection.trace`.
    """

    def __init__(self, control_path: str) -> None:
        from overlaykit.fuse import control

        self._connection = control.Connection(control_path, ANSWER_SECONDS)
        try:
            self.opens = self._connection.trace().opens
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[bytes]:
        while line := self._connection.line():
            yield line

    @property
    def are_held(self) -> bool:
        """Whether the next event has arrived."""
        return self._connection.holds_line

    def close(self) -> None:
        """End the trace."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
