"""The two interpreters: Python 2.7, as a layer of Debian packages or found on this machine, and its Python 3."""

from __future__ import annotations

import glob
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from overlaykit.errors import Error
from overlaykit.layers import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LAYER: Final = "demo-python2.7"
_SOURCE: Final = "deb:python2.7@bullseye"  # the last Debian that has it
_TELL_PATH: Final = "import SimpleHTTPServer, sys; sys.stdout.write(sys.executable)"


class NoPython2(Error):
    message = (
        "the demo has no Python 2.7 ({0}) and this machine has none either: put a python2.7 on PATH"
    )

    exit_code = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Python:
    """An interpreter for a view's /usr/bin/python."""

    name: str
    """What the demo calls it: python2 or python3."""
    release: str
    """What its version has to begin with."""
    target: str
    """Where the symbolic link /usr/bin/python leads."""
    server: str
    """The module that is a web server, for `python -m`."""
    layers: tuple[str, ...]
    """Where its files are, top first."""
    note: str
    """Where it comes from, as a sentence for the user."""


def python2(*, offline: bool, say: Callable[[str], None]) -> Python:
    """Python 2.7: the layer of an earlier run, else one made now, else one that is installed here.

    Raises NoPython2; OSError.
    """
    store = Store()
    if any(layer.name == LAYER for layer in store.list()):
        return _of_layer()
    if offline:
        reason = "--offline was given"
    else:
        say(f"Fetching python2.7 of Debian bullseye into the layer {LAYER} ...")
        try:
            store.add(LAYER, _SOURCE)
        except Error as error:
            reason = str(error)
        else:
            return _of_layer()
    for path in _installed():
        return Python(
            name="python2",
            release="2.7.",
            target=path,
            server="SimpleHTTPServer",
            layers=("host",),
            note=f"Python 2.7 was not fetched ({reason}): it is the machine's own {path}.",
        )
    raise NoPython2(reason)


def python3() -> Python:
    """The machine's Python 3: the system's, or where there is none the one that runs this."""
    system = os.path.exists("/usr/bin/python3")
    return Python(
        name="python3",
        release="3.",
        target="python3" if system else os.path.realpath(sys.executable),
        server="http.server",
        layers=("host",),
        note="Python 3 is the machine's own.",
    )


def _of_layer() -> Python:
    return Python(
        name="python2",
        release="2.7.",
        target="python2.7",
        server="SimpleHTTPServer",
        layers=(LAYER, "host"),
        note=f"Python 2.7 is the layer {LAYER}, kept for the next run; 'overlaykit layer rm {LAYER}' removes it.",
    )


def _installed() -> Iterator[str]:
    """The real paths of those that work; a shim that only finds another one is passed through."""
    places = [*os.get_exec_path(), *glob.glob(os.path.expanduser("~/.pyenv/versions/*/bin"))]
    for place in places:
        candidate = os.path.join(place, "python2.7")
        if os.access(candidate, os.X_OK):
            told = subprocess.run(
                [candidate, "-c", _TELL_PATH],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            if told.returncode == 0:
                yield os.path.realpath(os.fsdecode(told.stdout))
