"""The description of a launch: the command, its surroundings, and the mount that becomes its root."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, get_args

import msgspec

from overlaykit.namespace import binds as _binds
from overlaykit.namespace.binds import Bind
from overlaykit.namespace.environment import Environment
from overlaykit.namespace.ports import Port

Network: TypeAlias = Literal["private", "host", "none"]
"""A network namespace with only a loopback interface; the host's; or one without published ports."""

_LONGEST_HOSTNAME: Final = 64
"""Bytes: uname(2)."""
_STANDARD: Final = range(3)


class LaunchSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A command and its surroundings.

    Raises:
      ValueError: a field has a value that no launch can use; it names the field.
      TargetTwice: two `binds` have one target.
    """

    argv: tuple[str, ...]
    """The command and its arguments; a command without a slash is looked up along the PATH of `env`, in the view."""
    env: Environment
    """The whole environment."""
    cwd: str = "/"
    """The working directory, absolute, in the view."""
    cwd_required: bool = False
    """Whether a missing `cwd` is an error; else "/" is used in its place."""
    hostname: str = "overlaykit"
    """Not used with the network "host"."""
    network: Network = "private"
    binds: tuple[Bind, ...] = ()
    """In any order: a target below another one is mounted after it."""
    ports: tuple[Port, ...] = ()
    descriptors: tuple[int, ...] = ()
    """Open descriptors that the command inherits under the same numbers, beside the standard ones."""
    redirected: Mapping[int, int] = {}
    """Standard descriptors (0 to 2) of the command: each a copy of a descriptor, from 3 on, of the caller."""
    umask: int | None = None
    """None: the umask of the caller."""
    keep: bool = False
    """Whether changes outlive the command."""

    def __post_init__(self) -> None:
        if not self.argv:
            raise ValueError("argv: no command given")
        for word in self.argv:
            if "\0" in word:
                raise ValueError(f"argv: {word!r} holds a zero byte")
        for entry in self.env:
            if b"\0" in entry:
                raise ValueError(f"env: {entry!r} holds a zero byte")
        if not os.path.isabs(self.cwd) or "\0" in self.cwd:
            raise ValueError(f"cwd: {self.cwd!r} is not an absolute path")
        if not 0 < len(os.fsencode(self.hostname)) <= _LONGEST_HOSTNAME:
            raise ValueError(f"hostname: {self.hostname!r} has not 1 to {_LONGEST_HOSTNAME} bytes")
        if self.network not in get_args(Network):
            raise ValueError(f"network: {self.network!r} is none of {', '.join(get_args(Network))}")
        for descriptor in self.descriptors:
            if descriptor < 0:
                raise ValueError(f"descriptors: {descriptor} is not a descriptor")
        for standard, source in self.redirected.items():
            if standard not in _STANDARD or source < len(_STANDARD):
                raise ValueError(f"redirected: {source} cannot become {standard}")
        if self.umask is not None and not 0 <= self.umask <= 0o777:
            raise ValueError(f"umask: {self.umask:#o} is not 0 to 0o777")
        _binds.check(self.binds)


class RootMount(msgspec.Struct, frozen=True, kw_only=True):
    """The detached mount that becomes the root directory, and the user namespace that owns it."""

    mount: int
    user_namespace: int | None = None
    """A descriptor of the user namespace, or the pidfd of a process in it (setns(2) takes either).

    None: the caller has the capabilities itself."""


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes of the calling process that the command inherits, from before the launcher changed its own."""

    pid: int
    blocked: frozenset[int]
    """The signal mask."""
    closed: frozenset[int]
    """The standard descriptors that are closed."""
