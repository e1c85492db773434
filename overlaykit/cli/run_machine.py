"""`overlaykit run --vm`: a command in a machine, on the layers of a view."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Final

from overlaykit import namespace, standard
from overlaykit.cli import launch_options, output, rawmode, run, umask
from overlaykit.cli.options import Usage
from overlaykit.errors import Error
from overlaykit.views import machine
from overlaykit.views.recording import LogWriter, record_status

if TYPE_CHECKING:
    from collections.abc import Callable

    from overlaykit.namespace.environment import Environment
    from overlaykit.views.lasting import Lasting
    from overlaykit.views.named import NamedView
    from overlaykit.views.registry import RunningView

_DISK: Final = "disk"
"""The file in the directory of a named machine that keeps what it writes."""
_TAKEN: Final = frozenset(
    {
        *("vm", "disk", "disk_file", "kernel", "memory", "cpus", "layers", "driver", "ports"),
        *("hide", "share_home"),
        *("env", "env_files", "unset", "clearenv"),
        *("user", "groups", "cwd", "hostname", "interactive", "tty", "command", "rm", "args_from"),
        *("modified", "entrypoint", "file", "detach", "name", "labels", "restart"),
    }
)
"""The options, by their names among the values, that mean the same with --vm."""


def check(args: Any) -> None:
    """Raises Usage for an option that a machine does not take."""
    defaults = run.options().parse(["true"])
    for flags, keywords in run.options().declared():
        name = keywords.get("dest") or flags[-1].lstrip("-").replace("-", "_")
        if name not in _TAKEN and getattr(args, name) != getattr(defaults, name):
            flag = next(one for one in flags if one.startswith("--"))
            raise Usage("run", f"{flag}: not with --vm; leave one of them out")
    if args.detach and args.interactive:
        raise Usage("run", "-i: not with --vm and -d; leave one of them out")


def launch(
    args: Any,
    command: list[str],
    env: Environment,
    *,
    name: str | None = None,
    disk_file: str | None = None,
    lasting: Lasting | None = None,
    log: LogWriter | None = None,
    note: Callable[[str], None] = output.print_error,
    on_start: Callable[[], None] = lambda: None,
) -> int:
    """Run the command. Returns: its exit status. Requires: the main thread, and no other.

    `disk_file`: in place of a disk that is dropped; `on_start` is called once the command runs; the others: as in
    `machine.run`.
    """
    check(args)
    given: dict[str, Any] = {}
    if args.memory is not None:
        given["memory"] = namespace.parse_size("--memory", args.memory)
    if args.cpus is not None:
        given["processors"] = args.cpus
    if args.disk is not None:
        given["disk"] = namespace.parse_size("--disk", args.disk)
    hardware = machine.Machine(disk_file=args.disk_file or disk_file, kernel=args.kernel, **given)
    terminal = launch_options.terminal(args)
    with contextlib.ExitStack() as stack:

        def ready(resize: Callable[[], None]) -> None:
            on_start()
            if log is None:
                _ready(terminal, stack, resize)

        return machine.run(
            hardware,
            command,
            layers=args.layers or ("host",),
            driver=args.driver,
            ports=launch_options.network(args)["ports"],
            hidden=args.hide,
            share_home=args.share_home,
            hostname=args.hostname,
            env=env,
            terminal=terminal,
            **_surroundings(args),
            note=note,
            on_ready=ready,
            name=name,
            lasting=lasting,
            log=log,
            **launch_options.labels(args),
        )


def _surroundings(args: Any) -> dict[str, Any]:
    """What a command has from its caller, as arguments of `machine.run` and of `machine_joining.run`."""
    return {
        "cwd": args.cwd,
        "umask": _umask(),
        "identity": launch_options.identity(args).get("identity"),
        "size": rawmode.size,
    }


def launch_in(found: RunningView, args: Any, command: list[str], env: Environment) -> int:
    """Run another command in a machine that runs (`exec`). Returns: its exit status."""
    from overlaykit.views import machine_joining

    if args.ulimits:
        raise Usage("exec", "--ulimit: not in a machine; leave it out")
    terminal = launch_options.terminal(args)
    with contextlib.ExitStack() as stack:
        return machine_joining.run(
            found,
            command,
            env=env,
            terminal=terminal,
            **_surroundings(args),
            note=output.print_error,
            on_ready=lambda resize: _ready(terminal, stack, resize),
        )


def disk_of(view: NamedView, args: Any, directory: str) -> str:
    """The path of the disk of a named machine; `directory`: that to which its paths refer."""
    return os.path.join(view.path if args.disk_file is None else directory, args.disk_file or _DISK)


def launch_named(
    view: NamedView,
    args: Any,
    command: list[str],
    env: Environment,
    lasting: Lasting,
    on_start: Callable[[], None],
) -> int:
    """Run the command of a named machine, and keep what `lasting` says. Returns: its exit status.

    `on_start` is called once the command runs.
    """
    log = None if lasting.log is None else LogWriter(lasting.log, at_once=args.tty)
    started = False

    def note(line: str) -> None:
        if log is None or not started:
            output.print_error(line)
        else:
            log.write("stderr", f"overlaykit: {output.one_line(line)}\n".encode())

    def start() -> None:
        nonlocal started
        started = True
        on_start()
        if lasting.announce is not None:
            standard.empty(2)
            os.write(lasting.announce, b"\n")
            os.close(lasting.announce)

    disk = None if lasting.remove is not None else os.path.join(view.path, _DISK)
    try:
        status = launch(
            args,
            command,
            env,
            name=view.name,
            disk_file=disk,
            lasting=lasting,
            log=log,
            note=note,
            on_start=start,
        )
    except (Error, OSError) as error:
        if not started:
            raise
        note(str(error))
        status = error.exit_code if isinstance(error, Error) else Error.exit_code
    if log is not None:
        log.finish()
    if lasting.status is not None:
        record_status(lasting.status, status)
    if lasting.remove is not None:
        os.close(lasting.remove)
        with contextlib.suppress(Error):
            view.remove()
    return status


def _umask() -> int:
    found = umask.of_caller()
    if found is None:
        found = os.umask(0)
        os.umask(found)
    return found


def _ready(
    terminal: namespace.Terminal | None, stack: contextlib.ExitStack, resize: Callable[[], None]
) -> None:
    """Have the caller's terminal in raw mode, once keys reach the command."""
    if terminal is not None and terminal.interactive and os.isatty(0):
        stack.enter_context(rawmode.raw(resize))
