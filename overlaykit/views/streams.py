"""The standard streams of a command in a view; stdin, stdout and stderr mean what they mean for subprocess."""

from __future__ import annotations

import fcntl
import io
import os
import subprocess
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import IO, Self, TypeAlias

from overlaykit import signals, standard

Stream: TypeAlias = "int | IO[bytes] | IO[str] | None"
"""None (the caller's), a descriptor, an open file, or subprocess.PIPE, DEVNULL or (for stderr) STDOUT."""

_FIRST = 3


class Streams:
    """A context manager. `redirected`: the descriptors that replace the standard ones of the command.

    Requires: `release` is called after the launch: a launch forks, so no thread may run before.
    Ensures: at the end of the block `output` and `errors` are complete.
    """

    def __init__(self, stdin: Stream, stdout: Stream, stderr: Stream, given: bytes | None) -> None:
        self.redirected: dict[int, int] = {}
        self.output: bytes | None = None
        self.errors: bytes | None = None
        self._given = given
        self._command_ends = ExitStack()
        self._own_ends = ExitStack()
        self._threads: list[threading.Thread] = []
        self._wanted = (stdin, stdout, stderr)

    def __enter__(self) -> Self:
        stdin, stdout, stderr = self._wanted
        with standard.filled(), ExitStack() as undo:
            undo.callback(self.__exit__)
            if self._given is not None or stdin == subprocess.PIPE:
                self._pipe(0, self._write, self._given or b"")
            else:
                self._redirect(0, stdin, os.O_RDONLY)
            for number, stream in ((1, stdout), (2, stderr)):
                if stream == subprocess.PIPE:
                    self._pipe(number, self._read, number)
                elif number == 2 and stream == subprocess.STDOUT:
                    self._copy(2, self.redirected.get(1, 1))
                else:
                    self._redirect(number, stream, os.O_WRONLY)
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._command_ends.close()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        self._own_ends.close()

    def release(self) -> None:
        """Close the command's ends in this process, so that readers see the end, and start to copy input and output."""
        # An exception of a handler would leave a descriptor between the stack and its callback.
        with signals.deferred():
            self._command_ends.close()
            for thread in self._threads:
                thread.start()

    def _redirect(self, number: int, stream: Stream, mode: int) -> None:
        if stream is None:
            return
        if stream == subprocess.DEVNULL:
            self._give(number, os.open(os.devnull, mode | os.O_CLOEXEC))
        else:
            self._copy(number, stream if isinstance(stream, int) else stream.fileno())

    def _copy(self, number: int, source: int) -> None:
        self._give(number, fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, _FIRST))

    def _give(self, number: int, descriptor: int) -> None:
        self.redirected[number] = descriptor
        self._command_ends.callback(os.close, descriptor)

    def _pipe(self, number: int, work: Callable[..., None], argument: object) -> None:
        reading, writing = os.pipe()
        own, command = (writing, reading) if number == 0 else (reading, writing)
        self._give(number, command)
        file = self._own_ends.enter_context(io.FileIO(own, "w" if number == 0 else "r"))
        self._threads.append(threading.Thread(target=work, args=(file, argument), daemon=True))

    @staticmethod
    def _write(file: io.FileIO, data: bytes) -> None:
        rest = memoryview(data)
        with suppress(BrokenPipeError):
            while rest:
                rest = rest[file.write(rest) :]
        file.close()

    def _read(self, file: io.FileIO, number: int) -> None:
        data = file.readall()
        if number == 1:
            self.output = data
        else:
            self.errors = data
