"""Commands and daemons as forks of a test's process, which has loaded what they need.

To start an interpreter and to load takes two thirds of the processor time of most commands, and of a view's start. A
fork runs the same function as the installed program, with streams, descriptors, an environment and signal handlers like
those of a fresh interpreter. Tests marked `as_installed` start the installed programs; so do all with
OVERLAYKIT_TEST_INSTALLED=1 (`make installed`), in `make matrix` and in `make proofs`.
"""

from __future__ import annotations

import gc
import importlib
import io
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, TextIO

from overlaykit import _native
from overlaykit.cli import main
from overlaykit.cli.commands import COMMANDS
from overlaykit.fuse import daemon_process, daemon_start
from overlaykit.namespace import environment as namespace_environment
from overlaykit.overlay import faults

IS_USUAL = not any(
    os.environ.get(f"OVERLAYKIT_{name}") for name in ("PROOFS", "TEST_INSTALLED", "TEST_MATRIX")
)
"""Whether tests fork, unless they are marked."""

_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_FAULT = "OVERLAYKIT_FAULT"
_OF_LOADING = ("LD_", "MALLOC_", "PYTHON")
_FIXED_VARIABLES = (*_OF_LOADING, "LANG", "LC_", _FAULT)
"""Variables that act when an interpreter or a module is loaded."""
_EXECUTES = frozenset({"close_fds", "executable", "group", "shell", "user"})
"""Arguments of subprocess.Popen that a fork does not carry out."""
_PR_SET_DUMPABLE = 4
_STREAMS = (
    ("stdin", "r", "surrogateescape"),
    ("stdout", "w", "surrogateescape"),
    ("stderr", "w", "backslashreplace"),
)
"""Of an interpreter in the locale C.UTF-8."""
_LAST_DESCRIPTOR = (1 << 31) - 1
_START_OF_ARGUMENTS, _END_OF_ARGUMENTS = 48, 49
"""Fields of proc_pid_stat(5)."""


_execute = daemon_start.execute

_loaded_with: dict[str, str] | None = None
"""The variables with which this process has loaded what a daemon needs; None: it has not."""


def preload() -> None:
    """Load what commands and daemons need, once for all tests of this process."""
    global _loaded_with
    for name in {*COMMANDS, "mount_helper"} - {"bench"}:
        importlib.import_module(f"overlaykit.cli.{name}")
    if "pyfuse3" not in sys.modules:  # libfuse cannot be interposed any more
        daemon_process.load()
        _loaded_with = _variables(os.environ, _OF_LOADING)


def fork_daemons() -> None:
    """Start daemons as forks from now on, in this process, which is a test's, and in its forks."""
    daemon_start.execute = _run_module


def command_options(arguments: list[str], options: dict[str, Any]) -> dict[str, Any]:
    """Options of subprocess.Popen with which a child runs the command `arguments` without executing it.

    `options`: those with which it would be executed. They are the result if a fork would not do the same.
    """
    environment = options.get("env")
    if _EXECUTES & options.keys() or (
        environment is not None
        and _variables(environment, _FIXED_VARIABLES) != _variables(os.environ, _FIXED_VARIABLES)
    ):
        return options
    prepare: Callable[[], object] = options.get("preexec_fn", lambda: None)

    def run() -> None:
        prepare()
        _run_command(arguments, environment, options.get("pass_fds", ()))

    return {**options, "preexec_fn": run}


def _run_command(
    arguments: list[str], environment: Mapping[str, str] | None, kept: Iterable[int]
) -> NoReturn:
    status = 1
    try:
        _be_like_a_fresh_interpreter(kept, [sys.executable, *arguments])
        if environment is not None:
            os.environ.clear()
            os.environ.update(environment)
        namespace_environment.initial = _initial_environment
        sys.argv = arguments
        status = _status_of(main.main)
    finally:
        os._exit(status)


def _run_module(module: str, *descriptors: int) -> NoReturn:
    """In place of `daemon_start.execute`: run the daemon here. The fork server is executed: its tests are of it."""
    if module != daemon_process.__name__ or _variables(os.environ, _OF_LOADING) != _loaded_with:
        _execute(module, *descriptors)
    status = 1
    try:
        numbers = list(map(str, descriptors))
        _native.prctl(_PR_SET_DUMPABLE, 1)  # execve(2) does that
        _be_like_a_fresh_interpreter(descriptors, [module, *numbers])
        sys.argv = [module, *numbers]
        daemon_process.load = lambda: None
        arm(os.environ.get(_FAULT, ""))
        status = _status_of(daemon_process.main)
    finally:
        os._exit(status)


def arm(fault: str) -> None:
    """Have the modules that are loaded reach a fault."""
    unarmed, armed = faults.reach, faults._armed(fault)
    for name, module in list(sys.modules.items()):
        if name.startswith("overlaykit.") and vars(module).get("reach") is unarmed:
            vars(module)["reach"] = armed


def _initial_environment() -> tuple[bytes, ...]:
    """The environment as execve(2) would have passed it."""
    return tuple(b"%b=%b" % variable for variable in os.environb.items())


def _status_of(body: Callable[[], object]) -> int:
    """The exit status of an interpreter in which `body` is the program."""
    status = 0
    try:
        body()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        status = 1
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    return status


def _be_like_a_fresh_interpreter(kept: Iterable[int], command_line: list[str]) -> None:
    gc.freeze()  # garbage of the test's process is not this one's
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if number in _IGNORED_BY_PYTHON:
            signal.signal(number, signal.SIG_IGN)
        elif number != signal.SIGINT and callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    previous = 2
    for descriptor in (*sorted(number for number in kept if number > 2), _LAST_DESCRIPTOR):
        if previous + 1 < descriptor:
            _native.close_range(previous + 1, descriptor - 1, 0)
        previous = descriptor
    for standard, (name, mode, errors) in enumerate(_STREAMS):
        stream = _stream(standard, mode, errors)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.excepthook, sys.unraisablehook = sys.__excepthook__, sys.__unraisablehook__
    warnings.resetwarnings()
    warnings.simplefilter("ignore")
    logging.getLogger().handlers.clear()
    sys.meta_path[:] = [finder for finder in sys.meta_path if "pytest" not in str(finder)]
    _show(b"\0".join(map(os.fsencode, command_line)))


def _stream(descriptor: int, mode: str, errors: str) -> TextIO | None:
    """The standard stream of a fresh interpreter; None where the descriptor is closed."""
    try:
        file = open(descriptor, f"{mode}b", closefd=False)  # noqa: SIM115
    except OSError:
        return None
    at_once = descriptor == 2 or file.isatty()
    return io.TextIOWrapper(file, encoding="utf-8", errors=errors, line_buffering=at_once)


def _variables(environment: Mapping[str, str], beginnings: tuple[str, ...]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(beginnings)}


def _show(command_line: bytes) -> None:
    """Have /proc/self/cmdline show a command line, as much of it as there is room for."""
    with open("/proc/self/stat", "rb") as stat:
        fields = stat.read().rpartition(b")")[2].split()
    begin, end = (int(fields[number - 3]) for number in (_START_OF_ARGUMENTS, _END_OF_ARGUMENTS))
    room = end - begin - 1
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        memory.seek(begin)
        memory.write(command_line[:room].ljust(room, b"\0"))
