"""`overlaykit run`: a command in a view of its own."""

from __future__ import annotations

import gc

from overlaykit import signals
from overlaykit.cli import launch_options, output, umask
from overlaykit.cli.options import REMAINDER, SUPPRESS, Options, Usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final, NoReturn

    from overlaykit.cli.arguments import Parser
    from overlaykit.namespace.environment import Environment
    from overlaykit.views import View
    from overlaykit.views.lasting import Lasting
    from overlaykit.views.named import Definition

_EPILOG: Final = """\
Without '--', a first word that is an app of a profile runs the app: with the options of its table, then those given
here, after the apps that it depends on. ARGs take the place of the table's command. See 'overlaykit up --help'.
The exit status is the command's, 128+N if signal N ended it, 127 if there is no such command, 126 if it cannot be
executed, 125 if overlaykit itself failed."""

_PARTS: Final = (
    launch_options.lies,  # before the network, for one of them is a host name
    launch_options.root,
    launch_options.binds,
    launch_options.devices,
    launch_options.network,
    launch_options.sharing,
    launch_options.limits,
    launch_options.driver,
    launch_options.confinement,
    launch_options.hiding,
    launch_options.labels,
)
"""Each makes some of the arguments of `View`."""


def main(arguments: list[str]) -> int:
    # This process ends with its first command: to search for garbage takes a millisecond.
    gc.disable()
    with signals.held():
        from overlaykit.namespace import descriptors

    inherited = descriptors.inherited()  # before any other is opened
    args, command = parse(arguments)
    while args.args_from is not None:
        with signals.held():
            arguments = launch_options.more_arguments(arguments, args.args_from)
        inherited -= {args.args_from}
        args, command = parse(arguments)
    if _may_name_app(arguments, args):
        with signals.held():
            from overlaykit.cli import run_app

        arguments = run_app.expanded(arguments, args)
        args, command = parse(arguments)
    with signals.held():
        passed = launch_options.descriptors(args, inherited)
        env = launch_options.environment("run", args)
        launch_options.check_restart(args, detached=args.detach)
    temporary = args.rm or args.name is None
    if args.vm:
        with signals.held():
            from overlaykit.cli import run_machine

        run_machine.check(args)
        if temporary and not args.detach:
            return run_machine.launch(args, command, env, name=args.name)
    elif temporary and not args.detach:
        launch(args, command, env, passed)
    with signals.held():
        from overlaykit.cli import start
        from overlaykit.views import named

        view = named.create(
            args.name,
            arguments,
            env,
            temporary=temporary,
            restart=args.restart,
            **launch_options.labels(args),
        )
    return start.start(view, args, command, env, passed, detach=args.detach, new=True)


def _may_name_app(arguments: list[str], args: Any) -> bool:
    """Whether the first word after the options can be the name of an app of a profile."""
    words = args.command
    if args.file is not None:
        return True
    follows_dashes = arguments[: len(arguments) - len(words)][-1:] == ["--"]
    if words[:1] == ["--"] or follows_dashes or args.entrypoint is not None or "/" in words[0]:
        return False
    from overlaykit.cli.profiles import files

    return files.naming(words[0]) is not None


def parse_again(definition: Definition) -> tuple[Any, list[str]]:
    """As `parse`, of how a named view was run, with the layers that it has got since. Raises: Usage."""
    args, command = parse(list(definition.arguments))
    if definition.layers is not None:
        args.layers = list(definition.layers)
    return args, command


def parse(arguments: list[str], declared: Options | None = None) -> tuple[Any, list[str]]:
    """The values of the options (by default these), and the command. Raises: Usage."""
    declared = declared or options()
    modified: dict[tuple[str, int], dict[str, str]] = {}
    if any(one.startswith(launch_options.MODIFIERS) for one in arguments):
        from overlaykit.cli import modifiers

        arguments, modified = modifiers.taken_out("run", declared, arguments)
    args = declared.parse(arguments)
    args.modified = modified
    command: list[str] = args.command[1:] if args.command[:1] == ["--"] else args.command
    if args.entrypoint is not None:
        command = [args.entrypoint, *command]
    if not command:
        raise Usage("run", "no command given")
    return args, command


def parts(args: Any) -> dict[str, Any]:
    """The arguments of `View`. Raises: Usage for an option of a machine."""
    refuse_machine(args)
    return {name: value for part in _PARTS for name, value in part(args).items()}


def refuse_machine(args: Any) -> None:
    """Raises: Usage for an option of a machine, where the files of a view are wanted."""
    for option, value in (("--disk-file", args.disk_file), ("--kernel", args.kernel)):
        if value is not None:
            raise Usage("run", f"{option}: only with --vm; leave it out, or add --vm")
    if args.vm:
        raise Usage(
            "run", "--vm: not in a profile, nor for the files of a machine; use run or create"
        )


def launch(
    args: Any,
    command: list[str],
    env: Environment,
    passed: frozenset[int],
    *,
    lasting: Lasting | None = None,
    started: Callable[[View], None] | None = None,
    **own: object,
) -> NoReturn:
    """Run the command in a view in place of this program. `own`: arguments of `View` that are not the options'.

    `started`: called once the view is mounted.
    """
    with signals.held():
        from overlaykit.views import View

        given = parts(args) | own
        identity = (
            launch_options.identity(args)
            | launch_options.process("run", args)
            | launch_options.contents("run", args)
            | launch_options.clocks(args)
        )

    with (
        signals.unwound(),
        View(**given) as view,
    ):
        if view.made_upper and args.upper:
            output.print_error(f"--upper {args.upper}: made, because it did not exist")
        for note in view.notes:
            output.print_error(note)
        if started is not None:
            started(view)
        with signals.held():
            view.execute(
                command,
                env=env,
                cwd=args.cwd,
                pass_fds=passed,
                umask=umask.of_caller(),
                terminal=launch_options.terminal(args),
                lasting=lasting,
                **identity,
            )


def parser() -> Parser:
    """The command's parser."""
    return options().parser()


def bare_parser() -> Parser:
    """The parser without options."""
    from overlaykit.cli.arguments import Parser

    command = Parser(
        "run",
        "Run a command in its own view of files, processes, network and host name.",
        epilog=_EPILOG,
    )
    command.usage = (
        "overlaykit run [OPTION]... [--] COMMAND [ARG]...\n"
        "       overlaykit run [-f FILE] [OPTION]... APP [ARG]..."
    )
    return command


def options() -> Options:
    """The command's options."""
    command = Options(bare_parser)
    launch_options.declare_root(command)
    launch_options.declare_binds(command)
    launch_options.declare_contents(command)
    launch_options.declare_devices(command)
    launch_options.declare_network(command)
    launch_options.declare_names(command)
    launch_options.declare_lies(command)
    launch_options.declare_sharing(command)
    launch_options.declare_life(command)
    launch_options.declare_labels(command)
    launch_options.declare_limits(command)
    launch_options.declare_machine(command)
    launch_options.declare_driver(command)
    launch_options.declare_confinement(command)
    launch_options.declare_hiding(command)
    launch_options.declare_environment(command)
    launch_options.declare_identity(command)
    launch_options.declare_terminal(command, detaches=True)
    launch_options.declare_process(command)
    launch_options.declare_descriptors(command)
    command.add_argument(
        "-f",
        "--file",
        metavar="FILE",
        help="run an app of this profile (default: overlaykit.toml here or above, or in ~/.config/overlaykit)",
    )
    command.add_argument("command", nargs=REMAINDER, metavar="COMMAND", help=SUPPRESS)
    return command
