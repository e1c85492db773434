"""What a command takes over by name: its environment, its working directory.

Environments are as execve(2) takes them: entries in their order, of any bytes.

An entry is usually NAME=VALUE, but a caller may have set one name twice, or an entry without "=", and a program that
is started here gets what it would have got from its caller.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TypeAlias

from overlaykit.errors import Error

Environment: TypeAlias = tuple[bytes, ...]


class WorkingDirectoryDeleted(Error):
    message = "{0}: the working directory has been deleted; change to another one"


def current_directory() -> str:
    """The working directory. Raises WorkingDirectoryDeleted, where getcwd(3) says ENOENT and no name."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        deleted = os.readlink("/proc/self/cwd").removesuffix(" (deleted)")
        raise WorkingDirectoryDeleted(deleted) from None


def entries(variables: Mapping[str, str]) -> Environment:
    """The environment in which these variables are set, and nothing else. Raises ValueError for what none can hold."""
    for name, value in variables.items():
        if "=" in name or "\0" in name + value:
            raise ValueError(f"env: {name!r} cannot be set to {value!r}")
    return tuple(os.fsencode(f"{name}={value}") for name, value in variables.items())


def initial() -> Environment:
    """What this program was started with, from procfs.

    `os.environ` is not that: Python sets LC_CTYPE in the C locale (PEP 538), and leaves out what it cannot read.
    """
    with suppress(OSError), open("/proc/self/environ", "rb", buffering=0) as environ:
        return tuple(environ.readall().split(b"\0")[:-1])
    return entries(os.environ)


def get(environment: Sequence[bytes], name: str) -> str | None:
    """The value of a variable; of the first one, as with getenv(3)."""
    prefix = os.fsencode(name) + b"="
    for entry in environment:
        if entry.startswith(prefix):
            return os.fsdecode(entry[len(prefix) :])
    return None


def replace(environment: Sequence[bytes], name: str, value: str | None) -> Environment:
    """The environment with a variable set, in its place if it has one, or removed."""
    prefix = os.fsencode(name) + b"="
    places = [place for place, entry in enumerate(environment) if entry.startswith(prefix)]
    changed = [entry for entry in environment if not entry.startswith(prefix)]
    if value is not None:
        changed.insert(places[0] if places else len(changed), prefix + os.fsencode(value))
    return tuple(changed)
