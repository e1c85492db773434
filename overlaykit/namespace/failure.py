"""How a failure travels from the monitor or the init of a view to the caller of `launch`.

The children share the status pipe. The monitor writes init's process id into it; whichever child fails writes a
record: the stage that failed, the errno, and the thing's name. They come in either order, each in one write with
END behind it. End of file without a record means that the command was executed. `read` turns a record into what the
caller gets: one of the errors below where a user can mend it, an `OSError` otherwise.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from enum import Enum
from typing import ClassVar, Final

from overlaykit.errors import Error
from overlaykit.namespace.binds import TargetTwice

END: Final = b"\0\n"
"""Ends what is written into the status pipe; no name holds a NUL."""


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


class MountpointMismatch(Error):
    message = (
        "-v {0}: is {1} in the view, and what is to be shared there is {2}; name another target"
    )


class WorkingDirectoryRelative(Error):
    message = "-w {0}: write an absolute path, as the view has it"


class MountpointMissing(Error):
    message = (
        "{0}: cannot be made inside the view ({1}); let a layer bring it, or let the view be "
        "written to"
    )


class ProcRefused(Error):
    message = (
        "/proc: the kernel refuses a fresh one where parts of /proc are covered; in a container, "
        "unmask them"
    )


class Stage(Enum):
    """What a child of the launcher was doing when it failed; the value completes "cannot ..."."""

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


class Failed(Exception):
    """Raised in a child to end it: `stage` failed with an errno, on the thing called `subject`."""

    def __init__(self, stage: Stage, number: int, subject: str) -> None:
        super().__init__(stage, number, subject)
        self.stage: Final = stage
        self.errno: Final = number
        self.subject: Final = subject


class during:  # noqa: N801
    """`with during(Stage.X, "subject"):` names what an `OSError` inside the block means."""

    def __init__(self, stage: Stage, subject: str = "") -> None:
        self.stage: Final = stage
        self.subject: Final = subject

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, OSError):
            raise Failed(self.stage, error.errno or errno.EIO, self.subject) from error


def write(status: int, error: BaseException) -> None:
    """Tell the launcher what ended this child. A launcher that is gone is not an error here."""
    if not isinstance(error, Failed):
        number = error.errno if isinstance(error, OSError) and error.errno else errno.EIO
        error = Failed(Stage.UNFORESEEN, number, f"{type(error).__name__}: {error}")
    record = f"{error.stage.name}\0{error.errno}\0{error.subject}"
    with suppress(OSError):
        os.write(
            status, os.fsencode(record)[:4000] + END
        )  # less than PIPE_BUF: in one piece (pipe(7))


def read(record: bytes) -> Exception:
    """The exception that `launch` raises for a record of `write`."""
    name, number, subject = os.fsdecode(record).split("\0", 2)
    stage, code = Stage[name], int(number)
    reason = os.strerror(code)
    match stage:
        case Stage.LOOKUP:
            return CommandNotFound(subject)
        case Stage.EXECUTE if code == errno.ENOENT:
            return CommandNotExecutable(subject, "its interpreter is missing")
        case Stage.EXECUTE:
            return CommandNotExecutable(subject, reason)
        case Stage.DIRECTORY:
            return WorkingDirectoryMissing(subject, reason)
        case Stage.BIND_SOURCE:
            return BindSourceMissing(subject, reason)
        case Stage.MOUNTPOINT:
            return MountpointMissing(subject, reason)
        case Stage.MISMATCH:
            there, shared = "a directory", "none"
            if code == errno.ENOTDIR:
                there, shared = "no directory", "one"
            return MountpointMismatch(subject, there, shared)
        case Stage.TWICE:
            first, _, second = subject.partition("\n")
            return TargetTwice(second, f"the same place in this view as {first}")
        case Stage.PROC if code == errno.EPERM:
            return ProcRefused()
    what = f"cannot {stage.value}: {reason}"
    return OSError(code, what, subject) if subject else OSError(code, what)
