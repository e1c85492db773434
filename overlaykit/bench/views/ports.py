"""The cost of a published port: a server in a view or a container, beside the same server on the host."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

from overlaykit.bench.views import client, server
from overlaykit.bench.views.idle import idle_processes
from overlaykit.bench.views.launchers import ours, plain, podman, warm_subjects
from overlaykit.bench.workload import Context, Point, Subject, Unit, scaled
from overlaykit.views import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from overlaykit.bench.workload import Interruptible

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
            (plain(), _on_host),
            (ours("-p", f"0:{_PORT}"), _published),
            (podman("--publish", f"0:{_PORT}"), _published_by_podman),
        )
        return warm_subjects(
            (launcher, partial(self._measure, serving, context.interruptible))
            for launcher, serving in servers
        )

    def _measure(
        self,
        serving: Callable[[Interruptible], contextlib.AbstractContextManager[int]],
        interruptible: Interruptible,
    ) -> float:
        with serving(interruptible) as port, interruptible():
            if self._kind == "bulk":
                return server.BULK_BYTES / client.timed_bulk(port)
            if self._kind == "requests":
                seconds = client.timed_requests(port, self.operations, _CONNECTIONS)
            else:
                seconds = client.timed_new_connections(port, self.operations)
        return self.operations / seconds


def workloads(scale: float) -> list[Ports]:
    return [Ports(kind, scale) for kind in _NUMBERS]


@contextlib.contextmanager
def _on_host(interruptible: Interruptible) -> Iterator[int]:
    """Run the server on the host: its port."""
    with idle_processes([plain().command(*_server(0))], interruptible) as (process,):
        assert process.stdout is not None
        yield int(process.stdout.readline())


@contextlib.contextmanager
def _published(interruptible: Interruptible) -> Iterator[int]:
    """Run the server in a view: the published port on the host."""
    name = f"bench-{os.getpid()}"
    view = ours("-p", f"0:{_PORT}", "--name", name)
    with idle_processes([view.command(*_server(_PORT))], interruptible):
        (published,) = Registry().find(name).about.ports
        _, port, _ = published.rsplit(":", 2)
        yield int(port)


@contextlib.contextmanager
def _published_by_podman(interruptible: Interruptible) -> Iterator[int]:
    """Run the server in a container: the published port on the host, one that was free before."""
    with socket.create_server((_LOOPBACK, 0)) as free:
        port: int = free.getsockname()[1]
    container = podman("--publish", f"{_LOOPBACK}:{port}:{_PORT}")
    with idle_processes([container.command(*_server(_PORT, _ANY))], interruptible):
        yield port


def _server(port: int, address: str = _LOOPBACK) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", server.__file__, str(port), address)
