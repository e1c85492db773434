"""Signals: those forwarded to a command, holding them while something starts, and what a child inherits.

The exception of a handler may be lost where C calls Python (an import, a fork, a finalizer), or may leak a descriptor.
So code that starts processes holds signals, and lets them arrive only while it waits.
"""

from __future__ import annotations

import errno
import os
import select
from _thread import _local

from overlaykit import _native
from overlaykit.scope import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as signal  # for others: this file alone knows where it comes from
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType
    from typing import Final, NoReturn
else:
    import _signal as signal

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
"""Forwarded from the parent to init, and from init to the command."""

NEVER_IGNORED: Final = (signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ)
"""Python ignores the latter two by itself; a process that ignores SIGCHLD cannot wait for children (wait(2))."""

_HARMLESS: Final = (signal.SIGCONT, signal.SIGWINCH)
"""Signals whose default action does not end the process."""


_PIDFD_SEND_SIGNAL: Final = 424
"""The same on all architectures but alpha (syscalls(2))."""
_SI_QUEUE: Final = -1
_SIGINFO_BYTES: Final = 128


class _Thread(_local):
    """The signals that `held` and `deferred` block in this thread, without those that the program blocks."""

    held: frozenset[int] = frozenset()
    deferred: frozenset[int] = frozenset()


_this_thread: Final = _Thread()

_found_ignored: Final[set[int]] = set()


def await_children() -> None:
    """Stop ignoring SIGCHLD, which would let the kernel reap children (wait(2)); the command ignores it (`ignored`)."""
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
        _found_ignored.add(signal.SIGCHLD)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def blocked() -> set[int]:
    """The signals that the program blocks in this thread, without those of `held` and `deferred`."""
    ours = _this_thread.held | _this_thread.deferred
    return signal.pthread_sigmask(signal.SIG_BLOCK, ()) - ours


def ignored() -> set[int]:
    """The signals that a command shall ignore: those that the program found ignored, and those it ignores itself."""
    every = signal.valid_signals() - {*NEVER_IGNORED, signal.SIGKILL, signal.SIGSTOP}
    return _found_ignored | {
        number for number in every if signal.getsignal(number) == signal.SIG_IGN
    }


def mask(numbers: Iterable[int]) -> int:
    """A set of signals as the kernel has it: bit N - 1 is signal N."""
    return sum(1 << (number - 1) for number in numbers)


@contextmanager
def held() -> Iterator[None]:
    """Hold the signals of FORWARDED in this thread: they stay pending until `take`. May be nested.

    At the end of the outermost block the pending ones arrive. They arrive earlier in a program with other threads that
    do not block them.
    """
    with _blocked(FORWARDED) as added:
        before = _this_thread.held
        _this_thread.held = before | added
        try:
            yield
        finally:
            _this_thread.held = before


@contextmanager
def deferred() -> Iterator[None]:
    """Defer the handlers of all signals but FORWARDED in this thread until the end of the block.

    For short work in which an exception (a timeout by SIGALRM) would leak a descriptor.
    """
    handled = {number for number in signal.valid_signals() if callable(signal.getsignal(number))}
    with _blocked(handled - FORWARDED) as added:
        before = _this_thread.deferred
        _this_thread.deferred = before | added
        try:
            yield
        finally:
            _this_thread.deferred = before


@contextmanager
def all_blocked() -> Iterator[None]:
    """Block every signal in this thread until the end of the block; pending ones then arrive."""
    with _blocked(signal.valid_signals()):
        yield


@contextmanager
def _blocked(numbers: Iterable[int]) -> Iterator[frozenset[int]]:
    """Block signals in this thread; those that were not blocked before."""
    added = frozenset(numbers) - signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, added)
        yield added
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, added)


@contextmanager
def pending_readable() -> Iterator[int]:
    """`pending_descriptor`, closed at the end of the block."""
    descriptor = pending_descriptor()
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def pending_descriptor() -> int:
    """A descriptor that is readable while held signals are pending, and that the caller closes."""
    return _native.signalfd4(-1, mask(_this_thread.held), os.O_NONBLOCK)


def take() -> Iterator[int]:
    """Take the pending held signals; yield the numbers of those to forward.

    A signal that this process ignores is not forwarded (nohup(1)). SIGHUP of a terminal that hangs up reaches the
    session leader alone, so it is forwarded.
    """
    while info := signal.sigtimedwait(_this_thread.held, 0):
        number = info.si_signo
        hangs_up = number == signal.SIGHUP and os.getsid(0) == os.getpid()
        if (sent_by_a_process(info) or hangs_up) and signal.getsignal(number) != signal.SIG_IGN:
            yield number


def let_arrive() -> None:
    """Let pending held signals arrive; their handlers may raise."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _this_thread.held)
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, _this_thread.held)


class _Ended(BaseException):
    """A signal whose default action ends this process."""


@contextmanager
def handled(
    numbers: Iterable[int], handler: Callable[[int, FrameType | None], object]
) -> Iterator[None]:
    """Call `handler` for these signals while the block runs, but for those that are ignored."""
    before = {
        number: signal.signal(number, handler)
        for number in numbers
        if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, one in before.items():
            signal.signal(number, one)


@contextmanager
def unwound() -> Iterator[None]:
    """Have a signal of FORWARDED that ends this process raise first, so that the block is left in order.

    SIGINT does so anyway. A second signal ends the clean-up, too. Requires: the main thread.
    """
    received = 0

    def raise_ended(number: int, _: object) -> NoReturn:
        nonlocal received
        received = number
        raise _Ended

    ending = [
        number for number in FORWARDED - {*_HARMLESS} if signal.getsignal(number) == signal.SIG_DFL
    ]
    for number in ending:
        signal.signal(number, raise_ended)
    try:
        yield
    finally:
        for number in ending:
            signal.signal(number, signal.SIG_DFL)
        if received:
            os.kill(os.getpid(), received)


def will_end() -> bool:
    """Whether a pending held signal will end this process without an exception."""
    return any(
        number not in _HARMLESS and signal.getsignal(number) == signal.SIG_DFL
        for number in signal.sigpending() & _this_thread.held
    )


def await_readable(descriptor: int, *, orderly: bool = False) -> None:
    """Wait until `descriptor` is readable; held signals arrive while it waits, and their handlers may raise.

    With `orderly` a signal that ends this process without an exception stays pending, for the caller to clean up first.

    Raises:
      InterruptedError: `orderly`, and such a signal is pending.
    """
    with pending_readable() as signalled:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.register(signalled, select.POLLIN)
        while descriptor not in dict(poll.poll()):
            if orderly and will_end():
                raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
            let_arrive()


def sent_by_a_process(info: signal.struct_siginfo) -> bool:
    """Whether a process sent the signal, by kill(2) or sigqueue(3).

    A signal of the terminal (si_code SI_KERNEL, sigaction(2)) reaches the whole foreground process group, the command
    included: to forward it would interrupt the command twice.
    """
    return info.si_code <= 0


def queue(process: int, number: int, value: int) -> None:
    """Send a signal with a value to a process, by its pidfd, as sigqueue(3) does. Raises: OSError."""
    import ctypes
    import struct

    # siginfo_t: si_signo, si_errno, si_code; si_pid, si_uid, si_value, aligned as a pointer.
    info = struct.pack("@iii0PiIi", number, 0, _SI_QUEUE, os.getpid(), os.getuid(), value)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_PIDFD_SEND_SIGNAL, process, number, info.ljust(_SIGINFO_BYTES, b"\0"), 0) < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def block_all() -> None:
    """Block every signal in this thread, until the process ends."""
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())


def restore(mask: set[int]) -> None:
    """Set the signal mask of this thread; pending signals that it does not block arrive."""
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
