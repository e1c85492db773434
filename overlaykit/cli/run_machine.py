"""`overlaykit run --vm`: a command in a machine, on the layers of a view."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Final

from overlaykit import namespace
from overlaykit.cli import launch_options, output, rawmode, run, umask
from overlaykit.cli.options import Usage
from overlaykit.views import machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from overlaykit.namespace.environment import Environment

_TAKEN: Final = frozenset(
    {
        *("vm", "disk", "disk_file", "kernel", "memory", "cpus", "layers", "driver", "ports"),
        *("hide", "share_home"),
        *("env", "env_files", "unset", "clearenv"),
        *("user", "groups", "cwd", "hostname", "interactive", "tty", "command", "rm", "args_from"),
        *("modified", "entrypoint", "file"),
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


def launch(args: Any, command: list[str], env: Environment) -> int:
    """Run the command. Returns: its exit status. Requires: the main thread, and no other."""
    check(args)
    given: dict[str, Any] = {}
    if args.memory is not None:
        given["memory"] = namespace.parse_size("--memory", args.memory)
    if args.cpus is not None:
        given["processors"] = args.cpus
    if args.disk is not None:
        given["disk"] = namespace.parse_size("--disk", args.disk)
    hardware = machine.Machine(disk_file=args.disk_file, kernel=args.kernel, **given)
    terminal = launch_options.terminal(args)
    with contextlib.ExitStack() as stack:
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
            cwd=args.cwd,
            umask=_umask(),
            identity=launch_options.identity(args).get("identity"),
            terminal=terminal,
            size=rawmode.size,
            note=output.print_error,
            on_ready=lambda resize: _ready(terminal, stack, resize),
        )


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
