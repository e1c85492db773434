"""Which signals travel into a view, and how a process gets none it did not ask for."""

from __future__ import annotations

import signal
from typing import Final

FORWARDED: Final = frozenset(
    {
        signal.SIGCONT,
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGWINCH,
    }
)
"""Passed on from the launcher to init, and from init to the command."""


def sent_by_a_process(info: signal.struct_siginfo) -> bool:
    """Whether somebody sent it, by kill(2) or sigqueue(3).

    What the terminal sends (si_code SI_KERNEL, sigaction(2)) has reached the whole foreground group already, the
    command with it; to pass it on as well would interrupt the command twice.
    """
    return info.si_code <= 0


def block_all() -> set[int]:
    """Block every signal for this thread; the mask that was, for `restore`."""
    return signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())


def restore(mask: set[int]) -> None:
    """Put back the mask that `block_all` returned; what arrived meanwhile arrives now."""
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def reset_dispositions() -> None:
    """Forget the caller's handlers, and what it or Python ignores (SIGPIPE, SIGXFSZ): execve(2) would keep that."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
