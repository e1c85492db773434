"""`overlaykit run`: a command in a view of its own."""

from __future__ import annotations

import gc

from overlaykit import signals
from overlaykit.cli import output, umask
from overlaykit.cli.options import REMAINDER, SUPPRESS, Options, Usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from overlaykit.cli.arguments import Parser

_EPILOG: Final = """\
The exit status is the command's, 128+N if signal N ended it, 127 if there is no such command, 126 if it cannot be
executed, 125 if overlaykit itself failed."""


def main(arguments: list[str]) -> int:
    # This process ends with its first command: to search for garbage takes a millisecond.
    gc.disable()
    with signals.held():
        from overlaykit.namespace import (
            descriptors,
            environment,
            parse_bind,
            parse_mount,
            parse_port,
        )

    inherited = descriptors.inherited()  # before any other is opened
    args = options().parse(arguments)
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise Usage("run", "no command given")
    named = descriptors.named(args.preserve_fds, args.preserve_fd, inherited)
    passed = named | descriptors.passed_by_default(inherited)
    env = environment.initial()
    for name, value in map(_variable, args.env):
        env = environment.replace(env, name, value)
    with signals.held():
        from overlaykit.views import View

    with (
        signals.unwound(),
        View(
            args.layers or ("host",),
            upper=args.upper,
            read_only=args.read_only,
            name=args.name,
            network=args.network,
            binds=[*map(parse_bind, args.binds), *map(parse_mount, args.mounts)],
            ports=[parse_port(text) for text in args.ports],
            driver=args.driver,
        ) as view,
    ):
        if view.made_upper:
            output.print_error(f"--upper {args.upper}: made, because it did not exist")
        for note in view.notes:
            output.print_error(note)
        with signals.held():
            view.execute(command, env=env, cwd=args.cwd, pass_fds=passed, umask=umask.of_caller())


def _variable(setting: str) -> tuple[str, str]:
    key, equals, value = setting.partition("=")
    if not key or not equals:
        raise Usage("run", f"-e {setting}: give KEY=VALUE")
    return key, value


def parser() -> Parser:
    """The command's parser."""
    return options().parser()


def _bare_parser() -> Parser:
    from overlaykit.cli.arguments import Parser

    command = Parser(
        "run",
        "Run a command in its own view of files, processes, network and host name.",
        epilog=_EPILOG,
    )
    command.usage = "overlaykit run [OPTION]... [--] COMMAND [ARG]..."
    return command


def options() -> Options:
    """The command's options."""
    command = Options(_bare_parser)
    add = command.add_argument
    add(
        "-l",
        dest="layers",
        metavar="LAYER",
        action="append",
        default=[],
        help="a layer: 'host', a name of the store, or a directory; top first (default: host)",
    )
    command.add_exclusive(
        (
            "--upper",
            {"metavar": "DIR", "help": "keep changes in DIR (default: drop them at the end)"},
        ),
        ("--read-only", {"action": "store_true", "help": "refuse changes (EROFS)"}),
    )
    add(
        "-v",
        "--volume",
        dest="binds",
        metavar="SRC:DST[:ro]",
        action="append",
        default=[],
        help="share the host's SRC with the view at DST",
    )
    add(
        "--mount",
        dest="mounts",
        metavar="type=bind,src=SRC,dst=DST[,ro]",
        action="append",
        default=[],
        help="the same, for paths with a colon; a field with a comma in double quotes",
    )
    add(
        "-p",
        "--publish",
        dest="ports",
        metavar="[IP:]HOST:PORT[/udp]",
        action="append",
        default=[],
        help="publish the view's port PORT as the host's HOST, TCP or UDP (default IP: 127.0.0.1)",
    )
    add(
        "--name",
        help="the view's name and, unless the network is the host's, its host name (default: generated)",
    )
    add(
        "--network",
        choices=("private", "host", "none"),
        default="private",
        help="'private': its own, with published ports and no route out; 'host': the host's, with all that it reaches;"
        " 'none': its own, with no ports (default: private)",
    )
    add(
        "--driver",
        metavar="fuse|kernel|auto",
        help="what merges the layers: 'fuse': overlaykit's own file system; 'kernel': the kernel's overlayfs, without a"
        " daemon; 'auto': the kernel's where it can show the view (default: $OVERLAYKIT_DRIVER, else what"
        " ~/.config/overlaykit/config.toml or /etc/overlaykit/config.toml says, else fuse)",
    )
    add(
        "-e",
        "--env",
        dest="env",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="set an environment variable",
    )
    add(
        "-w",
        "--workdir",
        dest="cwd",
        metavar="DIR",
        help="the working directory in the view (default: the current one if it exists there, else /)",
    )
    add(
        "--preserve-fds",
        type=int,
        default=0,
        metavar="N",
        help="pass the N descriptors from 3 on, directories and namespaces too: a program reads outside of its view "
        "through them (default: pipes, sockets, plain files and terminals pass, under any number)",
    )
    add(
        "--preserve-fd",
        metavar="FD[,FD...]",
        action="append",
        default=[],
        help="pass these descriptors",
    )
    add("command", nargs=REMAINDER, metavar="COMMAND", help=SUPPRESS)
    return command
