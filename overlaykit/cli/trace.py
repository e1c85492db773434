"""`overlaykit trace`: which files programs look up, open, read, write, miss and execute."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any, Final

from overlaykit import codec, signals
from overlaykit.cli import launch_options, run
from overlaykit.cli.options import Options, Usage
from overlaykit.cli.output import one_line, print_error
from overlaykit.client import Client, Events, NoDaemon
from overlaykit.scope import suppress

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterable
    from typing import TextIO

    from overlaykit.cli.arguments import Parser
    from overlaykit.views import View

KINDS: Final = (
    "found",
    "missed",
    "opened",
    "read",
    "listed",
    "followed",
    "executed",
    "written",
    "changed",
    "made",
    "removed",
    "renamed",
    "linked",
)
_FAILED: Final = 125
_EPILOG: Final = """\
With a VIEW, a view or mount that is running is traced, until it ends or Ctrl-C. With '--' and a COMMAND, that runs in a
view as by 'overlaykit run', with its options, and is traced from its start; its exit status is that of this command.
Each event is a line, printed on standard output, or with a COMMAND on standard error. At the end, each program is
listed with the number of its events. The file of -o is what 'overlaykit slim --from' takes.
The kinds of events are those of docs/trace.md: """


def options() -> Options:
    """The command's options: those of `run`, and its own."""
    command = run.options()
    add = command.add_argument
    add("--json", action="store_true", help="print each event as a JSON object on a line")
    add("-o", dest="output", metavar="FILE", help="write all events to FILE, as with --json")
    add("--only", metavar="KIND,...", help="print events of these kinds only")
    return command


def parser() -> Parser:
    """The command's parser."""
    command = options().parser()
    command.prog = "overlaykit trace"
    command.command = "trace"
    command.description = "Say what programs do with files."
    command.usage = "overlaykit trace [OPTION]... VIEW | [OPTION]... -- COMMAND [ARG]..."
    command.epilog = _EPILOG + ", ".join(KINDS) + "."
    return command


def main(arguments: list[str]) -> int:
    args, inherited = parse(arguments, options(), parser)
    words: list[str] = args.command
    follows_dashes = arguments[: len(arguments) - len(words)][-1:] == ["--"]
    if words[:1] == ["--"] or follows_dashes:
        args, command = run.parse(arguments, options())
        return traced_run(args, command, inherited)
    if len(words) != 1:
        raise Usage("trace", "name one view, or a command after '--'")
    with (
        Output(args, sys.stdout) as output,
        Client(words[0]) as client,
        client.trace() as events,
        signals.handled((signal.SIGINT, signal.SIGTERM), _stop),
    ):
        if not events.opens:
            print_error(f"{words[0]}: it goes without OPEN: what programs open is not seen")
        with suppress(_Stopped):
            output.take(events)
    output.summarize()
    return 0


def parse(
    arguments: list[str], declared: Options, parser: Callable[[], Parser]
) -> tuple[Any, frozenset[int]]:
    """The values of the options, and the descriptors that the caller has passed. Help is printed if only that is asked.

    Requires: no descriptor was opened before.
    """
    with signals.held():
        from overlaykit.namespace import descriptors

    inherited = descriptors.inherited()
    if {"-h", "--help"}.intersection(arguments[:1]):
        parser().parse_args(arguments)
    return declared.parse(arguments), inherited


class _Stopped(Exception):
    """The user has ended the trace."""


def _stop(*_: object) -> None:
    raise _Stopped


class Output:
    """Where events go. A file gets all of them, and a first line that says which layers it is of."""

    def __init__(self, args: Any, stream: TextIO, *, quiet: bool = False) -> None:
        """Raises: Usage; OSError: the file cannot be made."""
        self._only = None if args.only is None else frozenset(args.only.split(","))
        for kind in sorted(self._only or ()):
            if kind not in KINDS:
                raise Usage("trace", f"--only {kind}: the kinds are {', '.join(KINDS)}")
        self._stream = stream
        self._quiet = quiet
        self._json = args.json
        self._file = None if args.output is None else open(args.output, "wb")  # noqa: SIM115
        self._counts: dict[str, Counter[str]] = {}
        self._lost = 0

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def begin(self, layers: Iterable[str], command: Iterable[str]) -> None:
        if self._file is not None:
            self._file.write(codec.line({"layers": [*layers], "command": [*command]}))

    def take(self, events: Events) -> None:
        """Take events until the view ends."""
        for line in events:
            self._take(line)
            if not events.are_held:  # those that came together are written together
                self._stream.flush()

    def _take(self, line: bytes) -> None:
        if self._file is not None:
            self._file.write(line)
        event = codec.parsed(line)
        if "kind" not in event:
            self._lost += event.get("lost", 0)
            return
        if self._only is not None and event["kind"] not in self._only:
            return
        if event["program"] not in self._counts:
            from collections import Counter

            self._counts[event["program"]] = Counter()
        self._counts[event["program"]][event["kind"]] += 1
        if not self._quiet and (self._file is None or self._json):
            self._stream.write(line.decode() if self._json else _row(event))

    def summarize(self) -> None:
        """Say on standard error what each program did."""
        for program, counts in self._counts.items():
            done = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])
            print_error(f"{program or 'the kernel'}: {done}")
        if self._lost:
            print_error(f"{self._lost} events were lost: they came too fast for the reader")


def _row(event: dict[str, Any]) -> str:
    kind = event["kind"] + ("+" if "for" in event else "")
    path = event["path"] + (f" -> {event['to']}" if "to" in event else "")
    error = f" ({event['error']})" if "error" in event else ""
    return one_line(f"{kind:8}  {event['program']:15}  {event['pid']:7}  {path}{error}") + "\n"


def traced_run(
    args: Any, command: list[str], inherited: frozenset[int], *, quiet: bool = False
) -> int:
    """Run a command in a view, and trace it. Returns: its exit status. Raises: Usage, Error, OSError."""
    for option, value in (
        ("--detach", args.detach),
        ("--vm", args.vm),
        ("--name", args.name and not args.rm),
        ("--args", args.args_from is not None),
    ):
        if value:
            raise Usage("trace", f"{option}: start the view with it, and trace it by its name")
    passed = launch_options.descriptors(args, inherited)
    env = launch_options.environment("run", args)
    layers = args.layers or ["host"]
    with Output(args, sys.stderr, quiet=quiet) as output:
        output.begin(layers, command)
        named, begun = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            status = _FAILED
            try:
                os.close(named[0])
                os.close(begun[1])
                status = _launch(args, command, env, passed, named[1], begun[0])
            finally:
                os._exit(status)
        os.close(named[1])
        os.close(begun[0])
        with signals.handled(
            (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP), _pass_on(child)
        ):
            _follow(output, named[0], begun[1])
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if not quiet:
            output.summarize()
    return 128 - status if status < 0 else status


def _pass_on(child: int) -> Callable[[int, object], None]:
    """A handler that leaves the terminal's signals to the command, and passes the others on."""

    def handler(number: int, _: object) -> None:
        if number in (signal.SIGTERM, signal.SIGHUP):
            os.kill(child, number)

    return handler


def _follow(output: Output, named: int, begun: int) -> None:
    """Trace the view whose control socket comes from a pipe; then let its command begin."""
    with os.fdopen(named, "rb") as pipe:
        path = pipe.read()
    try:
        if not path:  # it could not be started
            return
        with Events(os.fsdecode(path)) as events:
            os.write(begun, b"\n")
            output.take(events)
    finally:
        os.close(begun)


def _launch(args: Any, command: list[str], env: Any, passed: Any, named: int, begun: int) -> int:
    """In the child: become the view's supervisor, once the trace has begun."""
    from overlaykit.cli import main

    def wait(view: View) -> None:
        if not view.control():
            raise NoDaemon(view.name)
        with os.fdopen(named, "wb") as pipe:
            pipe.write(os.fsencode(view.control()))
        if not os.read(begun, 1):
            raise ConnectionResetError("the trace could not begin")

    def launch() -> int:
        run.launch(args, command, env, passed, started=wait, no_open="off")

    return main.status_of(launch)
