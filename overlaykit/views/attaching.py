"""A client of a detached view: what its command prints from now on, its input, and the size of its terminal.

The client reads the log that the supervisor writes, so one that is slow holds nothing up. It writes into the pipe that
is the input (`NamedView.open_input`), and has the supervisor do the rest by a signal with a value (take_control() in
native/supervisor.c). Any number of clients may do so at once.
"""

from __future__ import annotations

import os

from overlaykit import signals
from overlaykit.errors import Error
from overlaykit.namespace.descriptors import poll_readable
from overlaykit.scope import ExitStack, contextmanager, suppress
from overlaykit.views import ending, named
from overlaykit.views.logs import Follower
from overlaykit.views.registry import NotRunning, Registry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO, Final

    from overlaykit.views.entry import About

_STARTING_MILLISECONDS: Final = 50
_END_OF_INPUT: Final = 0


class NotRunningNow(Error):
    message = "{0}: the view is not running: 'overlaykit start -a {0}' starts it, 'logs {0}' shows what it printed"


class InForeground(Error):
    message = (
        "{0}: the view is in the foreground: its streams are those of the program that started it; "
        "'overlaykit exec' runs another command in it"
    )


class OfMachine(Error):
    message = "{0}: a machine, to which no client is attached: 'overlaykit logs -f {0}' follows what it prints"


class Client:
    """An attached client.

    `supervisor` is a pidfd, `status` the file of its status (`NamedView.open_status`), `input` the write end of a pipe
    that does not block (None: there is none); `with_terminal` says whether the command has a terminal of its own.
    """

    def __init__(
        self,
        view: named.NamedView,
        supervisor: int,
        status: IO[bytes],
        log: Follower,
        input: int | None,  # noqa: A002  # the field's own word
        *,
        with_terminal: bool,
    ) -> None:
        self.view = view
        self.supervisor = supervisor
        self.status = status
        self.log = log
        self.input = input
        self.with_terminal = with_terminal

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of the view's terminal."""
        if rows or columns:
            self._tell(min(rows, 0x7FFF) << 16 | columns)

    def close_input(self) -> None:
        """Give it no input any more."""
        if self.input is not None:
            os.close(self.input)
        self.input = None

    def end_input(self) -> None:
        """Let the command read end of file, once the other clients have closed their ends, too."""
        self._tell(_END_OF_INPUT)

    def _tell(self, value: int) -> None:
        with suppress(ProcessLookupError):
            signals.queue(self.supervisor, signals.signal.SIGRTMIN, value)


@contextmanager
def attached(name: str, *, with_input: bool) -> Iterator[Client]:
    """A client of a running view. Raises: NotRunningNow, InForeground, OfMachine, NoSuchView."""
    with ExitStack() as stack:
        view, supervisor, about = _running(name, stack)
        try:
            status = stack.enter_context(view.open_status())
            log = Follower(view, from_now=True)
        except FileNotFoundError:  # it has ended since
            raise NotRunningNow(name) from None
        stack.callback(log.close)
        pipe = view.open_input() if with_input else None
        client = Client(view, supervisor, status, log, pipe, with_terminal=about.terminal)
        stack.callback(client.close_input)
        yield client


def _running(name: str, stack: ExitStack) -> tuple[named.NamedView, int, About]:
    """The view, a pidfd of its supervisor until the end of `stack`, and what its entry says."""
    try:
        view = named.NamedView(name)
    except named.NoSuchView:
        with suppress(NotRunning):
            if Registry().find(name).about.supervisor:
                raise InForeground(name) from None
        raise
    while True:
        with suppress(NotRunning):
            supervisor = stack.enter_context(ending.supervisor(view))
            about = Registry().find_kept(view.kept, name).about
            if not about.detached:
                raise InForeground(name)
            if about.machine:
                raise OfMachine(name)
            return view, supervisor, about
        if not view.is_running():
            raise NotRunningNow(name)
        # It starts, or ends.
        poll_readable([], milliseconds=_STARTING_MILLISECONDS)
