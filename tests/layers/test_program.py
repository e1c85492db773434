"""A program ends with the block that uses it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from types import FrameType

import pytest

from overlaykit.layers import program


class Interrupted(Exception):
    """What the signal's handler raises."""


def test_a_signal_during_the_start_of_a_program_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    class Popen(subprocess.Popen[bytes]):
        """A signal arrives before the caller has the program."""

        def _execute_child(self, *args: object, **options: object) -> None:  # of subprocess
            super()._execute_child(*args, **options)  # type: ignore[misc]
            started.append(os.pidfd_open(self.pid))
            # To this thread: in a program with several, another one would take a signal to the process.
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted

    monkeypatch.setattr(subprocess, "Popen", Popen)
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(Interrupted), program.running(["sleep", "1000"]):
            pytest.fail("the block ran")
    finally:
        signal.signal(signal.SIGUSR1, before)
    (process,) = started
    with pytest.raises(ProcessLookupError):
        signal.pidfd_send_signal(process, 0)
    os.close(process)


def test_a_program_gets_the_callers_signal_mask() -> None:
    done = program.run(["grep", "SigBlk", "/proc/self/status"], stdout=subprocess.PIPE)
    with open("/proc/self/status", "rb") as file:
        assert done.stdout in file.read()
