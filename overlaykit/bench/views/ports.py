"""What a published port costs: a server in a view, asked from the host, beside the same server outside."""

from __future__ import annotations

import contextlib
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

from overlaykit.bench.views import client, server
from overlaykit.bench.views.launchers import ours, plain
from overlaykit.bench.views.residents import residents
from overlaykit.bench.workload import Course, Entrant, Point, Unit, scaled
from overlaykit.views import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from overlaykit.bench.workload import Interruptible

_CONNECTIONS: Final = 8
_PORT: Final = 8000
"""The server's, in the view."""

_NUMBERS: Final = {"requests": 20_000, "connections": 4_000}
_WHAT: Final = {
    "requests": f"{{0:,}} requests of a kilobyte to a published port, over {_CONNECTIONS} connections that stay open",
    "connections": "{0:,} requests of a kilobyte to a published port, one by one, each over a new connection",
}


class Ports:
    """Requests a second that a client on the host gets answered."""

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
    def open(self, course: Course) -> Iterator[Sequence[Entrant]]:
        outside, view = plain(), ours("-p", f"0:{_PORT}")
        yield [
            Entrant(
                name=outside.name,
                what=outside.about,
                measure=partial(self._measure, _outside, course.interruptible),
            ),
            Entrant(
                name=view.name,
                what=view.about,
                measure=partial(self._measure, _published, course.interruptible),
            ),
        ]

    def _measure(
        self,
        serving: Callable[[Interruptible], contextlib.AbstractContextManager[int]],
        interruptible: Interruptible,
    ) -> float:
        with serving(interruptible) as port, interruptible():
            if self._kind == "requests":
                seconds = client.keep_asking(port, self.operations, _CONNECTIONS)
            else:
                seconds = client.connect_anew(port, self.operations)
        return self.operations / seconds


def workloads(scale: float) -> list[Ports]:
    return [Ports("requests", scale), Ports("connections", scale)]


@contextlib.contextmanager
def _outside(interruptible: Interruptible) -> Iterator[int]:
    """The server by itself; its port."""
    with residents([plain().command(*_server(0))], interruptible) as (process,):
        assert process.stdout is not None
        yield int(process.stdout.readline())


@contextlib.contextmanager
def _published(interruptible: Interruptible) -> Iterator[int]:
    """The server in a view; the host's port that is published."""
    name = f"bench-{os.getpid()}"
    view = ours("-p", f"0:{_PORT}", "--name", name)
    with residents([view.command(*_server(_PORT))], interruptible):
        (published,) = Registry().find(name).about.ports
        _, port, _ = published.rsplit(":", 2)
        yield int(port)


def _server(port: int) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", server.__file__, str(port))
