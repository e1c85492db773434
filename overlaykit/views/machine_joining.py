"""A command in a machine that is running already (`overlaykit exec`)."""

from __future__ import annotations

import os
import signal as signals_of_python
import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from overlaykit import namespace
from overlaykit.machine import view_guest
from overlaykit.machine.session import Session
from overlaykit.namespace import environment
from overlaykit.views import guest, machine_callers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from overlaykit.namespace.environment import Environment
    from overlaykit.views.registry import RunningView


def run(
    found: RunningView,
    argv: Sequence[str],
    *,
    env: Environment,
    cwd: str | None,
    umask: int,
    identity: namespace.Identity | None,
    terminal: namespace.Terminal | None,
    size: Callable[[], tuple[int, int] | None],
    note: Callable[[str], None],
    on_ready: Callable[[Callable[[], None]], None],
) -> int:
    """Run a command. The arguments are those of `machine.run`. Returns: its exit status.

    Names of users are those of the layers. Requires: the main thread. Raises: Error, OSError.
    """
    name = found.about.name
    account = None
    if identity is not None:
        with namespace.namespaces_of(found.about.supervisor, name) as namespaces:
            account = namespace.accounts.look_up(identity, namespaces.enter)
        env = account.environment(env, home=identity.home)
    command = view_guest.Command(
        argv=tuple(argv),
        env=env,
        cwd=environment.current_directory() if cwd is None else cwd,
        cwd_required=cwd is not None,
        hostname=name,
        user=0 if account is None else account.user,
        group=0 if account is None else account.group,
        groups=() if account is None else account.groups or (),
        umask=umask,
        terminal=terminal is not None,
    )
    with ExitStack() as stack:
        session, connection = _session(
            found, stack, lambda first: view_guest.other_steps(command, first)
        )
        signals_of_python.pthread_sigmask(signals_of_python.SIG_BLOCK, guest.TAKEN)
        interrupted = guest.relay(session, [connection], terminal, size, on_ready)
        if session.end is None and interrupted:
            return 128 + interrupted
        return guest.status(session.end, "", argv[0], command.cwd, note)


def write_all(found: RunningView) -> None:
    """Have the machine write all that is in its memory to its disk. Raises: Error, OSError."""
    with ExitStack() as stack:
        session, connection = _session(found, stack, lambda _: view_guest.write_steps())
        session.without_input()
        never, end = os.pipe()
        stack.callback(os.close, never)
        stack.callback(os.close, end)
        session.run(never, lambda: True, [connection], lambda: None)
        guest.status(session.end, "", "sync", "/", lambda _: None)


@contextmanager
def paused(found: RunningView) -> Iterator[int]:
    """The open file of the disk of a machine that stands still until the end of the block. Raises: NoPorts."""
    connection, disk = machine_callers.paused(found.entry, found.about.name)
    try:
        yield disk
    finally:
        os.close(disk)
        connection.close()


def _session(
    found: RunningView, stack: ExitStack, steps: Callable[[int], bytes]
) -> tuple[Session, int]:
    """The host's side of other steps in a machine, and the descriptor that is readable once it ends.

    `steps`: gives their bytes, by the number of the first port. Raises: NoPorts.
    """
    pairs = [socket.socketpair() for _ in range(4)]
    for pair in pairs:
        for one in pair:
            stack.enter_context(one)
    theirs = [one for _, one in pairs]
    connection, first = machine_callers.ports(found.entry, found.about.name, theirs)
    stack.enter_context(connection)
    for one in theirs:
        one.close()
    out, err, control, given = (one for one, _ in pairs)
    session = Session(
        *(out, err, control, given),
        plan=steps(first),
        on_hello=lambda: connection.send(machine_callers.READY),
    )
    return session, connection.fileno()
