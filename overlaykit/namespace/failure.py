"""How a failure travels from the monitor or the init of a view to the caller of `launch`.

Monitor and init share the write end of the status pipe. The monitor writes init's process id into it; a process that
fails writes a record: the step that failed, the errno, and the subject's name. Either comes first, each in one write
that ends with END. End of file without a record means that the command was executed. `read` turns a record into the
exception for the caller: one of the errors below where a user can mend it, an `OSError` otherwise.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from typing import ClassVar, Final

from overlaykit.errors import Error
from overlaykit.namespace.binds import TargetTwice

END: Final = b"\0\n"
"""Ends each message in the status pipe; no name holds a NUL."""

_LONGEST_RECORD: Final = 4000
"""Bytes: less than PIPE_BUF, so a record is written in one piece (pipe(7))."""


class CommandNotFound(Error):
    message = (
        "{0}: no such command in this view; name one that its PATH finds, or a path inside the view"
    )

    exit_code: ClassVar[int] = 127


class CommandNotExecutable(Error):
    message = (
        "{0}: cannot be executed in this view ({1}); check its mode, its #! line and its "
        "architecture"
    )

    exit_code: ClassVar[int] = 126


class WorkingDirectoryMissing(Error):
    message = "-w {0}: no directory to work in inside the view ({1}); name one that exists there"


class BindSourceMissing(Error):
    message = (
        "-v {0}: cannot be shared with the view ({1}); name a path that exists and that you may "
        "reach"
    )


class BindTargetMismatch(Error):
    message = (
        "-v {0}: is {1} in the view, and what is to be shared there is {2}; name another target"
    )


class WorkingDirectoryRelative(Error):
    message = "-w {0}: write an absolute path, as the view has it"


class BindTargetMissing(Error):
    message = (
        "{0}: cannot be made inside the view ({1}); let a layer bring it, or let the view be "
        "written to"
    )


class ProcRefused(Error):
    message = (
        "/proc: the kernel refuses a fresh one where parts of /proc are covered; in a container, "
        "unmask them"
    )


class Step(Enum):
    """A step of the monitor or of init that can fail; the value completes "cannot ..."."""

    USER_NAMESPACE = "enter the user namespace"
    NAMESPACES = "make namespaces"
    PROCESS = "start a process"
    FORWARDER = "start the port forwarder"
    HOSTNAME = "set the host name"
    LOOPBACK = "raise the loopback interface"
    ROOT = "make the mount the root"
    BIND_SOURCE = "share"
    PROC = "mount procfs"
    FILE_SYSTEM = "prepare"
    MOUNTPOINT = "make the mountpoint"
    MISMATCH = "share at"
    ATTACH = "mount on"
    TWICE = "share at one place"
    HOSTS = "name the view in"
    DIRECTORY = "work in"
    CAPABILITIES = "drop capabilities"
    LOOKUP = "find the command"
    EXECUTE = "execute"
    UNFORESEEN = "go on"


class StepFailed(Exception):
    """Ends the process: `step` failed with `errno`, on the thing called `subject`."""

    def __init__(self, step: Step, number: int, subject: str) -> None:
        super().__init__(step, number, subject)
        self.step: Final = step
        self.errno: Final = number
        self.subject: Final = subject


@contextmanager
def step(name: Step, subject: str = "") -> Iterator[None]:
    """Turn an `OSError` of the block into StepFailed."""
    try:
        yield
    except OSError as error:
        raise StepFailed(name, error.errno or errno.EIO, subject) from error


def write(status: int, error: BaseException) -> None:
    """Write the record of `error` into the status pipe; ignore that the parent may have ended."""
    if not isinstance(error, StepFailed):
        number = error.errno if isinstance(error, OSError) and error.errno else errno.EIO
        error = StepFailed(Step.UNFORESEEN, number, f"{type(error).__name__}: {error}")
    record = f"{error.step.name}\0{error.errno}\0{error.subject}"
    with suppress(OSError):
        os.write(status, os.fsencode(record)[:_LONGEST_RECORD] + END)


def read(record: bytes) -> Exception:
    """The exception that `launch` raises for a record of `write`."""
    name, number, subject = os.fsdecode(record).split("\0", 2)
    failed, code = Step[name], int(number)
    reason = os.strerror(code)
    match failed:
        case Step.LOOKUP:
            return CommandNotFound(subject)
        case Step.EXECUTE if code == errno.ENOENT:
            return CommandNotExecutable(subject, "its interpreter is missing")
        case Step.EXECUTE:
            return CommandNotExecutable(subject, reason)
        case Step.DIRECTORY:
            return WorkingDirectoryMissing(subject, reason)
        case Step.BIND_SOURCE:
            return BindSourceMissing(subject, reason)
        case Step.MOUNTPOINT:
            return BindTargetMissing(subject, reason)
        case Step.MISMATCH:
            there, shared = "a directory", "none"
            if code == errno.ENOTDIR:
                there, shared = "no directory", "one"
            return BindTargetMismatch(subject, there, shared)
        case Step.TWICE:
            first, _, second = subject.partition("\n")
            return TargetTwice(second, f"the same place in this view as {first}")
        case Step.PROC if code == errno.EPERM:
            return ProcRefused()
    what = f"cannot {failed.value}: {reason}"
    return OSError(code, what, subject) if subject else OSError(code, what)
