"""`overlaykit log`: the snapshots of a view."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from overlaykit.cli.arguments import Parser
from overlaykit.record import Record

if TYPE_CHECKING:
    from overlaykit.views.snapshots import Snapshot

_EPILOG: Final = """\
The newest comes first. '*' marks the one on which what the view writes now lies, '-' one that the view does not show
any more, since 'overlaykit restore'. The size is what the snapshot alone takes on the disk."""


class Logged(Record, kw_only=True):
    """A snapshot as --json prints it. `time`: nanoseconds since the epoch. `size`: bytes on the disk.

    `state`: `current`, the one on which what is written now lies; `below`, one under that; `left`: the view does not
    show it any more.
    """

    id: str
    name: str
    message: str
    time: int
    parent: str | None
    layers: tuple[str, ...]
    size: int
    state: str


def parser() -> Parser:
    """The command's parser."""
    command = Parser("log", "List the snapshots of a view.", epilog=_EPILOG)
    command.add_argument("--json", action="store_true", help="for programs: a list of objects")
    command.add_argument("view", metavar="VIEW")
    return command


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    from overlaykit.cli import points
    from overlaykit.views import snapshots

    view, _ = points.opened(args.view)
    shown = [one.id for one in snapshots.chain(view)]
    found = [_logged(one, snapshots.size(view, one), shown) for one in snapshots.everything(view)]
    if args.json:
        from overlaykit import codec

        print(codec.encode_pretty(found))
        return 0
    from overlaykit.cli.table import show, time_of
    from overlaykit.cli.top import size

    marks = {"current": "*", "below": "", "left": "-"}
    show(
        ("", "ID", "NAME", "MADE", "SIZE", "MESSAGE"),
        (
            (marks[one.state], one.id, one.name, time_of(one.time), size(one.size), one.message)
            for one in found
        ),
    )
    return 0


def _logged(one: Snapshot, size: int, shown: list[str]) -> Logged:
    state = "left" if one.id not in shown else "below" if one.id != shown[0] else "current"
    return Logged(
        id=one.id,
        name=one.name,
        message=one.message,
        time=one.time,
        parent=one.parent,
        layers=one.layers,
        size=size,
        state=state,
    )
