"""Paths shared with a view: what `-v` and `--mount` mean."""

from __future__ import annotations

import os

from overlaykit.errors import Error
from overlaykit.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final, Literal, TypeAlias

    Propagation: TypeAlias = Literal["private", "slave", "shared"]

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

_IGNORED: Final = ("z", "Z", "rbind")
"""Options of podman without effect here: views have no labels, and every bind is recursive."""

_SET: Final = ("noexec", "nosuid", "nodev")
_CLEARED: Final = {"exec": "noexec", "suid": "nosuid", "dev": "nodev"}
_PROPAGATIONS: Final = ("private", "slave", "shared")
"""Options of podman, which hold for all mounts of a bind. A propagation may have an "r" before it."""

_TRY: Final = "-try"

BUBBLEWRAPS: Final = {
    f"{option}{suffix}": frozenset(attributes)
    for option, attributes in (
        ("--bind", ("nosuid", "nodev")),
        ("--ro-bind", ("nosuid", "nodev")),
        ("--dev-bind", ("nosuid",)),
    )
    for suffix in ("", _TRY)
}
"""bubblewrap's options, with the attributes that its mounts have."""

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


class BadPair(Error):
    message = "{0}: {1}; give SRC and an absolute DEST"


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
    attributes: frozenset[str] = frozenset()
    """Of "noexec", "nosuid" and "nodev": those that all its mounts have."""
    cleared: frozenset[str] = frozenset()
    """Of the same, those that the host's mounts may have and the view's have not."""
    propagation: Propagation = "private"
    """Whether mounts that come below are seen in the view ("slave"), or also the other way ("shared")."""

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
    words = mode.split(",")
    if {"ro", "rw"}.issubset(words):
        raise BadBind(text, "it cannot be ro and rw")
    bind = _bind(text, BadBind, source, target)
    for word in words:
        bind = _with_option(text, BadBind, bind, word)
    return bind


def parse_mount(text: str) -> Bind:
    """Parse `type=bind,src=SOURCE,dst=TARGET[,ro]`: the fields of a CSV line, with podman's keys.

    Raises:
      BadMount: as `parse_bind` raises BadBind.
    """
    import csv

    values: dict[str, str] = {}
    options: list[str] = []
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
        elif key == "bind-propagation" and value.removeprefix("r") in _PROPAGATIONS:
            options.append(value)
        elif not equals and (key in _SET or key in _CLEARED):
            options.append(key)
        else:
            raise BadMount(text, f"{field!r} is nothing that can be done here")
    for key in ("type", "source", "target"):
        if key not in values:
            raise BadMount(text, f"{key} is missing")
    bind = _bind(text, BadMount, values["source"], values["target"])
    for option in options:
        bind = _with_option(text, BadMount, bind, option)
    return bind.replace(read_only=read_only)


def bubblewraps(option: str, source: str, target: str) -> Bind | None:
    """The bind of an option of `BUBBLEWRAPS`; None for one with "-try" whose source is missing. Raises: BadPair."""
    bind = _bind(f"{option} {source} {target}", BadPair, source, target)
    kind = option.removesuffix(_TRY)
    if option != kind and not os.path.exists(bind.source):
        return None
    return bind.replace(attributes=BUBBLEWRAPS[option], read_only=kind == "--ro-bind")


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


def _with_option(text: str, error: type[BadBind | BadMount], bind: Bind, word: str) -> Bind:
    """The bind with an option of podman's. Raises: BadBind, BadMount: there is none such, or it has the opposite."""
    if word in ("ro", "rw"):
        return bind.replace(read_only=word == "ro")
    if word in _SET:
        bind = bind.replace(attributes=bind.attributes | {word})
    elif word in _CLEARED:
        bind = bind.replace(cleared=bind.cleared | {_CLEARED[word]})
    elif word.removeprefix("r") in _PROPAGATIONS:
        return bind.replace(propagation=word.removeprefix("r"))
    elif word not in _IGNORED:
        options = ", ".join(("ro", "rw", *_SET, *_CLEARED, *(f"r{one}" for one in _PROPAGATIONS)))
        raise error(text, f"{word!r} is none of {options}")
    if both := bind.attributes & bind.cleared:
        raise error(text, f"it cannot be {min(both)} and {min(both).removeprefix('no')}")
    return bind


def _bind(text: str, error: type[BadBind | BadMount | BadPair], source: str, target: str) -> Bind:
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
    return Bind(source=source, target=target)
