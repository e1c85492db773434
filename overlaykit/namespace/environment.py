"""The environment of a command, and the current working directory.

An environment is a sequence of entries of any bytes, as execve(2) takes it. An entry is usually NAME=VALUE, but a name
may occur twice, and an entry may have no "=": a command gets the entries of its caller unchanged.
"""

from __future__ import annotations

import os

from overlaykit.errors import Error
from overlaykit.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TypeAlias

    Environment: TypeAlias = tuple[bytes, ...]


class WorkingDirectoryDeleted(Error):
    message = "{0}: the working directory has been deleted; change to another one"


class BadEnvironmentFile(Error):
    message = "--env-file {0}: {1}; write lines KEY=VALUE, or KEY for the caller's value"


def read_file(path: str, callers: Environment) -> dict[str, str]:
    """The variables of a file: a line each, KEY=VALUE, or KEY for the value of `callers` if there is one.

    Raises: BadEnvironmentFile.
    """
    found: dict[str, str] = {}
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise BadEnvironmentFile(path, error.strerror) from None
    for number, line in enumerate(lines, 1):
        text = line.lstrip()
        key, equals, value = text.partition("=")
        if not text or text.startswith("#"):
            continue
        if not key or "\0" in text:
            raise BadEnvironmentFile(path, f"line {number} has no name")
        if not equals:
            callers_value = get(callers, key.rstrip())
            if callers_value is not None:
                found[key.rstrip()] = callers_value
        else:
            found[key] = value
    return found


def current_directory() -> str:
    """The working directory.

    Raises:
      WorkingDirectoryDeleted: it has been deleted, where getcwd(3) fails with ENOENT.
    """
    try:
        return os.getcwd()
    except FileNotFoundError:
        deleted = os.readlink("/proc/self/cwd").removesuffix(" (deleted)")
        raise WorkingDirectoryDeleted(deleted) from None


def entries(variables: Mapping[str, str]) -> Environment:
    """The environment with these variables and no others.

    Raises:
      ValueError: a name has a "=", or a name or value a zero byte.
    """
    for name, value in variables.items():
        if "=" in name or "\0" in name + value:
            raise ValueError(f"env: {name!r} cannot be set to {value!r}")
    return tuple(os.fsencode(f"{name}={value}") for name, value in variables.items())


def initial() -> Environment:
    """The environment that this program was started with, from procfs.

    `os.environ` differs: Python sets LC_CTYPE in the C locale (PEP 538), and skips entries without a "=".
    """
    with suppress(OSError), open("/proc/self/environ", "rb", buffering=0) as environ:
        return tuple(environ.readall().split(b"\0")[:-1])
    return entries(os.environ)


def get(environment: Sequence[bytes], name: str) -> str | None:
    """The value of a variable; the first of several, as getenv(3)."""
    prefix = os.fsencode(name) + b"="
    for entry in environment:
        if entry.startswith(prefix):
            return os.fsdecode(entry[len(prefix) :])
    return None


def matching(environment: Sequence[bytes], pattern: str) -> dict[str, str]:
    """The variable of a name, if it is there; those that begin with a prefix for a `pattern` that ends with "*"."""
    if not pattern.endswith("*"):
        value = get(environment, pattern)
        return {} if value is None else {pattern: value}
    names = (os.fsdecode(entry.partition(b"=")[0]) for entry in environment)
    found = (name for name in names if name.startswith(pattern.removesuffix("*")))
    return {name: value for name in found if (value := get(environment, name)) is not None}


def replace(environment: Sequence[bytes], name: str, value: str | None) -> Environment:
    """The environment with a variable set, at its position if it has one, or removed."""
    prefix = os.fsencode(name) + b"="
    positions = [index for index, entry in enumerate(environment) if entry.startswith(prefix)]
    changed = [entry for entry in environment if not entry.startswith(prefix)]
    if value is not None:
        changed.insert(positions[0] if positions else len(changed), prefix + os.fsencode(value))
    return tuple(changed)
