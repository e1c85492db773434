"""`overlaykit attach`: the output of a detached view from now on, its input, and its end."""

from __future__ import annotations

import argparse
import os
import re
import select
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final

from overlaykit import signals, standard
from overlaykit.cli.arguments import Parser
from overlaykit.signals import signal

if TYPE_CHECKING:
    from overlaykit.views.attaching import Client

_EPILOG: Final = """\
Standard input goes to a view that was run with -i: to its terminal, key by key, if it was run with -t. Else signals are
for the command, and the end of standard input is the end of its input. The exit status is the command's; 0 after the
keys that detach. Any number may be attached at once; one that is slow holds neither the view nor the others up."""

_DEFAULT_KEYS: Final = "ctrl-p,ctrl-q"
_STDIN: Final = 0
_BYTES_AT_ONCE: Final = 16384


def parser() -> Parser:
    """The command's parser."""
    command = Parser(
        "attach",
        "Print what a detached view prints from now on, and give it standard input, until its command ends.",
        epilog=_EPILOG,
    )
    command.add_argument(
        "--detach-keys",
        type=_keys,
        default=_DEFAULT_KEYS,
        metavar="KEYS",
        help="the keys that leave the view running, if it has a terminal: letters, or ctrl- and a letter or one of"
        f" @[\\]^_, with commas; '' for none (default: {_DEFAULT_KEYS})",
    )
    command.add_argument("--no-stdin", action="store_true", help="leave standard input alone")
    command.add_argument(
        "--sig-proxy",
        choices=("true", "false"),
        default="true",
        help="whether signals are for the command, if it has no terminal (default: true)",
    )
    command.add_argument("view", metavar="VIEW")
    return command


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    from overlaykit.cli.wait import StatusUnknown
    from overlaykit.views import attaching
    from overlaykit.views.named import read_status

    with_input = not args.no_stdin and _STDIN not in standard.closed()
    with ExitStack() as stack:
        client = stack.enter_context(attaching.attached(args.view, with_input=with_input))
        keys = b""
        if client.with_terminal:
            keys = _take_terminal(client, args.detach_keys, stack)
        elif args.sig_proxy == "true":
            _forward_signals(client)
        if _relay(client, Keys(keys)):
            return 0
        ended = read_status(client.status)
    if ended is None:
        raise StatusUnknown(args.view)
    return ended.status


class Keys:
    """Finds the keys `wanted` in what is typed."""

    def __init__(self, wanted: bytes) -> None:
        self.wanted: Final = wanted
        self._held = b""

    def pass_on(self, typed: bytes) -> tuple[bytes, bool]:
        """What is for the view, and whether the keys were typed. Keys that may be their beginning are held back."""
        if not self.wanted:
            return typed, False
        typed = self._held + typed
        before, found, _ = typed.partition(self.wanted)
        if found:
            return before, True
        longest = min(len(typed), len(self.wanted) - 1)
        held = next(n for n in range(longest, -1, -1) if typed.endswith(self.wanted[:n]))
        self._held = self.wanted[:held]
        return typed[: len(typed) - held], False


def _keys(text: str) -> bytes:
    """The bytes of a list of keys. Raises: ArgumentTypeError."""
    found = b""
    for key in text.split(",") if text else ():
        if re.fullmatch(r"[a-zA-Z]", key):
            found += key.encode()
        elif re.fullmatch(r"ctrl-[a-z@\[\\\]^_]", key):
            found += bytes([ord(key[-1].upper()) & 0x1F])
        else:
            raise argparse.ArgumentTypeError(
                f"{key!r} is no key: write a letter, or ctrl- and a letter or one of @[\\]^_"
            )
    return found


def _take_terminal(client: Client, keys: bytes, stack: ExitStack) -> bytes:
    """Connect the caller's terminal, if it has one, with the view's. Returns: the keys that detach."""
    from overlaykit.cli import rawmode

    def resize(*_: object) -> None:
        size = rawmode.size()
        if size is not None:
            client.resize(*size)

    size = rawmode.size()
    if size is not None:
        # Another size first: a program draws its screen again when the size changes.
        client.resize(size[0] + 1, size[1])
        signal.signal(signal.SIGWINCH, resize)
        resize()
    stack.enter_context(signals.unwound())
    if client.input is None or not os.isatty(_STDIN):
        return b""
    stack.enter_context(rawmode.raw(on_resume=resize))
    return keys


def _relay(client: Client, keys: Keys) -> bool:
    """Relay until the view ends or is left. Returns: whether it is left."""
    from overlaykit.cli.logs import printer
    from overlaykit.namespace.descriptors import is_readable

    show = printer(timestamps=False)
    is_terminal = os.isatty(_STDIN)
    reads, pending = client.input is not None, b""
    while True:
        # Before the log is read: nothing is written to it after the end.
        ended = is_readable(client.supervisor)
        for record in client.log.records():
            show(record)
        if ended:
            return False
        poll = select.poll()
        poll.register(client.log.changes, select.POLLIN)
        poll.register(client.supervisor, select.POLLIN)
        if pending and client.input is not None:
            poll.register(client.input, select.POLLOUT)
        # Keys are found also where the view takes nothing.
        if reads and (keys.wanted or not pending):
            poll.register(_STDIN, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll()}
        if client.input in ready:
            pending = _write(client, pending)
            reads = reads and client.input is not None
        if _STDIN in ready:
            typed = _read()
            passed, left = keys.pass_on(typed)
            pending += passed
            if left:
                _write(client, pending)
                return True
            if not typed:
                reads = False
                if is_terminal and client.with_terminal:  # it is gone
                    return True
                _end_input(client)


def _read() -> bytes:
    try:
        return os.read(_STDIN, _BYTES_AT_ONCE)
    except OSError:  # EIO: the terminal is gone, or this process is in the background of one
        return b""


def _write(client: Client, pending: bytes) -> bytes:
    """Write into the input. Returns: what is left to be written; b"" also if the command has closed its input."""
    if client.input is None:
        return b""
    try:
        return pending[os.write(client.input, pending) :]
    except BlockingIOError:
        return pending
    except BrokenPipeError:
        client.close_input()
        return b""


def _end_input(client: Client) -> None:
    """Standard input has ended: so has that of a command without a terminal."""
    if not client.with_terminal:
        client.close_input()
        client.end_input()


def _forward_signals(client: Client) -> None:
    def forward(number: int, _: object) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(client.supervisor, number)

    for number in signals.FORWARDED:
        # Ignored ones stay so (nohup(1)); SIGCONT and SIGWINCH come without being sent.
        if (
            number not in (signal.SIGCONT, signal.SIGWINCH)
            and signal.getsignal(number) != signal.SIG_IGN
        ):
            signal.signal(number, forward)
