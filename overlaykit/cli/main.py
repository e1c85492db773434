"""The command `overlaykit`: which command is meant, and how errors reach the user.

This is the edge: here, and only here, an `Error` or an `OSError` becomes one line and an exit status.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
from typing import Final, NoReturn

from overlaykit import __version__, signals, standard
from overlaykit.cli import output, umask
from overlaykit.errors import Error

COMMANDS: Final = {
    "run": "run a command in a view of its own",
    "mount": "mount layers over a directory",
    "umount": "unmount what 'mount' mounted",
    "layer": "add, list and remove layers of the store",
    "ps": "list the views and mounts that are running",
    "explain": "say which layer answers for a path",
    "doctor": "say what this machine can do, and the fix where it cannot",
    "bench": "measure what file systems and views cost, side by side",
}
"""Each is a module beside this one, with a function `main(arguments) -> exit status`."""

_INTERRUPTED: Final = 130  # 128 + SIGINT, as shells say it


class CommandUnknown(Error):
    message = "{0}: no such command: 'overlaykit --help' lists them"


MOUNT_HELPER: Final = "mount.fuse.overlaykit"
"""The program that mount(8) runs, a command too, in the module `mount_helper`."""


def main() -> NoReturn:
    """Run the command of sys.argv and exit with its status."""
    _exit_with(sys.argv[1:])


def mount_helper() -> NoReturn:
    """The program `mount.fuse.overlaykit`."""
    _exit_with([MOUNT_HELPER, *sys.argv[1:]])


def _exit_with(arguments: list[str]) -> NoReturn:
    standard.fill()
    output.adopt()
    umask.spare_owner()
    signals.await_children()
    status = run(arguments)
    signals.block_all()  # all is done, and said: an interrupt while Python ends would say otherwise
    sys.exit(status)


def run(arguments: list[str]) -> int:
    """Run a command; its exit status. What goes wrong is told on standard error, in one line."""
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except output.ReaderGone:
        output.drop()
        return 128 + signal.SIGPIPE
    except output.Unwritable as error:
        output.drop()
        return _fail(str(error), error.exit_code)
    except Error as error:
        return _fail(str(error), error.exit_code)
    except OSError as error:
        return _fail(_deleted_directory(error) or _describe(error), Error.exit_code)
    except KeyboardInterrupt:
        return _INTERRUPTED
    return status


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:2], "--help"]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0
    if arguments[0] == "--version":
        print(f"overlaykit {__version__}")
        return 0
    if arguments[0] in COMMANDS:
        name = arguments[0]
    elif arguments[0] == MOUNT_HELPER:
        name = "mount_helper"
    elif arguments[0] == "-o":  # as podman calls its mount_program: -o OPTIONS TARGET
        name, arguments = "mount", ["mount", *arguments]
    elif _is_from_mount(arguments):
        name, arguments = "mount_helper", [MOUNT_HELPER, *arguments]
    else:
        raise CommandUnknown(arguments[0])
    with signals.held():
        module = importlib.import_module(f"overlaykit.cli.{name}")
    try:
        status: int = module.main(arguments[1:])
    except SystemExit as ending:  # argparse has shown its help, or a signal has ended the command
        return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    return status


def _is_from_mount(arguments: list[str]) -> bool:
    """Whether mount.fuse3 has called, for mount(8): `[SOURCE] TARGET -o OPTIONS` (libfuse: util/mount.fuse.c).

    mount(8) makes the target absolute.
    """
    return len(arguments) in (3, 4) and arguments[-2] == "-o" and arguments[-3].startswith("/")


def _fail(message: str, status: int) -> int:
    output.tell(message)
    return status


def _deleted_directory(error: OSError) -> str | None:
    """What is to be said of a relative path that meant nothing: getcwd(3) names no file."""
    if error.errno == errno.ENOENT and error.filename is None:
        from overlaykit.namespace.environment import WorkingDirectoryDeleted, current_directory

        try:
            current_directory()
        except WorkingDirectoryDeleted as deleted:
            return str(deleted)
    return None


def _describe(error: OSError) -> str:
    reason = error.strerror or str(error)
    if error.filename is None:
        return reason
    return f"{os.fsdecode(error.filename)}: {reason}"


def _help() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {what}" for name, what in COMMANDS.items())
    return (
        "usage: overlaykit COMMAND [OPTION]...\n\n"
        f"Give each program its own view of the machine.\n\n{commands}\n\n"
        "'overlaykit COMMAND --help' tells more."
    )
