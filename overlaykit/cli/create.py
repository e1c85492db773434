"""`overlaykit create`: define a named view, for a later start."""

from __future__ import annotations

from overlaykit import signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from overlaykit.cli.arguments import Parser


def parser() -> Parser:
    """The command's parser."""
    from overlaykit.cli import run

    command = run.parser()
    command.prog = "overlaykit create"
    command.command = "create"
    command.description = "Define a view as 'overlaykit run' does, without starting it."
    command.usage = "overlaykit create [OPTION]... [--] COMMAND [ARG]..."
    command.epilog = "It prints the view's name. 'overlaykit start' starts it."
    return command


def main(arguments: list[str]) -> int:
    with signals.held():
        from overlaykit.cli import launch_options, run
        from overlaykit.views import named

    if {"-h", "--help"}.intersection(arguments[:1]):
        parser().parse_args(arguments)
    args, _ = run.parse(arguments)
    if args.vm:
        from overlaykit.cli import run_machine

        run_machine.check(args)
    else:
        run.refuse_machine(args)
    launch_options.check_restart(args, detached=True)
    env = launch_options.environment("create", args)
    view = named.create(
        args.name,
        arguments,
        env,
        temporary=args.rm,
        restart=args.restart,
        **launch_options.labels(args),
    )
    print(view.name)
    return 0
