"""`overlaykit run --vm` as a process, whose guest has started its command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

ENOUGH = 300
"""Seconds: a guest that works needs few."""


class Run:
    """A machine. `left` are its processes; a context manager that ends it."""

    def __init__(self, kernel: str, *arguments: str, **keywords: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "overlaykit", "run", "--vm", "--kernel", kernel, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **keywords,  # type: ignore[call-overload]
        )

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def line(self) -> bytes:
        """The next line of standard output."""
        assert self.process.stdout is not None
        return bytes(self.process.stdout.readline())

    def end(self, given: bytes | None = None) -> tuple[int, bytes, bytes]:
        """The status, and the rest of both outputs."""
        output, errors = self.process.communicate(given, timeout=ENOUGH)
        return self.process.returncode, output, errors

    def execute(self, given: bytes, *arguments: str) -> tuple[int, bytes, bytes]:
        """The status and both outputs of another command in the machine, once it can be executed."""
        command = [sys.executable, "-m", "overlaykit", "exec", *arguments]
        while True:
            done = subprocess.run(
                command, input=given, capture_output=True, check=False, timeout=ENOUGH
            )
            # 125: the machine is not there yet.
            if done.returncode != 125 or self.process.poll() is not None:
                return done.returncode, done.stdout, done.stderr

    def family(self) -> dict[int, str]:
        """The processes below this one, by number: the names of their programs."""
        return {one: _program(one) for one in _descendants(self.process.pid)}

    def kill(self, program: str) -> list[int]:
        """Kill the processes of a program; return pidfds of the whole family."""
        family = self.family()
        ends = [os.pidfd_open(one) for one in family]
        (victim, *_) = (one for one, name in family.items() if program in name)
        os.kill(victim, signal.SIGKILL)
        return ends


def overlaykit(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "overlaykit", *arguments],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=ENOUGH,
    )
    return done.returncode, done.stdout, done.stderr


def printed(*arguments: str) -> str:
    """The output of a command that succeeds."""
    status, output, errors = overlaykit(*arguments)
    assert (status, errors) == (0, "")
    return output


def proportional(process: int) -> int:
    """Bytes of memory of a process, and its share of what others map as well (proc_pid_smaps(5))."""
    with open(f"/proc/{process}/smaps_rollup", encoding="ascii") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))


def _descendants(process: int) -> Iterator[int]:
    for thread in os.listdir(f"/proc/{process}/task"):
        with open(f"/proc/{process}/task/{thread}/children", encoding="ascii") as file:
            for child in map(int, file.read().split()):
                yield child
                yield from _descendants(child)


def _program(process: int) -> str:
    with open(f"/proc/{process}/cmdline", encoding="utf-8", errors="replace") as file:
        return file.read().partition("\0")[0]
