"""The cost of a published port: a server in a view, beside the same server on the host."""

from __future__ import annotations

import contextlib
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

from overlaykit.bench.views import client, server
from overlaykit.bench.views.idle import idle_processes
from overlaykit.bench.views.launchers import ours, plain
from overlaykit.bench.workload import Context, Point, Subject, Unit, scaled
from overlaykit.views import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from overlaykit.bench.workload import Interruptible

_CONNECTIONS: Final = 8
_PORT: Final = 8000
"""The server's port in the view."""

_NUMBERS: Final = {"requests": 20_000, "connections": 4_000}
_WHAT: Final = {
    "requests": f"{{0:,}} requests of a kilobyte to a published port, over {_CONNECTIONS} persistent connections",
    "connections": "{0:,} requests of a kilobyte to a published port, one after another, each over a new connection",
}


class Ports:
    """The requests a second of a client on the host."""

    unit: Unit = "1/s"
    more_is_better = True
    warms = False
    most_rounds: int | None = None
    point: Point | None = None

    def __init__(self, kind: Literal["requests", "connections"], scale: float) -> None:
        self.operations = scaled(_NUMBERS[kind], scale)
        self.name = f"ports/{kind}"
        self.what = _WHAT[kind].format(self.operations)
        self._kind = kind

    @contextlib.contextmanager
    def open(self, context: Context) -> Iterator[Sequence[Subject]]:
        host, view = plain(), ours("-p", f"0:{_PORT}")
        yield [
            Subject(
                name=host.name,
                what=host.about,
                measure=partial(self._measure, _on_host, context.interruptible),
            ),
            Subject(
                name=view.name,
                what=view.about,
                measure=partial(self._measure, _published, context.interruptible),
            ),
        ]

    def _measure(
        self,
        serving: Callable[[Interruptible], contextlib.AbstractContextManager[int]],
        interruptible: Interruptible,
    ) -> float:
        with serving(interruptible) as port, interruptible():
            if self._kind == "requests":
                seconds = client.timed_requests(port, self.operations, _CONNECTIONS)
            else:
                seconds = client.timed_new_connections(port, self.operations)
        return self.operations / seconds


def workloads(scale: float) -> list[Ports]:
    return [Ports("requests", scale), Ports("connections", scale)]


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


def _server(port: int) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", server.__file__, str(port))
