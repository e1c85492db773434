"""`overlaykit start`: start a named view again, as it was run."""

from __future__ import annotations

import os

from overlaykit import signals
from overlaykit.errors import Error
from overlaykit.scope import ExitStack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from overlaykit.cli.arguments import Parser
    from overlaykit.namespace.environment import Environment
    from overlaykit.views.detaching import Streams
    from overlaykit.views.named import Definition, NamedView
    from overlaykit.views.restarting import Try


class DirectoryGone(Error):
    message = (
        "{0}: its working directory {1} is gone: make it again, or 'overlaykit rm {0}' and 'run'"
    )


def parser() -> Parser:
    """The command's parser."""
    from overlaykit.cli.arguments import Parser

    command = Parser(
        "start",
        "Start a named view again, with the layers, options and command that it was run with.",
    )
    command.add_argument(
        "-a",
        "--attach",
        action="store_true",
        help="stay in the foreground, with this terminal and the command's status",
    )
    command.add_argument(
        "-i",
        "--interactive",
        action="store_true",
        help="as -a; the terminal of a view with -t gets standard input, whether it was run with -i or not",
    )
    command.add_argument("view", metavar="VIEW")
    return command


def main(arguments: list[str]) -> int:
    given = parser().parse_args(arguments)
    with signals.held():
        from overlaykit.cli import launch_options, run
        from overlaykit.namespace import descriptors
        from overlaykit.views import named

    inherited = descriptors.inherited()
    view = named.NamedView(given.view)
    definition = view.definition()
    enter_directory(view, definition)
    args, command = run.parse_again(definition)
    env = tuple(map(os.fsencode, definition.environment))
    attach = given.attach or given.interactive
    args.interactive |= given.interactive
    passed = launch_options.descriptors(args, inherited) if attach else frozenset[int]()
    return start(view, args, command, env, passed, detach=not attach, new=False)


def enter_directory(view: NamedView, definition: Definition) -> None:
    """Go where the view was run. Raises: DirectoryGone."""
    try:
        os.chdir(definition.directory)
    except OSError:
        raise DirectoryGone(view.name, definition.directory) from None


def start(
    view: NamedView,
    args: Any,
    command: list[str],
    env: Environment,
    passed: frozenset[int],
    *,
    detach: bool,
    new: bool,
) -> int:
    """Run the command of a named view: in place of this program, or with `detach` in a process of its own.

    A `new` view is removed if its command cannot be started.
    """
    from overlaykit.views import detaching

    def launch(streams: Streams | None) -> NoReturn:
        with ExitStack() as undo:
            if new:
                undo.callback(view.remove)
            lock = view.lock()
            undo.callback(os.close, lock)
            if args.restart != "no":
                view.forbid_restart()  # by the process of an earlier start
                keeper = view.lock_restarts()
                view.allow_restart()
                if streams is not None:
                    from overlaykit.views import restarting

                    restarting.keep(restarting.FIRST, keeper)
                os.close(keeper)
            _launch(view, args, command, env, passed, streams, lock, undo, new=new)

    if not detach:
        launch(None)
    status = detaching.detach(launch)
    if status == 0:
        print(view.name)
    return status


def start_again(view: NamedView, definition: Definition, following: Try, keeper: int) -> NoReturn:
    """Run the command of a detached view once more, in place of this program. Raises: ViewRuns, NoSuchView.

    `keeper`: see `restarting.keep`.
    """
    from overlaykit import standard
    from overlaykit.cli import run
    from overlaykit.views import restarting
    from overlaykit.views.detaching import Streams

    enter_directory(view, definition)
    args, command = run.parse_again(definition)
    env = tuple(map(os.fsencode, definition.environment))
    with signals.held(), ExitStack() as undo:
        lock = restarting.lock(view)
        undo.callback(os.close, lock)
        restarting.keep(following, keeper)
        standard.empty(keeper)
        streams = Streams(stdout=os.pipe(), stderr=os.pipe(), announce=None)
        _launch(view, args, command, env, frozenset(), streams, lock, undo, new=False)


def _launch(
    view: NamedView,
    args: Any,
    command: list[str],
    env: Environment,
    passed: frozenset[int],
    streams: Streams | None,
    lock: int,
    undo: ExitStack,
    *,
    new: bool,
) -> NoReturn:
    from overlaykit.cli import run
    from overlaykit.views.lasting import Lasting

    # Until this program is replaced: paths with the name are used, and the entry is not there before.
    name_lock = view.lock_name()
    undo.callback(os.close, name_lock)
    view.note_start()
    definition = view.definition()
    lasting = Lasting(
        status=view.record_of_status(lock),
        hold=(lock,),
        remove=lock if definition.temporary else None,
        new=definition.created if new else None,
        kept=view.kept,
    )
    if streams is not None:
        (out, output), (err, errors) = streams.stdout, streams.stderr
        redirected, held = {1: output, 2: errors}, None
        if args.interactive:
            redirected[0], held = view.make_input()
        if args.tty:  # relayed by this process
            for number in redirected.keys() - {2}:
                os.dup2(redirected[number], number)
            redirected = {}
        lasting = lasting.replace(
            announce=streams.announce,
            log=view.log_of(lock, out, err),
            input=held,
            redirected=redirected,
        )
    if args.vm:
        from overlaykit.cli import run_machine

        def on_start() -> None:
            undo.pop_all()
            os.close(name_lock)

        raise SystemExit(run_machine.launch_named(view, args, command, env, lasting, on_start))
    own: dict[str, Any] = {"name": view.name}
    if args.upper is None and not args.read_only:
        own["upper"] = view.upper
        if view.has_snapshots:
            from overlaykit.views import snapshots

            own["frozen"] = snapshots.layers(view, snapshots.chain(view, locked=True))
    run.launch(args, command, env, passed, lasting=lasting, **own)
