"""Two Pythons at one path: two web servers, each in a view where /usr/bin/python is another Python.

    make demo
    .venv/bin/python examples/two_pythons.py [--offline]

Both servers listen on port 80 of their view. The script fetches both pages from the host, checks that the views see
nothing of each other, ends them, and prints what each one saw. It keeps the layer with Python 2.7 for the next run.
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import http.client
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from rich.console import Console
from rich.table import Table

from overlaykit import View
from overlaykit.errors import Error
from overlaykit.layers import Store

PYTHON = "/usr/bin/python"
SITE = "/srv/overlaykit-demo"
"""The directory that the servers serve. Only the views have it."""

LAYER = "demo-python2.7"
SOURCE = "deb:python2.7@bullseye"  # the last Debian with this package

# For Python 2 and Python 3 alike. The file named by the argument exists in one view only.
MAKE_SITE = """\
import os, platform, sys
processes = sum(name.isdigit() for name in os.listdir("/proc"))
with open("index.html", "w") as page:
    page.write("<p>Python %s sees %d processes.</p>" % (platform.python_version(), processes))
with open(sys.argv[1], "w") as own:
    own.write("Only one view has this file.")
"""
SERVE = f'{PYTHON} -c "$1" "$2" && exec {PYTHON} -m "$3" 80'
PAGE = re.compile(r"Python (\S+) sees (\d+) processes\.")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Failed(Error):
    """A line for the user."""


@dataclass(frozen=True)
class Python:
    """An interpreter for a view's /usr/bin/python."""

    name: str
    release: str
    """The beginning of its version."""
    target: str
    """The target of the symbolic link /usr/bin/python."""
    server: str
    """The web server's module, for `python -m`."""
    layers: tuple[str, ...]
    """The layers with its files, top first."""
    note: str


@dataclass(frozen=True)
class Server:
    """A web server in a view."""

    python: Python
    view: View
    own_file: str
    """The name of a file in SITE that only this view has."""

    @property
    def address(self) -> tuple[str, int]:
        """Where the host reaches port 80 of the view."""
        assert self.view.processes is not None
        port = self.view.processes.ports[0]
        return port.address, port.host

    def get(self, name: str) -> tuple[int, str]:
        """Fetch a file: the HTTP status and the text."""
        with contextlib.closing(http.client.HTTPConnection(*self.address)) as connection:
            connection.request("GET", f"/{name}")
            response = connection.getresponse()
            return response.status, response.read().decode()

    def real_file(self) -> str:
        """The host's file behind /usr/bin/python, symbolic links followed."""
        found = self.view.explain(PYTHON)
        while found.target is not None:
            found = self.view.explain(os.path.join(os.path.dirname(found.path), found.target))
        return found.hits[0].path


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--offline", action="store_true", help="use a Python 2.7 of this machine")
    offline = parser.parse_args().offline
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup(1)
            signal.signal(number, stop)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        run(offline=offline)
    except (Error, OSError) as error:
        sys.exit(f"two_pythons: {error}")


def stop(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGNALS end the program here, where nothing is half made."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def run(*, offline: bool) -> None:
    with interruptible():
        pythons = (python2(offline=offline), python3())
    before = target_on_host()
    with contextlib.ExitStack() as views:
        servers = []
        for python in pythons:
            say(f"Starting `python -m {python.server} 80` in a view of its own ...")
            servers.append(views.enter_context(started(python)))
        say("Fetching both pages from the host, through the published ports ...")
        with interruptible():
            table = compare(servers)
        say("Ending both views ...")
    check(target_on_host() == before, f"{PYTHON} of the host changed")
    check(not os.path.lexists(SITE), f"{SITE} is on the host")
    running = overlaykit("ps")
    check(all(server.view.name not in running for server in servers), "a view still runs")

    Console(highlight=False, markup=False, width=100).print(table)
    for python in pythons:
        print(python.note)
    print("Both views have ended. Of their processes, mounts and files nothing is left.")


def python2(*, offline: bool) -> Python:
    """Python 2.7: the layer of an earlier run, or a new one, or an interpreter of this machine."""
    layers: tuple[str, ...] = (LAYER, "host")
    target = "python2.7"
    note = f"Python 2.7 is the layer {LAYER}; 'overlaykit layer rm {LAYER}' removes it."
    store = Store()
    if not any(layer.name == LAYER for layer in store.list()):
        try:
            if offline:
                raise Failed("--offline was given")
            say(f"Fetching python2.7 of Debian bullseye into the layer {LAYER} ...")
            store.add(LAYER, SOURCE)
        except Error as error:
            layers = ("host",)
            target = installed_python2(str(error))
            note = f"Python 2.7 was not fetched ({error}): it is the machine's own {target}."
    return Python("python2", "2.7.", target, "SimpleHTTPServer", layers, note)


def installed_python2(reason: str) -> str:
    """The real path of a Python 2.7 on PATH or of pyenv. A pyenv shim answers with the interpreter behind it."""
    script = "import SimpleHTTPServer, sys; sys.stdout.write(sys.executable)"
    for directory in (
        *os.get_exec_path(),
        *glob.glob(os.path.expanduser("~/.pyenv/versions/*/bin")),
    ):
        candidate = os.path.join(directory, "python2.7")
        if os.access(candidate, os.X_OK):
            done = subprocess.run(
                [candidate, "-c", script], check=False, capture_output=True, text=True
            )
            if done.returncode == 0:
                return os.path.realpath(done.stdout)
    raise Failed(
        f"no Python 2.7 ({reason}), and this machine has none either: put a python2.7 on PATH"
    )


def python3() -> Python:
    """The host's Python 3, or the one that runs this script."""
    system = os.path.exists("/usr/bin/python3")
    target = "python3" if system else os.path.realpath(sys.executable)
    note = "Python 3 is the machine's own."
    return Python("python3", "3.", target, "http.server", ("host",), note)


@contextlib.contextmanager
def started(python: Python) -> Iterator[Server]:
    """A web server in a view of its own. It listens."""
    name = f"demo-{python.name}-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        # The top layer: the link /usr/bin/python, and an empty directory for the site.
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="overlaykit-demo-"))
        top = os.path.join(directory, "layer")
        for path in (os.path.dirname(PYTHON), SITE):
            os.makedirs(top + path)
        os.symlink(python.target, top + PYTHON)

        view = View([top, *python.layers], name=name, ports=["127.0.0.1:0:80"])
        server = Server(python, stack.enter_context(view), own_file=f"written-by-{name}")
        reader, writer = os.pipe()
        output = stack.enter_context(open(reader, encoding="utf-8", errors="replace"))
        with open(writer, "wb"):
            view.launch(
                ["/bin/sh", "-c", SERVE, "sh", MAKE_SITE, server.own_file, python.server],
                env={"PATH": "/usr/bin:/bin", "PYTHONUNBUFFERED": "1"},
                cwd=SITE,
                redirected={1: writer, 2: writer},
            )
        with interruptible():
            line = "nothing"
            for line in output:
                if line.startswith("Serving HTTP on"):
                    break
            else:
                raise Failed(f"the {python.name} view's server ended: {line.strip()}")
        yield server


def compare(servers: list[Server]) -> Table:
    """What each view sees, in a column beside the host's. Raises Failed for what should be otherwise."""
    table = Table(show_lines=True)
    for heading in ("", *(f"{server.python.name} view" for server in servers), "host"):
        table.add_column(heading, overflow="fold", ratio=1 if heading else None)
    processes = sum(name.isdecimal() for name in os.listdir("/proc"))
    versions, counts = [], []
    for server in servers:
        status, text = server.get("")
        match = PAGE.search(text)
        if match is None:
            raise Failed(f"the {server.python.name} view answered {status} {text[:60]!r}")
        versions.append(f"Python {match[1]}")
        counts.append(match[2])
        check(match[1].startswith(server.python.release), f"{PYTHON} is {match[1]}")
        check(int(match[2]) < processes, f"the {server.python.name} view sees the host's processes")
    table.add_row(PYTHON, *versions, target_on_host() or "absent")
    table.add_row("the file behind it", *(server.real_file() for server in servers), "")
    ports = ["{}:{} on the host".format(*server.address) for server in servers]
    table.add_row("port 80 of the view", *ports, "")
    table.add_row("processes seen", *counts, str(processes))
    for writer in servers:
        seen = [reader.get(writer.own_file)[0] == 200 for reader in servers]
        on_host = os.path.lexists(os.path.join(SITE, writer.own_file))
        expected = [reader is writer for reader in servers]
        check([*seen, on_host] == [*expected, False], f"{writer.own_file} is in the wrong view")
        cells = ["there" if there else "absent" for there in (*seen, on_host)]
        table.add_row(f"a file written in the {writer.python.name} view", *cells)
    return table


def target_on_host() -> str | None:
    """The file behind the host's /usr/bin/python, if it has one."""
    return os.path.realpath(PYTHON) if os.path.lexists(PYTHON) else None


def overlaykit(*arguments: str) -> str:
    """Run a command of overlaykit: its output."""
    command = [sys.executable, "-m", "overlaykit", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def check(as_promised: bool, otherwise: str) -> None:
    if not as_promised:
        raise Failed(f"this is not as promised: {otherwise}")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
