"""Run a command of this checkout on other kernels, one after another, or without one the suites (suites.py).

usage: python -m tests.kernels [--kernel VERSION]... [--seconds N] [--logs DIRECTORY] [-- COMMAND [ARGUMENT]...]
       python -m tests.kernels [--kernel VERSION]... --fetch

Each guest's end is one line on standard error. The exit status is that of the first command that fails; 125 if a guest
has no result, 124 after its deadline. `--fetch` fetches the packages of the kernels and starts no guest.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import Final

from overlaykit.errors import Error
from overlaykit.machine.boot import Threads

from . import rig, suites

_PASSED_ON: Final = ("OVERLAYKIT_", "HYPOTHESIS_", "PYTEST_")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kernels")
    parser.add_argument(
        "--kernel", action="append", help=f"{' or '.join(rig.SUITES)} (default: all)"
    )
    parser.add_argument("--seconds", type=float, default=3600, help="deadline of each guest (3600)")
    parser.add_argument(
        "--logs", default=os.path.join(rig.ROOT, "build"), help="where the messages go (build/)"
    )
    parser.add_argument("--fetch", action="store_true", help="fetch the kernels only")
    parser.add_argument("command", nargs="*")
    arguments = parser.parse_args()
    if arguments.fetch and arguments.command:
        parser.error("--fetch runs no command")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # QEMU and its disk go
    first = 0
    for version in arguments.kernel or rig.SUITES:
        try:
            status = _status(version, arguments)
        except (Error, OSError) as error:
            print(f"kernel {version}: {error}", file=sys.stderr)
            status = error.exit_code if isinstance(error, Error) else Error.exit_code
        first = first or status
    return first


def _status(version: str, arguments: argparse.Namespace) -> int:
    if arguments.fetch:
        rig.kernel(version)
        return 0
    if arguments.command:
        return _run(version, arguments.command, "multi", arguments)
    status = 0
    for suite in suites.SUITES:
        print(f"kernel {version}: {suite}", file=sys.stderr)
        command, threads = suites.command(suite), suites.threads(suite)
        status = _run(version, command, threads, arguments) or status
    return status


def _run(version: str, command: list[str], threads: Threads, arguments: argparse.Namespace) -> int:
    os.makedirs(arguments.logs, exist_ok=True)
    log = os.path.join(arguments.logs, f"kernel-{version}.log")
    passed_on = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
    variables = suites.variables() | passed_on
    end = rig.run(
        version,
        *command,
        output=_write,
        log=log,
        seconds=arguments.seconds,
        environment=variables,
        threads=threads,
    )
    full = "; the guest's disk is full" if end.disk_full else ""
    print(
        f"kernel {version}: exit status {end.status}{full}; its messages are in {log}",
        file=sys.stderr,
    )
    return end.status


def _write(output: bytes) -> None:
    sys.stdout.buffer.write(output)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
