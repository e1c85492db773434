"""A source that pauses half-way: an archive whose decompressor is a program of the test."""

from __future__ import annotations

import os

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class Gate:
    """`source` is the argument of `layer add`; its program must be on PATH (`enter`) in the process that adds.

    The program writes the first half of `archive`, reports it, and writes the rest after `let_through`. The end of the
    context ends it, also if its reader was killed.
    """

    def __init__(self, directory: str, archive: bytes, writers: int = 1) -> None:
        self._programs = os.path.join(directory, "programs")
        self._writers = writers
        self.source = "tar:" + self._file(directory, "gated.tar.zst", _ZSTD_MAGIC)
        os.mkdir(self._programs)
        half = len(archive) // 2
        first = self._file(directory, "first", archive[:half])
        second = self._file(directory, "second", archive[half:])
        opened = os.path.join(directory, "opened")
        reached = os.path.join(directory, "reached")
        script = f"""#!/bin/sh
exec 3<{opened}
cat {first}
printf . >{reached}
test "$(head -c 1 <&3)" && cat {second}
"""
        os.chmod(self._file(self._programs, "zstd", script.encode()), 0o755)
        os.chmod(self._programs, 0o755)
        # Both ends are opened here, so that no open(2) waits; closing them is end of file.
        self._opened, self._reached = self._fifo(opened), self._fifo(reached)

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._opened)
        os.close(self._reached)

    def enter(self) -> None:
        """Put the program first on PATH."""
        os.environ["PATH"] = self._programs + ":" + os.environ["PATH"]

    def wait(self) -> None:
        """Wait until every writer has paused."""
        for _ in range(self._writers):
            os.read(self._reached, 1)

    def let_through(self) -> None:
        """Let the writers go on."""
        os.write(self._opened, b"!" * self._writers)

    @staticmethod
    def _fifo(path: str) -> int:
        os.mkfifo(path)
        os.chmod(path, 0o666)
        return os.open(path, os.O_RDWR)

    @staticmethod
    def _file(directory: str, name: str, data: bytes) -> str:
        path = os.path.join(directory, name)
        with open(path, "wb") as file:
            file.write(data)
        return path
