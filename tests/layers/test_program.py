"""A program ends with the block that uses it."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
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
    with program.running(
        ["grep", "SigBlk", "/proc/self/status"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        line = process.stdout.read()
    assert line
    with open("/proc/self/status", "rb") as file:
        assert line in file.read()


_SIGNAL_BEFORE = """
#define _GNU_SOURCE
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static void interrupt(void)
{
    if (getenv("INTERRUPT") != NULL) {
        unsetenv("INTERRUPT");
        raise(SIGINT);
    }
}

ssize_t read(int file, void *buffer, size_t count)
{
    interrupt();
    return syscall(SYS_read, file, buffer, count);
}

int poll(struct pollfd *files, nfds_t count, int timeout)
{
    interrupt();
    return (int)syscall(SYS_poll, files, count, timeout);
}
"""
_READER = """
import os, subprocess, sys
from overlaykit.layers import program
silent = "import time; time.sleep(40); open('late', 'w'); print(flush=True); time.sleep(1000)"
with program.running([sys.executable, "-c", silent], stdout=subprocess.PIPE) as process:
    os.environ["INTERRUPT"] = ""
    process.stdout.read(1)
"""


def test_a_signal_just_before_a_read_ends_the_program(tmp_path: pathlib.Path) -> None:
    source, library = tmp_path / "interrupt.c", tmp_path / "interrupt.so"
    source.write_text(_SIGNAL_BEFORE)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    done = subprocess.run(
        [sys.executable, "-c", _READER],
        cwd=tmp_path,
        env={**os.environ, "LD_PRELOAD": str(library)},
        capture_output=True,
    )
    assert done.returncode == -signal.SIGINT, done.stderr
    assert not (tmp_path / "late").exists()  # the read did not end because the program wrote
