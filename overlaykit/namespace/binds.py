"""Paths shared with a view: what `-v` and `--mount` mean."""

from __future__ import annotations

import os

from overlaykit.errors import Error
from overlaykit.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final

_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})
"""Booleans, as podman reads them."""

_KEYS: Final = {
    "source": "source",
    "src": "source",
    "target": "target",
    "destination": "target",
    "dst": "target",
    "dest": "target",
}
_READ_ONLY: Final = {"ro": True, "readonly": True, "rw": False, "readwrite": False}

_IGNORED: Final = ("z", "Z", "rbind", "private", "rprivate")
"""Options of podman without effect here: views have no labels, and every bind is recursive and private."""

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


class Bind(Record, kw_only=True):
    """A path of the host that the view shares (`-v`), with all mounts below it.

    Raises:
      ValueError: a field has a value that no bind can have; it names the field.
    """

    source: str
    """An absolute path of the host: a directory, or any other file."""
    target: str
    """An absolute path in the view; a missing one is made, as a directory or an empty file."""
    read_only: bool = False

    def __post_init__(self) -> None:
        for field, path in (("source", self.source), ("target", self.target)):
            if not os.path.isabs(path) or "\0" in path:
                raise ValueError(f"{field}: {path!r} is not an absolute path")


def parse_bind(text: str) -> Bind:
    """Parse `SOURCE:TARGET[:ro|rw]`; a relative SOURCE starts at the current directory and may be missing.

    Raises:
      BadBind: the text has another form, or no view can have the target.
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
        if word not in ("ro", "rw", *_IGNORED):
            raise BadBind(text, f"{word!r} is neither ro nor rw")
    if {"ro", "rw"}.issubset(modes):
        raise BadBind(text, "it cannot be ro and rw")
    return _bind(text, BadBind, source, target, read_only="ro" in modes)


def parse_mount(text: str) -> Bind:
    """Parse `type=bind,src=SOURCE,dst=TARGET[,ro]`: the fields of a CSV line, with podman's keys.

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
            # Every mount of a view is private.
            pass
        else:
            raise BadMount(text, f"{field!r} is nothing that can be done here")
    for key in ("type", "source", "target"):
        if key not in values:
            raise BadMount(text, f"{key} is missing")
    return _bind(text, BadMount, values["source"], values["target"], read_only=read_only)


def check(binds: Iterable[Bind]) -> None:
    """Raise TargetTwice if two binds have one target."""
    seen: dict[str, Bind] = {}
    for bind in binds:
        if bind.target in seen:
            raise TargetTwice(bind.target, f"{seen[bind.target].source} and {bind.source}")
        seen[bind.target] = bind


def covers_processes(target: str) -> bool:
    """Whether a mount there would cover the view's own processes: at /proc or a directory of processes."""
    if target == "/proc":
        return True
    name = target.removeprefix("/proc/").partition("/")[0]
    is_process = name.isascii() and name.isdecimal()
    return target.startswith("/proc/") and (is_process or name in ("self", "thread-self"))


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
    if covers_processes(target):
        raise error(text, f"{target} cannot be covered: a view needs a /proc of its own processes")
    source = os.path.abspath(source)
    # Another process mounts it.
    if source.startswith(_OF_THIS_PROCESS):
        given, source = source, os.path.realpath(source)
        if os.path.exists(given) and not os.path.exists(source):
            raise error(text, f"{given} has no name that the view could share, as a pipe has none")
    return Bind(source=source, target=target, read_only=read_only)
