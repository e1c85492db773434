"""The daemon's log: a file for warnings and worse, never the terminal, which may be closed."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
from typing import Final

_DEBUG_VARIABLE: Final = "OVERLAYKIT_DEBUG"


def configure(path: str) -> None:
    """Send this process's log to the file at `path`; without a path, nowhere."""
    level = logging.DEBUG if os.environ.get(_DEBUG_VARIABLE) else logging.WARNING
    handler: logging.Handler = _LogFile(path) if path else logging.NullHandler()
    logging.basicConfig(
        level=level,
        handlers=[handler],
        format=f"%(asctime)s {os.getpid()} %(name)s %(levelname)s: %(message)s",
    )
    logging.captureWarnings(True)
    logging.getLogger("pyfuse3").addFilter(_is_worth_logging)


def hold() -> None:
    """Have the log written from any root directory: by a descriptor, which stays open."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _LogFile):
            handler.hold()


def held() -> list[int]:
    """The descriptors by which the log is written."""
    return [
        fd
        for handler in logging.getLogger().handlers
        if isinstance(handler, _LogFile)
        for fd in handler.descriptors()
    ]


def release() -> None:
    """Close the log until the next record."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _LogFile):
            handler.close()


class _LogFile(logging.FileHandler):
    """A file that the first record creates, with its directory. A record that does not fit on the disk is lost."""

    def __init__(self, path: str) -> None:
        super().__init__(path, delay=True)
        self._directory = -1

    def hold(self) -> None:
        """Name the file by a descriptor of the lowest directory above it that exists."""
        directory = os.path.dirname(self.baseFilename)
        while not os.path.isdir(directory):
            directory = os.path.dirname(directory)
        with contextlib.suppress(OSError):
            fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            below = os.path.relpath(self.baseFilename, directory)
            self.baseFilename = f"/proc/self/fd/{fd}/{below}"
            self._directory = fd

    def descriptors(self) -> list[int]:
        """Those of the directory and of the file, as far as they are open."""
        found = [] if self._directory < 0 else [self._directory]
        return found if self.stream is None else [*found, self.stream.fileno()]

    def _open(self) -> io.TextIOWrapper:
        os.makedirs(os.path.dirname(self.baseFilename), 0o700, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self.baseFilename, flags, 0o600)
        return open(fd, "a", encoding="utf-8", errors="backslashreplace")

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        pass


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """Whether a record of pyfuse3's is an error: the kernel rejects with ENOENT the reply to an interrupted request."""
    return os.strerror(errno.ENOENT) not in record.getMessage()
