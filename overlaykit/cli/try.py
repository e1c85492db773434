"""`overlaykit try`: a command on the host's files as they are; then its user decides what becomes of its changes."""  # noqa: N999

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import stat
import sys

from overlaykit import mountinfo, signals
from overlaykit.changes.plain import plain
from overlaykit.cli import areas, progress, summary
from overlaykit.cli.options import REMAINDER, SUPPRESS, Options, Usage
from overlaykit.cli.output import (
    ReaderGone,
    StdoutUnwritable,
    discard_stdout,
    one_line,
    print_error,
)
from overlaykit.cli.question import Kept, Question
from overlaykit.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, Final

    from overlaykit.changes.applying import Outcome
    from overlaykit.changes.model import Change
    from overlaykit.changes.read import Comparison
    from overlaykit.cli.arguments import Parser
    from overlaykit.cli.summary import Summary
    from overlaykit.client import Stack
    from overlaykit.views.named import NamedView

_EPILOG: Final = """\
The command finds the host's files, the current directory, the environment, the network and the terminal as they are.
What it writes goes into a view: nothing is applied before you say so. At the end, what has changed is listed, and you
are asked: apply all or some, discard, keep for later, show the differences, or go on in a shell or with another
command. Without a terminal the changes are kept, and the commands to look at and apply them are printed. So
they are with --yes, if a signal (as of Ctrl-C) ends the command, or overlaykit fails.

An ordinary user's command may write where the user's own files are: in the home directory, and in the topmost directory
of the user's own above the current one. All other files are read-only. In /tmp and /var/tmp it may always write; what
is left there is applied only if --on names them, or if root tries the whole host.

The exit status is the command's, 128+N if signal N ended it, 127 if there is no such command, 126 if it cannot be
executed, 125 if overlaykit itself failed or --yes could not apply the changes."""

_WHOLE: Final = ("a", "apply", "s", "some", "d", "discard", "l", "list")
"""Answers that take no argument."""
_SHELL: Final = "/bin/sh"
_FAILED: Final = 125
_SIGNALLED: Final = 128


class DirectoryMissing(Error):
    message = "{0} {1}: there is no such directory: create it first"


class OfViewItself(Error):
    message = "{0} {1}: a view has its own {2}: name a directory outside of it"


def options() -> Options:
    """The command's options."""
    command = Options(bare_parser)
    add = command.add_argument
    add(
        "-D",
        "--directory",
        metavar="DIR",
        help="try the command in DIR alone, as the working directory; all other files are read-only",
    )
    add(
        "--on",
        metavar="DIR",
        action="append",
        default=[],
        help="try it on DIR alone, and on others if given again; all other files are read-only",
    )
    add(
        "--ignore",
        metavar="GLOB",
        action="append",
        default=[],
        help="never list nor apply paths that match: a name anywhere, or with a slash a whole path; ** is any number"
        " of directories",
    )
    add(
        "--no-network",
        action="store_true",
        help="give the command a network of its own, without a way out (default: the host's)",
    )
    add(
        "--hide",
        metavar="PATH",
        action="append",
        default=[],
        help="cover PATH, as ~/.ssh, by an empty read-only place",
    )
    add("--watch", action="store_true", help="print each change when it happens")
    command.add_exclusive(
        ("--yes", {"action": "store_true", "help": "apply the changes, and do not ask"}),
        ("--no", {"action": "store_true", "help": "discard the changes, and do not ask"}),
        (
            "--keep",
            {"metavar": "NAME", "help": "keep the changes as the view NAME, and do not ask"},
        ),
    )
    add(
        "--json",
        action="store_true",
        help="for programs: an object, with --yes, --no or --keep; the command's output goes to standard error",
    )
    command.add_argument("command", nargs=REMAINDER, metavar="COMMAND", help=SUPPRESS)
    return command


def bare_parser() -> Parser:
    """The parser without options."""
    from overlaykit.cli.arguments import Parser

    command = Parser(
        "try",
        "Run a command on the host's files, see what it changed, then apply or discard that.",
        epilog=_EPILOG,
    )
    command.usage = "overlaykit try [OPTION]... [--] COMMAND [ARG]..."
    return command


def parser() -> Parser:
    """The command's parser."""
    return options().parser()


def main(arguments: list[str]) -> int:
    args = options().parse(arguments)
    command: list[str] = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise Usage("try", "no command given")
    if args.json and not (args.yes or args.no or args.keep):
        raise Usage("try", "--json asks no question: add --yes, --no or --keep NAME")
    on = _directories(args)
    for pattern in args.ignore:
        if not pattern.strip("/"):
            raise Usage("try", f"--ignore {pattern!r}: that names no file: --no applies nothing")
    ignored = [areas.absolute(pattern) for pattern in args.ignore]
    if args.directory is not None:
        os.chdir(args.directory)
    with contextlib.ExitStack() as stack:
        question = None if args.yes or args.no or args.keep else Question.of_terminal(stack)
        # A signal that comes before the command runs would leave a view of which nothing says the name.
        with signals.held():
            tried = _Try(args, _define(args, command, on, ignored), question)
            status = tried.execute(command, new=True)
        decided = tried.decide(status)
        if args.json:
            tried.report(status)
        return decided


def _directories(args: Any) -> list[str]:
    """The directories to try, if some are named. Raises: DirectoryMissing."""
    named = [("--on", path) for path in args.on]
    if args.directory is not None:
        named.append(("-D", args.directory))
    for option, path in named:
        is_directory = False
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            is_directory = stat.S_ISDIR(os.stat(path).st_mode)
        if not is_directory:
            raise DirectoryMissing(option, path)
        own = areas.own_of_view(os.path.realpath(path))
        if own is not None:
            raise OfViewItself(option, path, own)
    return list(mountinfo.outermost(os.path.realpath(path) for _, path in named))


def _define(
    args: Any, command: Sequence[str], on: Sequence[str], ignored: Sequence[str]
) -> NamedView:
    """A named view, defined as for `overlaykit run`."""
    from overlaykit.cli import launch_options, run, stacks
    from overlaykit.views import named

    tried = on or areas.writable_by_default()
    arguments = ["--userns", "keep-id", "--share-home", "--keep-originals"]
    arguments += ["--network", "none" if args.no_network else "host"]
    for path in args.hide:
        arguments += ["--hide", os.path.abspath(path)]
    temporary = [path for path in areas.TEMPORARY if os.path.isdir(path)]
    if tried:
        for path in mountinfo.outermost([*tried, *temporary]):
            arguments += ["--writable", path]
    # Where no home may be shown, nothing but these is tried.
    label = json.dumps({"on": [*(tried or ("/",))], "ignore": [*ignored]})
    arguments += ["--", *command]
    values, _ = run.parse(arguments)
    view = named.create(
        args.keep or f"try-{os.urandom(3).hex()}",
        arguments,
        launch_options.environment("run", values),
        temporary=False,
        labels={stacks.TRIED: label},
    )
    try:
        _make_upper(view.upper, temporary if os.geteuid() != 0 else ())
    except BaseException:
        view.remove()
        raise
    return view


def _make_upper(upper: str, directories: Sequence[str]) -> None:
    """Make an upper, and in it directories of the user's own in place of those that everyone may write to.

    They belong to another user, whose id the view's user namespace does not have, so that the kernel refuses to write.
    """
    from overlaykit.changes.run import mark_beginning

    os.mkdir(upper, 0o700)
    os.chmod(upper, os.stat("/").st_mode & 0o7777)
    mark_beginning(upper)
    for directory in directories:
        path = upper
        for name in directory.strip("/").split("/"):
            path = os.path.join(path, name)
            with contextlib.suppress(FileExistsError):
                os.mkdir(path)
            os.chmod(path, os.stat("/" + os.path.relpath(path, upper)).st_mode & 0o7777)


class _Try:
    """One try: a view, the commands that run in it, and what becomes of it."""

    def __init__(self, args: Any, view: NamedView, question: Question | None) -> None:
        self._args = args
        self._view = view
        self._question = question
        self._signalled = 0
        self._interrupted = False
        """Whether a signal came while the command ran, which may have cut it off."""
        self._conflicts: set[str] = set()
        """The paths of those that were named last."""
        self._can_merge = False
        """Whether some of these are texts that can be merged."""
        self._report: dict[str, object] = {
            "result": "not started",
            "view": None,
            "changes": None,
            "elsewhere": 0,
            "outcome": None,
            "undo": (),
            "messages": [],
        }
        """For --json (docs/changes.md)."""

    def decide(self, status: int) -> int:
        """Decide what becomes of the changes of a command with this exit status. Returns: the status of this one."""
        self._wait_for_upper()
        if not self._is_there():  # it could not be started
            if self._signalled and status == _FAILED:
                name = signal.Signals(self._signalled).name
                self._say(f"{name} came before the command had started: nothing has changed")
                return _SIGNALLED + self._signalled
            return status
        try:
            return self._decide(status)
        except (Error, OSError) as error:
            if not self._is_there():
                raise
            self._say(_described(error))
            self._say_kept()
            return _FAILED

    def _decide(self, status: int) -> int:
        """Apply, discard, keep or ask. Returns: the exit status."""
        if self._args.yes and (self._interrupted or _is_cut_off(status)):
            self._say("the command was cut off: nothing is applied")
            self._show_and_keep()
            return status or _FAILED
        if self._args.yes:
            return status if self._apply_all() else status or _FAILED
        if self._args.no:
            with contextlib.suppress(OSError):  # what cannot be read is discarded, too
                self._show(self._summary())
            self._view.remove()
            self._report["result"] = "discarded"
            self._say("discarded")
        elif self._args.keep is not None or self._question is None or self._signalled:
            self._show_and_keep()
        else:
            try:
                self._ask(self._question)
            except (Kept, KeyboardInterrupt):
                print(file=sys.stderr)
                if self._is_there():
                    self._say_kept()
        return status

    # Commands

    def execute(self, command: Sequence[str], *, new: bool = False) -> int:
        """Run a command in the view. Returns: its exit status.

        It gets a terminal of its own in place of the user's, for job control, unless changes are printed while it runs.
        """
        terminal = (
            self._question is not None and not self._args.watch and all(map(os.isatty, range(3)))
        )
        with signals.held():
            child = os.fork()
            if child == 0:
                status = _FAILED
                try:
                    status = _start(
                        self._view,
                        command,
                        terminal=terminal,
                        new=new,
                        keeps_stdout=self._args.json,
                    )
                finally:
                    os._exit(status)
            ended = os.pidfd_open(child)
            try:
                with self._passing_on(child):
                    signals.let_arrive()
                    self._wait(ended)
            finally:
                os.close(ended)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if self._question is not None:
            self._question.take_terminal()
        return _SIGNALLED - code if code < 0 else code

    def _continue(self, command: Sequence[str]) -> None:
        """Run another command in the view."""
        self.execute(command)
        self._wait_for_upper()

    @contextlib.contextmanager
    def _passing_on(self, child: int) -> Iterator[None]:
        """Leave the terminal's signals to the command, and pass those on that would end this process."""

        def pass_on(number: int, _: object) -> None:
            self._interrupted = True
            if number in (signal.SIGTERM, signal.SIGHUP):
                self._signalled = number
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, number)

        numbers = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)
        with signals.handled(numbers, pass_on):
            yield

    def _wait(self, ended: int) -> None:
        if self._args.watch:
            from overlaykit.cli.watching import Watch

            watch = Watch(lambda: self._changes(flush=False))
            while not signals_allowed_wait(ended, watch.pause):
                watch.look()
            watch.look()
            watch.end()
            return
        signals_allowed_wait(ended, None)

    def _wait_for_upper(self) -> None:
        """Wait until the daemon, which may end after a launcher that was killed, lets go of the upper."""
        try:
            upper = os.open(self._view.upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:  # there is no view
            return
        try:
            fcntl.flock(upper, fcntl.LOCK_SH)
        except KeyboardInterrupt:
            self._interrupted = True
        finally:
            os.close(upper)

    def _is_there(self) -> bool:
        return self._view.kept.name(self._view.name) is not None

    # What has changed

    def _stack(self) -> Stack:
        from overlaykit.cli import stacks

        return stacks.find(self._view.name, disks=stacks.Disks(contextlib.ExitStack()))

    @contextlib.contextmanager
    def _compared(self) -> Iterator[tuple[Stack, Comparison]]:
        from overlaykit.changes.opening import open_directory
        from overlaykit.changes.read import Comparison

        stack = self._stack()
        assert stack.upper is not None
        upper, *lowers = map(open_directory, (stack.upper, *stack.layers))
        with Comparison.of_upper(upper, lowers) as comparison:
            yield stack, comparison

    def _shown(self, stack: Stack, comparison: Comparison) -> list[Change]:
        """The changes that may be applied."""
        ignored = areas.Ignored(stack.ignored)
        return [
            change
            for change in comparison.changes()
            if areas.is_tried(stack, change)
            and not areas.is_own(change)
            and ignored.match("/" + os.fsdecode(change.path)) is None
        ]

    def _summary(self) -> Summary:
        with progress.shown(), self._compared() as (stack, comparison):
            found = self._shown(stack, comparison)
            if self._args.json:
                self._report["changes"] = list(map(plain, found))
            return summary.summary(comparison, found)

    def _show(self, found: Summary, *, every: bool = False) -> None:
        if found.lines and not self._args.json:
            summary.show(found, every=every)
        with self._compared() as (stack, comparison):
            left = sum(
                not (areas.is_tried(stack, change) or areas.is_own(change))
                for change in comparison.changes()
            )
        self._report["elsewhere"] = left
        if left:
            self._say(f"{left} more in {' and '.join(areas.TEMPORARY)}, which are never applied")

    def _changes(self, *, flush: bool) -> dict[str, str]:
        """The kind of each changed path."""
        from overlaykit import client

        if flush and (running := self._stack().running) is not None:
            client.flush(running)
        with self._compared() as (stack, comparison):
            return {
                "/" + os.fsdecode(change.path): change.kind
                for change in self._shown(stack, comparison)
            }

    # What is said

    def _say(self, text: str) -> None:
        """Print a line on standard error, or put it into the report."""
        if not self._args.json:
            print_error(text)
            return
        messages = self._report["messages"]
        assert isinstance(messages, list)
        messages.append(one_line(text))

    def report(self, status: int) -> None:
        """Print what has become of a command with this exit status."""
        from overlaykit import codec
        from overlaykit.changes.applying import Outcome
        from overlaykit.cli.apply import from_root

        outcome = self._report["outcome"]
        if outcome is not None:
            assert isinstance(outcome, Outcome)
            self._report["outcome"] = from_root(outcome, every=True)
        try:
            print(codec.encode_pretty({"exit_status": status, **self._report}))
            sys.stdout.flush()
        except (StdoutUnwritable, ReaderGone) as error:
            discard_stdout()
            print_error(f"{self._report['result']}; {error}")

    # What becomes of it

    def _apply_all(self, choice: str = "") -> bool:
        """Apply all and remove the view, or keep it where that fails. Returns: whether it is applied."""
        found = self._summary()
        self._show(found)
        if self._apply((), choice):
            self._view.remove()
            return True
        self._say_kept()
        return False

    def _apply(self, paths: Sequence[str], choice: str = "", *, merges: bool = False) -> bool:
        """Apply some paths, or all; say what prevents it. Returns: whether they are applied."""
        self._conflicts = set()
        try:
            with signals.unwound(), progress.shown():
                outcome, directories = areas.apply(
                    self._stack(), paths=paths, choice=choice, merges=merges, is_last=True
                )
        except KeyboardInterrupt:
            self._say("interrupted: nothing is applied")
            return False
        except (Error, OSError) as error:
            self._say(_described(error))
            return False
        self._report["outcome"] = outcome
        self._name_conflicts(outcome)
        if outcome.conflicts:
            self._say("nothing is applied: the host has other files there than the command found")
            return False
        for one in outcome.notable:
            self._say(f"{one.what}: /{one.path}")
        for what, conflicts in (
            ("kept", outcome.skipped),
            ("merged", outcome.merged),
            ("overwritten", outcome.overwritten),
        ):
            for conflict in conflicts:
                self._say(f"{what}: /{conflict.path}: {conflict.reason}")
        self._report["result"] = "applied" if outcome.written else "unchanged"
        self._report["undo"] = directories
        self._say("applied" if outcome.written else "nothing to apply")
        for directory in directories:
            self._say(f"'overlaykit apply --undo {directory}' takes it back, --drop gives that up")
        return True

    def _show_and_keep(self) -> None:
        found = self._summary()
        if not found.lines and self._args.keep is None:
            print_error("no changes")
            self._view.remove()
            return
        self._show(found)
        self._say_kept()

    def _say_kept(self) -> None:
        name = self._view.name
        self._report["result"] = "kept"
        self._report["view"] = name
        self._say(
            f"kept as {name}: 'overlaykit diff {name}' shows it, 'overlaykit apply {name}' applies it, "
            f"'overlaykit start -a {name}' runs it again, 'overlaykit rm {name}' discards it"
        )

    def _ask(self, question: Question) -> None:
        """Ask until it is decided. Raises: Kept."""
        with question.interruptible():
            found = self._summary()
            every = False
            while True:
                if not found.lines:
                    print_error("no changes")
                    self._view.remove()
                    return
                self._show(found, every=every)
                every = False
                answer, _, rest = question.ask().partition(" ")
                if rest and answer in _WHOLE:  # it means less than all
                    question.help()
                    continue
                if answer in ("a", "apply"):
                    if self._apply_or_resolve(question, ()):
                        self._view.remove()
                        return
                elif answer in ("s", "some"):
                    paths = question.choose(found)
                    if paths:
                        self._apply_or_resolve(question, paths)
                elif answer in ("d", "discard"):
                    self._view.remove()
                    print_error("discarded")
                    return
                elif answer in ("k", "keep"):
                    if not rest or self._rename(rest.strip()):
                        self._say_kept()
                        return
                elif answer in ("p", "patch", "diff"):
                    self._show_patch(rest.strip())
                elif answer in ("l", "list"):
                    every = True
                elif answer in ("sh", "shell"):
                    self._continue([os.environ.get("SHELL") or _SHELL])
                elif answer in ("r", "run") and rest.strip():
                    self._continue([_SHELL, "-c", rest.strip()])
                else:
                    question.help()
                    continue
                found = self._summary()

    def _apply_or_resolve(self, question: Question, paths: Sequence[str]) -> bool:
        """Apply, and offer the choices where conflicts prevent it. Returns: whether the changes are applied."""
        if self._apply(paths):
            return True
        named = self._conflicts
        merges = False
        while named:
            answer = question.ask_conflicts(can_merge=self._can_merge)
            if answer in ("m", "merge") and self._can_merge:
                merges = True
                if self._apply(paths, merges=True):
                    return True
                named = self._conflicts
                continue
            choice = {"t": "theirs", "theirs": "theirs", "o": "ours", "ours": "ours"}.get(answer)
            if choice is None:
                return False
            try:
                now = self._find_conflicts(paths, merges=merges)
            except (Error, OSError) as error:
                print_error(_described(error))
                return False
            if now <= named:
                return self._apply(paths, choice, merges=merges)
            named = now
        return False

    def _find_conflicts(self, paths: Sequence[str], *, merges: bool) -> set[str]:
        """Find the conflicts again, and name them: the host may have changed while a question stood."""
        outcome, _ = areas.apply(self._stack(), paths=paths, merges=merges, dry_run=True)
        self._name_conflicts(outcome)
        return self._conflicts

    def _name_conflicts(self, outcome: Outcome) -> None:
        self._conflicts = {conflict.path for conflict in outcome.conflicts}
        self._can_merge = any(conflict.can_merge for conflict in outcome.conflicts)
        for conflict in outcome.conflicts:
            self._say(f"/{conflict.path}: {conflict.reason}")

    def _rename(self, name: str) -> bool:
        try:
            self._view.rename(name)
        except (Error, OSError) as error:
            print_error(_described(error))
            return False
        return True

    def _show_patch(self, path: str) -> None:
        from overlaykit.cli import diff, main

        main.status_of(lambda: diff.main(["--patch", self._view.name, *([path] if path else [])]))
        sys.stdout.flush()


def _is_cut_off(status: int) -> bool:
    """Whether a signal ended the command, or overlaykit failed: files may be half written."""
    return status == _FAILED or _SIGNALLED < status < _SIGNALLED + signal.NSIG


def _described(error: Error | OSError) -> str:
    if isinstance(error, Error) or error.filename is None:
        return str(error) if isinstance(error, Error) else error.strerror or str(error)
    return one_line(f"{os.fsdecode(error.filename)}: {error.strerror}")


def signals_allowed_wait(ended: int, seconds: float | None) -> bool:
    """Wait until a process has ended, or for a time, while held signals arrive. Returns: whether it has ended."""
    from overlaykit.namespace.descriptors import poll_readable

    with signals.pending_readable() as signalled:
        while True:
            timeout = {} if seconds is None else {"milliseconds": round(seconds * 1000)}
            ready = poll_readable([ended, signalled], **timeout)
            if ended in ready:
                return True
            if not ready:
                return False
            signals.let_arrive()


def _start(
    view: NamedView, command: Sequence[str], *, terminal: bool, new: bool, keeps_stdout: bool
) -> int:
    """Run a command in the view, in place of this process. `keeps_stdout`: it writes to standard error instead."""
    from overlaykit.cli import launch_options, main, run, start
    from overlaykit.namespace import descriptors

    def begin() -> int:
        if keeps_stdout:
            os.dup2(2, 1)
        definition = view.definition()
        values, _ = run.parse(list(definition.arguments))
        env = tuple(map(os.fsencode, definition.environment))
        values.tty = values.interactive = terminal
        passed = launch_options.descriptors(values, descriptors.inherited())
        return start.start(view, values, [*command], env, passed, detach=False, new=new)

    signals.let_arrive()
    return main.status_of(begin)
