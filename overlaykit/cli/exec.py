"""`overlaykit exec`: a command in a view that is running."""

from __future__ import annotations

import gc

from overlaykit import signals
from overlaykit.cli import launch_options, umask
from overlaykit.cli.options import REMAINDER, SUPPRESS, Options, Usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from overlaykit.cli.arguments import Parser

_EPILOG: Final = """\
The command has the files, processes, network and host name of the view, and the environment of its caller.
The exit status is as that of 'overlaykit run'."""


def main(arguments: list[str]) -> int:
    gc.disable()  # as `run` does
    with signals.held():
        from overlaykit.namespace import descriptors

    inherited = descriptors.inherited()  # before any other is opened
    args = options().parse(arguments)
    name, *command = args.command or [""]
    if not name:
        raise Usage("exec", "no view given")
    command = command[1:] if command[:1] == ["--"] else command
    if not command:
        raise Usage("exec", "no command given")
    with signals.held():
        from overlaykit.views import joining

        machine = joining.machine(name)
        env = launch_options.environment("exec", args)
        if machine is None:
            joining.execute(
                name,
                command,
                env=env,
                cwd=args.cwd,
                pass_fds=launch_options.descriptors(args, inherited),
                umask=umask.of_caller(),
                terminal=launch_options.terminal(args),
                **launch_options.identity(args),
            )
        from overlaykit.cli import run_machine
    return run_machine.launch_in(machine, args, command, env)


def parser() -> Parser:
    """The command's parser."""
    return options().parser()


def _bare_parser() -> Parser:
    from overlaykit.cli.arguments import Parser

    command = Parser("exec", "Run a command in a view that is running.", epilog=_EPILOG)
    command.usage = "overlaykit exec [OPTION]... VIEW [--] COMMAND [ARG]..."
    return command


def options() -> Options:
    """The command's options."""
    command = Options(_bare_parser)
    launch_options.declare_environment(command)
    launch_options.declare_identity(command)
    launch_options.declare_terminal(command)
    launch_options.declare_descriptors(command)
    command.add_argument("command", nargs=REMAINDER, metavar="VIEW", help=SUPPRESS)
    return command
