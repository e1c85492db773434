"""The host's side of a guest's command: the caller's signals and terminal, and what the guest's end means."""

from __future__ import annotations

import errno
import os
import re
import signal as signals_of_python
from typing import TYPE_CHECKING, Final

from overlaykit import _native, namespace, signals
from overlaykit.errors import Error
from overlaykit.machine import emulator
from overlaykit.machine.session import End, Failed
from overlaykit.views import ending

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from overlaykit.machine.session import Served, Session

TAKEN: Final = signals.FORWARDED | {ending.KILL_MACHINE}
"""The signals of the process that relays."""

_LONGEST: Final = 200
"""Characters of what a guest says in an error."""
_PANIC: Final = re.compile(r"Kernel panic - not syncing: ([^\r\n]*)")


class GuestEnded(Error):
    message = "the machine ended without a result: {0}"


class StepFailed(Error):
    message = "the machine cannot start: {0}: {1}"


def relay(
    session: Session,
    watched: Sequence[int],
    terminal: namespace.Terminal | None,
    size: Callable[[], tuple[int, int] | None],
    on_ready: Callable[[Callable[[], None]], None],
    served: Served | None = None,
) -> int:
    """Relay until the guest has ended, or a descriptor of `watched` is readable.

    Returns the signal that ended it before it was ready, SIGKILL where another command ends it, or 0.
    Requires: the signals TAKEN are blocked.
    """
    early = 0

    def resize() -> None:
        rows_and_columns = size()
        if terminal is not None and rows_and_columns is not None:
            session.resize(*rows_and_columns)

    def on_signal() -> bool:
        nonlocal early
        while info := signals_of_python.sigtimedwait(TAKEN, 0):
            number = info.si_signo
            if number == ending.KILL_MACHINE:
                early = signals_of_python.SIGKILL
                return False
            if number == signals_of_python.SIGWINCH:
                resize()
            elif number == signals_of_python.SIGCONT:
                continue
            elif session.ready:
                session.signal(number)
            else:
                early = number
                return False
        return True

    if terminal is not None and not terminal.interactive:
        session.without_input()
    resize()
    wakeup = _native.signalfd4(-1, signals.mask(TAKEN), os.O_NONBLOCK)
    try:
        session.run(wakeup, on_signal, watched, lambda: on_ready(resize), served)
    finally:
        os.close(wakeup)
    return early


def status(
    end: End | Failed | None, messages: str, name: str, cwd: str, note: Callable[[str], None]
) -> int:
    """The exit status of the command `name`. `messages`: of the kernel and QEMU.

    Raises: Error that says why there is none.
    """
    if isinstance(end, End):
        if end.disk_full:
            note("the disk of the machine is full: give it a larger --disk")
        return end.status
    if isinstance(end, Failed):
        reason = os.strerror(end.errno)
        if end.step == "DIRECTORY":
            raise namespace.WorkingDirectoryMissing(cwd, reason)
        if end.step not in ("EXECUTE", "LOOKUP"):
            raise StepFailed(f"{end.step} {end.word}", reason)
        if end.errno == errno.ENOENT:
            raise namespace.CommandNotFound(name)
        raise namespace.CommandNotExecutable(name, reason)
    panic = _PANIC.search(messages)
    if panic:
        raise GuestEnded(f"its kernel panicked: {panic[1].strip()[:_LONGEST]}")
    if emulator.end_of_share(messages):
        raise GuestEnded("virtiofsd ended, which serves its files")
    lines = [line for line in messages.splitlines() if line.strip()]
    raise GuestEnded(lines[-1].strip()[:_LONGEST] if lines else "QEMU was ended")
