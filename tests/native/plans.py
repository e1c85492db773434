"""Plans for `_supervisor`, encoded by hand: the program is held against bytes and not against our encoder."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, TypeAlias

import overlaykit
from overlaykit import _native
from overlaykit.namespace import calls
from overlaykit.namespace import plan as of_views

SUPERVISOR: Final = os.path.join(os.path.dirname(overlaykit.__file__), "_supervisor")
MAGIC: Final = b"overlaykit plan\0"
PLAN, MONITOR, INIT, COMMAND, END = range(5)
FRONT: Final = ("/bin/sh", "-c", 'printf "%s|" "$@" >&2; exit 124', "front")
"""The program that reports a failure, in tests: it prints the record and exits with 124."""

Argument: TypeAlias = int | str | bytes | tuple[Any, ...]
Step: TypeAlias = tuple[str | Argument, ...]


FORMS: Final = {name: form[:2] for name, form in of_views.FORMS.items()} | of_views.PRIMITIVES
"""Code and signature of each step. The program's table is made of the same."""

OTHER_SLOTS: Final = 4000
"""Tests give slots by number. Those that `calls.lowered` names come after this one."""
_NAMED: Final[dict[str, int]] = {}


def argument(letter: str, value: object) -> bytes:
    match letter, value:
        case "d" | "m" | "c", str():
            return argument(letter, OTHER_SLOTS + _NAMED.setdefault(value, len(_NAMED)))
        case "w", tuple():
            raw = b"".join(of.encode() + argument(of, word) for of, word in value)
        case "u" | "n" | "b" | "a" | "i" | "k", int():
            raw = struct.pack("=Q", value)
        case "d" | "m" | "c", int():
            raw = struct.pack("=I", value)
        case "s" | "/" | "h" | "e" | "F", str() | bytes():
            raw = os.fsencode(value) + b"\0"
        case "x" | "f", bytes():
            raw = value
        case "l" | "v" | "o" | "P", tuple():
            raw = b"".join(os.fsencode(one) + b"\0" for one in value)
        case _:
            raise TypeError(f"{value!r} is no {letter}")
    return struct.pack("=I", len(raw)) + raw


def record(step: Step) -> bytes:
    """A step, as the steps that the program has for it."""
    return b"".join(map(_record, calls.lowered(step)))


def _record(step: Step) -> bytes:
    name, *arguments = step
    assert isinstance(name, str)
    code, signature = FORMS[name]
    encoded = [argument(*pair) for pair in zip(signature, arguments, strict=True)]
    return struct.pack("=HH", code, len(encoded)) + b"".join(encoded)


def framed(body: bytes, *, version: int = 1, more: int = 0) -> bytes:
    """Records with a header; `more`: added to the true size."""
    return MAGIC + struct.pack("=II", version, len(MAGIC) + 8 + len(body) + more) + body


def encoded(*steps: Step) -> bytes:
    return framed(b"".join(map(record, steps)))


def steps(
    *argv: str,
    plan: Collection[Step] = (("front", FRONT, ()),),
    monitor: Collection[Step] = (),
    init: Collection[Step] = (),
    command: Collection[Step] = (("blocked", 0), ("ignored", 0)),
    end: Collection[Step] = (),
    env: tuple[str, ...] = ("PATH=/usr/bin:/bin",),
    candidates: tuple[str, ...] | None = None,
    with_sockets: int = 0,
) -> list[Step]:
    """A plan with a mount namespace and PID namespace of its own, and the machine's root."""
    if candidates is None:
        candidates = tuple(f"{directory}/{argv[0]}" for directory in ("/usr/bin", "/bin"))
    return [
        ("section", PLAN),
        *plan,
        ("section", MONITOR),
        *monitor,
        ("unshare", _native.CLONE_NEWPID),
        ("section", INIT),
        ("unshare", _native.CLONE_NEWNS | _native.CLONE_NEWUTS),
        ("private_mounts",),
        *init,
        ("section", COMMAND),
        *command,
        ("exec", argv, env, candidates, with_sockets),
        ("section", END),
        *end,
    ]


@contextmanager
def in_memory(raw: bytes) -> Iterator[int]:
    """A descriptor of a file with these bytes."""
    descriptor = os.memfd_create("plan")
    try:
        os.write(descriptor, raw)
        yield descriptor
    finally:
        os.close(descriptor)


def start(
    raw: bytes, inherited: Collection[int] = (), *options: str, **how: Any
) -> subprocess.Popen[bytes]:
    """Start the program, with every signal blocked as its callers do."""
    with in_memory(raw) as descriptor:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            return subprocess.Popen(
                [SUPERVISOR, str(descriptor), *options],
                pass_fds=(descriptor, *inherited),
                **{
                    "stdin": subprocess.DEVNULL,
                    "stdout": subprocess.PIPE,
                    "stderr": subprocess.PIPE,
                    "env": {},
                    **how,
                },
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class Ended(NamedTuple):
    status: int
    stdout: str
    stderr: str


def ended(process: subprocess.Popen[bytes]) -> Ended:
    """Wait for the end."""
    with process:
        stdout, stderr = process.communicate()
    return Ended(process.returncode, os.fsdecode(stdout), os.fsdecode(stderr))


def run(raw: bytes, inherited: Collection[int] = (), *options: str) -> Ended:
    return ended(start(raw, inherited, *options))
