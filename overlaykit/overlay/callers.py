"""The program that an operation is done for, which copy-up records."""

from __future__ import annotations

import os
from contextvars import ContextVar
from typing import Final

asking: Final = ContextVar[int | bytes]("asking", default=0)
"""The process id of the program, or its name where that was read before; 0: not known. Each task has its own."""

_LONGEST_NAME: Final = 15
"""TASK_COMM_LEN, without the NUL."""


class Programs:
    """The names of programs, as proc_pid_comm(5) has them.

    The file of the last process stays open: most programs copy more than one file up. It is that process's for good,
    also if another one gets its number.
    """

    def __init__(self) -> None:
        self._pid = 0
        self._fd = -1

    def name(self) -> bytes:
        """The name of the program that is `asking`; empty if it is not known."""
        asks = asking.get()
        if isinstance(asks, bytes):
            return asks
        if asks <= 0:
            return b""
        if asks == self._pid:
            found = self._read()
            if found:
                return found
        self.close()
        try:
            self._fd = os.open(f"/proc/{asks}/comm", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # it has ended, or is out of sight
            return b""
        self._pid = asks
        return self._read()

    def _read(self) -> bytes:
        try:
            return os.pread(self._fd, _LONGEST_NAME + 1, 0).removesuffix(b"\n")
        except OSError:  # ESRCH: it has ended
            return b""

    def close(self) -> None:
        """Close the file. Repeatable."""
        if self._fd >= 0:
            os.close(self._fd)
        self._pid, self._fd = 0, -1
