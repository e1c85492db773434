"""The cost of a published port: a server in a view or a container, beside the same server on the host."""

from __future__ import annotations

import contextlib
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from overlaykit.bench.views import client, server
from overlaykit.bench.views.idle import idle_processes
from overlaykit.bench.views.launchers import ours, plain, podman, warm_subjects
from overlaykit.bench.workload import Context, Point, Subject, Unit, scaled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from overlaykit.bench.views.launchers import Launcher
    from overlaykit.bench.workload import Interruptible

    Serving: TypeAlias = Callable[[Interruptible], contextlib.AbstractContextManager[int]]
    """Runs the server: its port on the host."""

_CONNECTIONS: Final = 8
_LOOPBACK: Final = "127.0.0.1"
_ANY: Final = "0.0.0.0"  # of a container, which has an address of its own
_PORT: Final = 8000
"""The server's port in the view."""

Kind = Literal["requests", "connections", "bulk"]

_NUMBERS: Final[dict[Kind, int]] = {"requests": 20_000, "connections": 4_000, "bulk": 1}
_WHAT: Final[dict[Kind, str]] = {
    "requests": f"{{0:,}} requests of a kilobyte to a published port, over {_CONNECTIONS} persistent connections",
    "connections": "{0:,} requests of a kilobyte to a published port, one after another, each over a new connection",
    "bulk": f"receive {server.BULK_BYTES >> 20} MiB through a published port, over one connection",
}


class Ports:
    """The requests, or bytes, a second of a client on the host."""

    more_is_better = True
    warms = False
    most_rounds: int | None = None
    point: Point | None = None

    def __init__(self, kind: Kind, scale: float) -> None:
        self.unit: Unit = "B/s" if kind == "bulk" else "1/s"
        self.operations = scaled(_NUMBERS[kind], scale)
        self.name = f"ports/{kind}"
        self.what = _WHAT[kind].format(self.operations)
        self._kind = kind

    def open(self, context: Context) -> contextlib.AbstractContextManager[Sequence[Subject]]:
        servers = (
            (plain(), on_host),
            (ours("-p", f"0:{_PORT}"), partial(published, ours())),
            (podman("--publish", f"0:{_PORT}"), _published_by_podman),
        )
        return warm_subjects(
            (launcher, partial(self._measure, serving, context.interruptible))
            for launcher, serving in servers
        )

    def _measure(self, serving: Serving, interruptible: Interruptible) -> float:
        return per_second(self._kind, serving, self.operations, interruptible)


def workloads(scale: float) -> list[Ports]:
    return [Ports(kind, scale) for kind in _NUMBERS]


def per_second(kind: Kind, serving: Serving, number: int, interruptible: Interruptible) -> float:
    """The requests, or bytes, a second of a client that makes so many requests."""
    with serving(interruptible) as port, interruptible():
        if kind == "bulk":
            return server.BULK_BYTES / client.timed_bulk(port)
        if kind == "requests":
            seconds = client.timed_requests(port, number, _CONNECTIONS)
        else:
            seconds = client.timed_new_connections(port, number)
    return number / seconds


@contextlib.contextmanager
def on_host(interruptible: Interruptible) -> Iterator[int]:
    """Run the server on the host: its port."""
    with idle_processes([plain().command(*_server(0))], interruptible) as (process,):
        assert process.stdout is not None
        yield int(process.stdout.readline())


@contextlib.contextmanager
def published(launcher: Launcher, interruptible: Interruptible) -> Iterator[int]:
    """Run the server in a view: the published port on the host, one that was free before."""
    port = _free()
    view = launcher.with_options("-p", f"{_LOOPBACK}:{port}:{_PORT}")
    with idle_processes([view.command(*_server(_PORT, _ANY))], interruptible):
        yield port


@contextlib.contextmanager
def _published_by_podman(interruptible: Interruptible) -> Iterator[int]:
    """Run the server in a container: the published port on the host, one that was free before."""
    port = _free()
    container = podman("--publish", f"{_LOOPBACK}:{port}:{_PORT}")
    with idle_processes([container.command(*_server(_PORT, _ANY))], interruptible):
        yield port


def _free() -> int:
    """A port of the host that is free now."""
    with socket.create_server((_LOOPBACK, 0)) as free:
        port: int = free.getsockname()[1]
    return port


def _server(port: int, address: str = _LOOPBACK) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", server.__file__, str(port), address)
