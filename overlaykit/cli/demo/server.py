"""One web server in a view of its own, and what can be learned of it from outside."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import select
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from overlaykit.errors import Error
from overlaykit.namespace import Bind, Port
from overlaykit.views import View

if TYPE_CHECKING:
    from overlaykit.cli.demo.pythons import Python

SITE: Final = "/srv/overlaykit-demo"
"""The directory that is served: only views have it."""

_LOG: Final = "/srv/overlaykit-demo.log"
_LISTENING: Final = b"Serving HTTP on"

# What the interpreter says of itself and its surroundings, for Python 2 and 3 alike.
_MAKE_SITE: Final = """\
import os, platform, sys
seen = sum(name.isdigit() for name in os.listdir("/proc"))
with open("index.html", "w") as page:
    page.write("<!doctype html><title>overlaykit demo</title>\\n")
    page.write("<p>Python %s sees %d processes.</p>\\n" % (platform.python_version(), seen))
with open(sys.argv[1], "w") as own:
    own.write("Only one view has this file.\\n")
"""
_PAGE: Final = re.compile(r"Python (\S+) sees (\d+) processes\.")
_SERVE: Final = 'exec >"$1" 2>&1; /usr/bin/python -c "$2" "$3" && exec /usr/bin/python -m "$4" 80'
_ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONUNBUFFERED": "1",  # that it serves is to be heard when it does
}


class ServerEnded(Error):
    message = "the web server of the {0} view ended before it served; its last words: {1}"

    exit_code = 1


class PageWrong(Error):
    message = (
        "the web server of the {0} view answered with something else than the demo's page: {1}"
    )

    exit_code = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What the page says."""

    version: str
    """Of the Python that answers, by its own words."""
    processes: int
    """How many it sees."""


class Server:
    """A web server on port 80 of a view; a context manager, whose end is the view's.

    Attributes: `python`, what serves; `name`, the view's; `port`, where the host answers for it; `own_file`, the name
    of a file of `SITE` that was written in this view only.
    """

    def __init__(self, python: Python, directory: str) -> None:
        """Mount and start it. `directory` is an empty one for its layer, left to the caller to remove."""
        self.python: Final = python
        self.name: Final = f"demo-{python.name}-{os.getpid()}"
        self.own_file: Final = f"written-by-{self.name}"
        with contextlib.ExitStack() as undo:
            log = os.path.join(directory, "log")
            os.mkfifo(log)
            self._log = os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            undo.callback(os.close, self._log)
            self._view = undo.enter_context(
                View(
                    (_layer(directory, python.target), *python.layers),
                    name=self.name,
                    binds=[Bind(source=log, target=_LOG)],
                    ports=[Port(host=0, view=80)],
                )
            )
            self._processes = self._view.launch(
                ["/bin/sh", "-c", _SERVE, "sh", _LOG, _MAKE_SITE, self.own_file, python.server],
                env=_ENVIRONMENT,
                cwd=SITE,
            )
            self.port: Final = self._processes.ports[0]
            self._undo = undo.pop_all()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def await_listening(self) -> None:
        """Wait until it serves. Raises ServerEnded."""
        poll = select.poll()
        poll.register(self._log, select.POLLIN)
        poll.register(self._processes.init_fd, select.POLLIN)
        told = b""
        while _LISTENING not in told:
            ready = [descriptor for descriptor, _ in poll.poll()]
            chunk = os.read(self._log, 65536) if self._log in ready else b""
            if not chunk:
                lines = told.decode(errors="replace").strip().splitlines()
                raise ServerEnded(self.python.name, lines[-1] if lines else "none")
            told += chunk

    def page(self) -> Page:
        """Fetch its page, through the published port. Raises PageWrong, OSError."""
        status, text = self._get("/")
        match = _PAGE.search(text)
        if status != 200 or match is None:
            raise PageWrong(self.python.name, f"{status} {text[:60]!r}")
        return Page(version=match[1], processes=int(match[2]))

    def has(self, name: str) -> bool:
        """Whether it serves a file of that name. Raises OSError."""
        return self._get(f"/{name}")[0] == 200

    def real_file(self, path: str) -> str:
        """The file of the host's that answers for a path of the view's, symbolic links followed. Raises OSError."""
        found = self._view.explain(path)
        while found.target is not None:
            found = self._view.explain(os.path.join(os.path.dirname(found.path), found.target))
        return found.sights[0].path

    def _get(self, path: str) -> tuple[int, str]:
        with contextlib.closing(
            http.client.HTTPConnection(self.port.address, self.port.host)
        ) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")


def _layer(directory: str, target: str) -> str:
    """Make the layer that decides what /usr/bin/python is, and has the place for the site."""
    layer = os.path.join(directory, "layer")
    for path in ("usr/bin", SITE[1:]):
        os.makedirs(os.path.join(layer, path))
    os.symlink(target, os.path.join(layer, "usr/bin/python"))
    return layer
