"""The commands of `overlaykit`: the table of names, and the dispatch of a command line to a module."""

from __future__ import annotations

import sys

from overlaykit import __version__, signals
from overlaykit.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

COMMANDS: Final = {
    "run": "run a command in a view of its own",
    "exec": "run a command in a view that is running",
    "create": "define a named view, for a later start",
    "start": "start a named view, as it was run",
    "stop": "end views, with time to do so",
    "kill": "send a signal to views",
    "wait": "wait for the end of views, and print their exit statuses",
    "rm": "remove named views with what was written in them",
    "rename": "give a view another name",
    "attach": "print what a detached view prints from now on, and give it input",
    "logs": "print what a detached view has printed",
    "inspect": "print all about a view, for programs",
    "cp": "copy files into a view and out of it",
    "trace": "say which files programs look up, open, read, write, miss and execute",
    "slim": "make a layer of only what a command has used",
    "try": "run a command on the host's files, then apply or discard what it changed",
    "diff": "list what a view has changed of its layers",
    "apply": "write what a view has changed into the directory below it",
    "snapshot": "freeze what a view has written, to go back to it or on from it",
    "log": "list the snapshots of a view",
    "restore": "have a view show a snapshot again",
    "branch": "make another view that goes on from a snapshot",
    "top": "list the processes of a view",
    "stats": "show what views use, live",
    "generate": "print a unit of systemd for a named view",
    "up": "start the apps of a profile",
    "down": "stop the apps of a profile",
    "mount": "mount layers over a directory",
    "umount": "unmount what 'mount' mounted",
    "layer": "add, list and remove layers of the store",
    "layers": "list the layers of a view, and change them while it runs",
    "ps": "list views and mounts",
    "explain": "say which layer answers for a path",
    "server": "show or stop the process that starts views quickly",
    "completion": "print what completes commands in a shell",
    "doctor": "say what this machine can do, and the fix where it cannot",
    "bench": "measure what file systems and views cost, side by side",
    "compare": "measure what a command costs in a view or a machine, beside a plain process",
}
"""Each is a module beside this one, with `parser()` and `main(arguments) -> exit status`."""

MOUNT_HELPER: Final = "mount.fuse.overlaykit"
"""The program that mount(8) runs, in the module `mount_helper`."""


class CommandUnknown(Error):
    message = "{0}: no such command: 'overlaykit --help' lists them"


def run(arguments: list[str]) -> int:
    """Run the command that the arguments name. Returns: its exit status. Raises: as the command."""
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
        # In place of importlib, which loads warnings.
        module = f"overlaykit.cli.{name}"
        __import__(module)
    try:
        status: int = sys.modules[module].main(arguments[1:])
    except SystemExit as exit_:  # from argparse after --help, or from `Interruption`
        return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    return status


def _is_from_mount(arguments: list[str]) -> bool:
    """Whether mount.fuse3 calls for mount(8): `[SOURCE] TARGET -o OPTIONS` (libfuse: util/mount.fuse.c).

    mount(8) makes the target absolute.
    """
    return len(arguments) in (3, 4) and arguments[-2] == "-o" and arguments[-3].startswith("/")


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:{width}}  {summary}" for name, summary in COMMANDS.items())
    return (
        "usage: overlaykit COMMAND [OPTION]...\n\n"
        f"Give each program its own view of the machine.\n\n{lines}\n\n"
        "examples:\n"
        "  overlaykit run -- sh -c 'rm -r /usr/share/doc; ls /usr/share'\n"
        "  overlaykit run -d --name web -p 8080:80 -- nginx -g 'daemon off;'\n"
        "  overlaykit ps\n\n"
        "'overlaykit COMMAND --help' lists its options."
    )
