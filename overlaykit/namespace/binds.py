"""Paths shared with a view: the texts a user writes them in, and the order they are mounted in."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from overlaykit.errors import Error

_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})
"""What podman takes."""

_KEYS: Final = {
    "source": "source",
    "src": "source",
    "target": "target",
    "destination": "target",
    "dst": "target",
    "dest": "target",
}
_READ_ONLY: Final = {"ro": True, "readonly": True, "rw": False, "readwrite": False}

_MEANS_NOTHING: Final = ("z", "Z", "rbind", "private", "rprivate")
"""Options of podman's that change nothing here: no view has a label, and each shares trees, privately."""

_PROCESSES: Final = re.compile(r"/proc(/(self|thread-self|[0-9]+)(/.*)?)?")
"""What a view needs of its /proc: the whole, and the directories of processes."""

_OF_THIS_PROCESS: Final = ("/proc/self/", "/proc/thread-self/", "/dev/fd/")


class BadBind(Error):
    message = (
        "-v {0}: {1}; write SOURCE:TARGET or SOURCE:TARGET:ro, with an absolute TARGET (a path with "
        "a colon: --mount type=bind,src=SOURCE,dst=TARGET)"
    )


class BadMount(Error):
    message = (
        "--mount {0}: {1}; write type=bind,src=SOURCE,dst=TARGET[,ro], with an absolute TARGET (a "
        "field with a comma in quotes: '\"src=/a,b\"')"
    )


class TargetTwice(Error):
    message = "-v {0}: {1}: two paths cannot be shared at one place; name another for one of them"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """A path of the host's that the view shares (`-v`), with everything mounted below it."""

    source: str
    """An absolute path outside: a directory, or any single file."""
    target: str
    """An absolute path inside the view, made there (a directory or an empty file) when missing."""
    read_only: bool = False


def parse_bind(text: str) -> Bind:
    """Read `SOURCE:TARGET[:ro|rw]`; a relative SOURCE is meant from the current directory.

    Raises:
      BadBind: the text has another form, or no view can have the target. (Whether SOURCE exists is seen when the view
        starts.)
    """
    match text.split(":"):
        case [source, target]:
            mode = "rw"
        case [source, target, mode]:
            pass
        case _:
            raise BadBind(text, "expected one or two colons")
    modes = mode.split(",")
    for word in modes:
        if word not in ("ro", "rw", *_MEANS_NOTHING):
            raise BadBind(text, f"{word!r} is neither ro nor rw")
    if {"ro", "rw"}.issubset(modes):
        raise BadBind(text, "it cannot be ro and rw")
    return _bind(text, BadBind, source, target, read_only="ro" in modes)


def parse_mount(text: str) -> Bind:
    """Read `type=bind,src=SOURCE,dst=TARGET[,ro]`: fields as in a line of CSV, with podman's keys.

    Raises:
      BadMount: as `parse_bind` raises BadBind.
    """
    import csv

    values: dict[str, str] = {}
    read_only = False
    try:
        (fields,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError):
        raise BadMount(text, "the quotes do not match") from None
    for field in fields:
        key, equals, value = field.partition("=")
        if key in _READ_ONLY:
            if equals and value not in _TRUE | _FALSE:
                raise BadMount(text, f"{field!r} is neither true nor false")
            read_only = _READ_ONLY[key] == (not equals or value in _TRUE)
        elif key == "type" and value == "bind":
            values["type"] = value
        elif key in _KEYS and equals:
            if _KEYS[key] in values:
                raise BadMount(text, f"{field!r} is a second {_KEYS[key]}")
            values[_KEYS[key]] = value
        elif key == "bind-propagation" and value in ("private", "rprivate"):
            pass  # as every mount of a view is
        else:
            raise BadMount(text, f"{field!r} is nothing that can be done here")
    for key in ("type", "source", "target"):
        if key not in values:
            raise BadMount(text, f"{key} is missing")
    return _bind(text, BadMount, values["source"], values["target"], read_only=read_only)


def check(binds: Iterable[Bind]) -> None:
    """Raises TargetTwice if two have one target."""
    seen: dict[str, Bind] = {}
    for bind in binds:
        if bind.target in seen:
            raise TargetTwice(bind.target, f"{seen[bind.target].source} and {bind.source}")
        seen[bind.target] = bind


def _bind(
    text: str, error: type[BadBind | BadMount], source: str, target: str, *, read_only: bool
) -> Bind:
    if not source:
        raise error(text, "the source is empty")
    if not target.startswith("/"):
        raise error(text, f"the target {target!r} is not absolute")
    target = "/" + os.path.normpath(target).lstrip("/")
    if target == "/":
        raise error(text, "the view's root itself cannot be covered")
    if _PROCESSES.fullmatch(target):
        raise error(text, f"{target} cannot be covered: a view needs a /proc of its own processes")
    source = os.path.abspath(source)
    if source.startswith(_OF_THIS_PROCESS):  # another one mounts it
        given, source = source, os.path.realpath(source)
        if os.path.exists(given) and not os.path.exists(source):
            raise error(text, f"{given} has no name that the view could share, as a pipe has none")
    return Bind(source=source, target=target, read_only=read_only)
