"""`overlaykit attach`: see what a detached view prints from now on, and wait for its end."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Final

from overlaykit import signals
from overlaykit.cli.arguments import Parser
from overlaykit.errors import Error
from overlaykit.scope import suppress
from overlaykit.signals import signal

if TYPE_CHECKING:
    from overlaykit.views.named import NamedView

_EPILOG: Final = """\
Signals are for the command, as with podman's --sig-proxy. Standard input and a terminal are not attached: a detached
view has none. The exit status is the command's."""


class NotRunningNow(Error):
    message = "{0}: the view is not running: 'overlaykit start -a {0}' starts it, 'logs {0}' shows what it printed"


def parser() -> Parser:
    """The command's parser."""
    command = Parser(
        "attach",
        "Print what a detached view prints from now on, until its command ends.",
        epilog=_EPILOG,
    )
    command.add_argument("view", metavar="VIEW")
    return command


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    from overlaykit.cli.logs import printer
    from overlaykit.views import logs, named

    since = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%S.%f}"
    view = named.NamedView(args.view)
    if not view.is_running():
        raise NotRunningNow(view.name)
    _forward_signals(view)
    show = printer(timestamps=False)
    for record in logs.follow(view):
        if record.time >= since:
            show(record)
    with suppress(named.NoSuchView):  # a temporary one was removed at its end
        ended = view.wait()
        if ended is not None:
            return ended.status
    return 0


def _forward_signals(view: NamedView) -> None:
    from overlaykit.views import ending
    from overlaykit.views.registry import NotRunning

    def forward(number: int, _: object) -> None:
        with suppress(NotRunning):
            ending.kill(view.name, number)

    for number in signals.FORWARDED:
        # Ignored ones stay so (nohup(1)); SIGCONT and SIGWINCH come without being sent.
        if (
            number not in (signal.SIGCONT, signal.SIGWINCH)
            and signal.getsignal(number) != signal.SIG_IGN
        ):
            signal.signal(number, forward)
