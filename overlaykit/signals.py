"""Signals: which travel into a view, how what is half made is kept from them, what a child inherits of them.

An exception that a handler raises may be lost where C calls Python (an import, a fork, a finalizer), or may lose a
descriptor on its way. So who starts something holds the signals, and lets them arrive where it waits.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from overlaykit import _native

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


_NEVER_IGNORED: Final = (signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ)
"""Python ignores the latter two for its own sake; who ignores the first cannot wait for its children (wait(2))."""

_HARMLESS: Final = (signal.SIGCONT, signal.SIGWINCH)
"""What end no process that has no handler for them."""


class _Thread(threading.local):
    """`held`, `deferred`: the signals that only these two block in this thread; others its program has blocked."""

    held: frozenset[int] = frozenset()
    deferred: frozenset[int] = frozenset()


_this_thread: Final = _Thread()

_found_ignored: Final[set[int]] = set()


def await_children() -> None:
    """Stop to ignore SIGCHLD if the program was started so: the kernel then reaps its children itself (wait(2)).

    `as_found` ignores it again.
    """
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
        _found_ignored.add(signal.SIGCHLD)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def as_found() -> None:
    """Ignore what `await_children` found ignored, for a program that is executed next."""
    for number in _found_ignored:
        signal.signal(number, signal.SIG_IGN)


def blocked() -> set[int]:
    """The signals that this thread's program has blocked itself; without those of `held` and `deferred`."""
    ours = _this_thread.held | _this_thread.deferred
    return signal.pthread_sigmask(signal.SIG_BLOCK, ()) - ours


@contextmanager
def held() -> Iterator[None]:
    """Let no signal of FORWARDED arrive in this thread: it waits until it is taken. May be nested.

    At the end of the outermost, those that were not taken arrive. In a program whose other threads have not blocked
    them they arrive all the same.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    held_before = _this_thread.held
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
        _this_thread.held = held_before | (FORWARDED - before)
        yield
    finally:
        _this_thread.held = held_before
        restore(before)


@contextmanager
def deferred() -> Iterator[None]:
    """Let no handler of other signals than FORWARDED run in this thread until the end of the block.

    For a short piece of work in which an exception (a timeout by SIGALRM) would lose a descriptor.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    handled = {number for number in signal.valid_signals() if callable(signal.getsignal(number))}
    ours = frozenset(handled - FORWARDED - before)
    deferred_before = _this_thread.deferred
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, ours)
        _this_thread.deferred = deferred_before | ours
        yield
    finally:
        _this_thread.deferred = deferred_before
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ours)


@contextmanager
def waiting() -> Iterator[int]:
    """A descriptor that is readable while held signals wait."""
    descriptor = _native.signalfd(sum(1 << (number - 1) for number in _this_thread.held))
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def take() -> Iterator[int]:
    """Take the held signals that wait; the numbers of those to be passed on.

    Those that this process ignores are not (nohup(1)). A terminal that hangs up tells its session's leader alone.
    """
    while info := signal.sigtimedwait(_this_thread.held, 0):
        number = info.si_signo
        hangs_up = number == signal.SIGHUP and os.getsid(0) == os.getpid()
        if (sent_by_a_process(info) or hangs_up) and signal.getsignal(number) != signal.SIG_IGN:
            yield number


def will_end() -> bool:
    """Whether a held signal waits that ends this process when it arrives, without an exception."""
    return any(
        number not in _HARMLESS and signal.getsignal(number) == signal.SIG_DFL
        for number in signal.sigpending() & _this_thread.held
    )


def await_readable(descriptor: int, *, orderly: bool = False) -> None:
    """Wait until it is, which comes first; meanwhile held signals arrive. Raises what their handlers raise.

    If `orderly`, one that ends this process without an exception goes on waiting, and InterruptedError is raised: the
    caller undoes what it has done, and lets the signal arrive.
    """
    with waiting() as signalled:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.register(signalled, select.POLLIN)
        while descriptor not in dict(poll.poll()):
            if orderly and will_end():
                raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
            try:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, _this_thread.held)
            finally:
                signal.pthread_sigmask(signal.SIG_BLOCK, _this_thread.held)


def sent_by_a_process(info: signal.struct_siginfo) -> bool:
    """Whether a process sent it, by kill(2) or sigqueue(3).

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
    """Forget the caller's handlers; what it ignores stays ignored (nohup(1)), and execve(2) keeps that."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if number in _NEVER_IGNORED or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
