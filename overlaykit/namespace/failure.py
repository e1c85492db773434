"""How a failure travels from the supervisor or the init of a view to the caller of `launch`.

Both share the write end of the status pipe. The supervisor writes init's process id into it; a process that fails
writes a record: the failure's name, the errno, and the subject's name. Either comes first, each in one write that ends
with END. End of file without a record means that the command was executed. `read` turns a record into the exception for
the caller: one of the errors below where a user can mend it, an `OSError` otherwise.
"""

from __future__ import annotations

import errno
import os

from overlaykit.errors import Error
from overlaykit.namespace.binds import TargetTwice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar, Final

END: Final = b"\0\0\n"
"""Ends each message in the status pipe; no name holds a NUL, but one may begin with a newline."""


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


class BindOptionsRefused(Error):
    message = (
        "-v {0}: exec, suid and dev cannot be given where the host's mount has noexec, nosuid or nodev ({1}); leave "
        "them out, or run as root"
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


class DirectoryRefused(Error):
    message = "{0}: the directory cannot be made in the view ({1}); name another one, or let the view be written to"


class SymlinkRefused(Error):
    message = "--symlink: {0} cannot be made in the view ({1}); name another DEST, or let the view be written to"


class TimeRefused(Error):
    message = (
        "--monotonic, --boottime: the kernel gives the view no clocks of its own ({0}); name smaller"
        " offsets, or leave them out"
    )


class MemoryExceeded(Error):
    message = "killed, because it needed more than --memory allows: give it more"

    exit_code: ClassVar[int] = 137


class InitKilled(Error):
    message = (
        "killed: the view's init was ended from outside ('overlaykit kill', 'overlaykit stop' after its time, or "
        "another process), and with it every process of the view"
    )

    exit_code: ClassVar[int] = 137


class LimitRefused(Error):
    message = "--ulimit {0}: the hard limit cannot be raised ({1}); write a lower one, or be root"


class UserNotMapped(Error):
    message = (
        "-u {0}: no such user or group in the user namespace of this view; give yourself ranges in /etc/subuid and "
        "/etc/subgid (with newuidmap installed), or be root"
    )


class GroupsRefused(Error):
    message = (
        "--group-add: the groups of this view cannot be set ({0}); give yourself ranges in /etc/subuid and "
        "/etc/subgid (with newuidmap installed), or keep your own: --group-add keep-groups"
    )


class ProcRefused(Error):
    message = (
        "/proc: the kernel refuses a fresh one where parts of /proc are covered; in a container, "
        "unmask them"
    )


class FilterRefused(Error):
    message = (
        "the seccomp filter cannot be installed ({0}); --security-opt seccomp=unconfined runs "
        "the command without one"
    )


class ReleaseToldAlready(Error):
    message = "--lie kernel: this program is in a view that tells a release already: leave it out"


class KeyringRefused(Error):
    message = (
        "the view cannot get a session keyring of its own ({0}): end other views, or raise "
        "kernel.keys.maxkeys"
    )


WORDING: Final = {
    "USER_NAMESPACE": "enter the user namespace",
    "NAMESPACES": "make namespaces",
    "PROCESS": "start a process",
    "CONNECT": "connect the network",
    "PORT": "publish port",
    "LOG": "write the log",
    "CGROUP": "join a control group",
    "HOSTNAME": "set the host name",
    "LOOPBACK": "raise the loopback interface",
    "ROOT": "make the mount the root",
    "BIND_SOURCE": "share",
    "BIND_OPTIONS": "share",
    "PROC": "mount procfs",
    "FILE_SYSTEM": "prepare",
    "MOUNTPOINT": "make the mountpoint",
    "CONTENTS": "make the directory",
    "SYMLINK": "make the symbolic link",
    "DATA": "fill",
    "TIME": "make a time namespace",
    "PROCESSORS": "leave processors to the view",
    "MISMATCH": "share at",
    "ATTACH": "mount on",
    "TWICE": "share at one place",
    "HOSTS": "name the view in",
    "DIRECTORY": "work in",
    "CAPABILITIES": "drop capabilities",
    "KEYRING": "make a session keyring",
    "NO_NEW_PRIVS": "set no_new_privs",
    "SCOPE": "keep abstract sockets of others away",
    "HIDE": "hide",
    "RELEASE": "have uname(2) tell another release",
    "SECCOMP": "install the seccomp filter",
    "LOOKUP": "find the command",
    "EXECUTE": "execute",
    "TERMINAL": "make a terminal",
    "OUTPUT": "write to standard output",
    "LIMIT": "set the limit",
    "USER": "become the user",
    "SUPPLEMENTARY": "set the supplementary groups",
    "UNFORESEEN": "go on",
}
"""The names of failures of the supervisor or of init; the value completes "cannot ..."."""

DAEMON: Final = "DAEMON"
"""The failure that the daemon ended before the view did, or before all was in the upper."""


def read(record: bytes) -> Exception:
    """The exception that `launch` raises for a record in the status pipe."""
    name, number, subject = os.fsdecode(record).split("\0", 2)
    return error_of(name, int(number), subject)


def error_of(name: str, code: int, subject: str) -> Exception:
    """The exception for a failure: its name in WORDING, its errno and its subject."""
    reason = os.strerror(code)
    match name:
        case "LOOKUP":
            return CommandNotFound(subject)
        case "EXECUTE" if code == errno.ENOENT:
            return CommandNotExecutable(subject, "its interpreter is missing")
        case "EXECUTE":
            return CommandNotExecutable(subject, reason)
        case "DIRECTORY":
            return WorkingDirectoryMissing(subject, reason)
        case "BIND_OPTIONS" if code == errno.EPERM:
            return BindOptionsRefused(subject, reason)
        case "BIND_SOURCE" | "BIND_OPTIONS":
            return BindSourceMissing(subject, reason)
        case "MOUNTPOINT":
            return BindTargetMissing(subject, reason)
        case "MISMATCH":
            there, shared = "a directory", "none"
            if code == errno.ENOTDIR:
                there, shared = "no directory", "one"
            return BindTargetMismatch(subject, there, shared)
        case "TWICE":
            first, _, second = subject.partition("\n")
            return TargetTwice(second, f"the same place in this view as {first}")
        case "TIME":
            return TimeRefused(reason)
        case "CONTENTS":
            return DirectoryRefused(subject, reason)
        case "SYMLINK":
            return SymlinkRefused(subject, reason)
        case "SECCOMP":
            return FilterRefused(reason)
        case "RELEASE" if code == errno.EBUSY:
            return ReleaseToldAlready()
        case "KEYRING":
            return KeyringRefused(reason)
        case "MEMORY":
            return MemoryExceeded()
        case "INIT":
            return InitKilled()
        case "LIMIT":
            return LimitRefused(subject, reason)
        case "USER" if code == errno.EINVAL:
            return UserNotMapped(subject)
        case "SUPPLEMENTARY":
            return GroupsRefused(reason)
        case "CONNECT":
            from overlaykit.namespace import outbound

            return outbound.refusal(subject, reason)
        case "PROC" if code == errno.EPERM:
            return ProcRefused()
    what = f"cannot {WORDING[name]}: {reason}"
    return OSError(code, what, subject) if subject else OSError(code, what)
