"""What the demo does, in order, and what has to come of it."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from overlaykit.cli.demo import pythons, table
from overlaykit.cli.demo.server import SITE, Page, Server
from overlaykit.cli.interruption import Interruption
from overlaykit.errors import Error
from overlaykit.views import Registry

if TYPE_CHECKING:
    from overlaykit.namespace import Port

PYTHON: Final = "/usr/bin/python"


class NotAsPromised(Error):
    message = "the demo did not show what it should: {0}"

    exit_code = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What there was to see of one view, and of the host at the same time."""

    name: str
    """What the demo calls it: its Python's name."""
    view: str
    """What the registry calls it."""
    page: Page
    real_file: str
    """The host's file behind /usr/bin/python."""
    port: Port
    own_file: str
    """The path of a file written in this view."""
    own_file_in: tuple[bool, ...]
    """Whether each view serves that file, in the views' order."""
    own_file_on_host: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What the demo compares the views with."""

    python: str | None
    """Where /usr/bin/python leads, itself if it is no link, None if there is none."""
    processes: int


def show(*, offline: bool) -> None:
    """Run the demo, print it, and leave nothing but the layer that was fetched.

    Raises Error (NotAsPromised, NoPython2 and what the rooms say); OSError.
    """
    with Interruption() as interruption:
        with interruption.allowed():
            chosen = (pythons.python2(offline=offline, say=_say), pythons.python3())
        before = _look_at_host()
        with contextlib.ExitStack() as undo:
            servers = []
            for python in chosen:
                _say(f"Starting `python -m {python.server} 80` in a view of its own ...")
                directory = undo.enter_context(
                    tempfile.TemporaryDirectory(prefix="overlaykit-demo-")
                )
                servers.append(undo.enter_context(Server(python, directory)))
                with interruption.allowed():
                    servers[-1].await_listening()
            _say("Fetching both pages from the host, through the published ports ...")
            with interruption.allowed():
                seen = [_look_at(server, servers) for server in servers]
                host = _look_at_host()
            _say("Ending both views ...")
        after = _look_at_host()
    for python, view in zip(chosen, seen, strict=True):
        _check_version(python, view)
    _check_apart(seen, host)
    _check_nothing_left(seen, before, after)
    table.show(seen, host, [python.note for python in chosen])


def _look_at(server: Server, servers: list[Server]) -> Seen:
    path = os.path.join(SITE, server.own_file)
    return Seen(
        name=server.python.name,
        view=server.name,
        page=server.page(),
        real_file=server.real_file(PYTHON),
        port=server.port,
        own_file=path,
        own_file_in=tuple(one.has(server.own_file) for one in servers),
        own_file_on_host=os.path.lexists(path),
    )


def _look_at_host() -> Host:
    return Host(
        python=os.path.realpath(PYTHON) if os.path.lexists(PYTHON) else None,
        processes=sum(name.isdecimal() for name in os.listdir("/proc")),
    )


def _check_version(python: pythons.Python, view: Seen) -> None:
    if not view.page.version.startswith(python.release):
        raise NotAsPromised(f"{PYTHON} of the {python.name} view is {view.page.version}")


def _check_apart(seen: list[Seen], host: Host) -> None:
    for number, view in enumerate(seen):
        if view.own_file_in != tuple(other == number for other in range(len(seen))):
            raise NotAsPromised(f"a file of the {view.name} view is missing there, or in another")
        if view.own_file_on_host:
            raise NotAsPromised(f"a file of the {view.name} view is on the host")
        if view.page.processes >= host.processes:
            raise NotAsPromised(f"the {view.name} view sees processes of the host's")


def _check_nothing_left(seen: list[Seen], before: Host, after: Host) -> None:
    if after.python != before.python:
        raise NotAsPromised(f"{PYTHON} of the host was changed")
    if any(os.path.lexists(view.own_file) for view in seen):
        raise NotAsPromised("a file of a view was left on the host")
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        left = mounts.read()
    names = {view.view for view in seen}
    if any(name in left for name in names):
        raise NotAsPromised("a mount of a view was left")
    if names & {one.about.name for one in Registry().running()}:
        raise NotAsPromised("a view is still running")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
