"""The relay of a view's terminal, without a view; with `make sanitize` its buffers are watched. Whole: tests/cli."""

from __future__ import annotations

import os
import subprocess
import termios
from collections.abc import Iterator
from typing import Any

import pytest

from . import plans

LINES = 20000


def start(*argv: str, interactive: int, **how: Any) -> subprocess.Popen[bytes]:
    """Start a command on a terminal of a devpts of its own."""
    return plans.start(
        plans.encoded(
            *plans.steps(
                *argv,
                plan=[("front", plans.FRONT, ()), ("terminal", interactive)],
                init=[
                    ("fresh", 0, "devpts", 0, ("ptmxmode", "0666"), 0, "FILE_SYSTEM", "/dev/pts"),
                    ("attach", 0, "/dev/pts", 0),
                    ("pty", 0, 0),
                ],
                command=[("session", 1), ("blocked", 0), ("ignored", 0)],
            )
        ),
        **how,
    )


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """The master and the slave of a terminal of the caller."""
    ends = os.openpty()
    yield ends
    for descriptor in ends:
        os.close(descriptor)


def test_all_output_arrives() -> None:
    done = plans.ended(start("seq", str(LINES), interactive=0))
    assert (done.status, done.stderr) == (0, "")
    assert [int(line) for line in done.stdout.split()] == list(range(1, LINES + 1))


def test_all_input_arrives() -> None:
    process = start("sh", "-c", "stty -echo; echo on; cat", interactive=1, stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"on\r\n"
    text = "".join(f"{number}\n" for number in range(LINES)).encode()
    output, errors = process.communicate(text)
    assert (process.returncode, errors) == (0, b"")
    assert output == text.replace(b"\n", b"\r\n")


def test_a_failure_is_reported_on_a_restored_terminal(terminal: tuple[int, int]) -> None:
    _, slave = terminal
    before = termios.tcgetattr(slave)
    done = plans.ended(start("no-such-command", interactive=1, stdin=slave))
    assert (done.status, done.stderr) == (124, "LOOKUP|2|no-such-command|before|")
    assert termios.tcgetattr(slave) == before


def test_a_pty_that_cannot_be_made_is_named() -> None:
    raw = plans.encoded(
        *plans.steps(
            "true",
            plan=[("front", plans.FRONT, ()), ("terminal", 1)],
            init=[
                ("fresh", 0, "tmpfs", 0, (), 0, "FILE_SYSTEM", "/dev/pts"),
                ("attach", 0, "/dev/pts", 0),
                ("pty", 0, 0),
            ],
        )
    )
    done = plans.run(raw)
    assert (done.status, done.stderr) == (124, "TERMINAL|2|/dev/pts/ptmx|before|")
