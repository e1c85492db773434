"""Sockets of the host's services that a view shares by name (`--socket`), and the variables that point at them.

A view has a /run of its own, and no socket of a layer can be connected to: the kernel looks for the inode of the view's
file system (unix_find_bsd() in net/unix/af_unix.c). So a socket is shared as a bind, at the path that it has outside.
"""

from __future__ import annotations

import os

from overlaykit.errors import Error
from overlaykit.namespace import environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    from overlaykit.namespace.environment import Environment

ABSTRACT: Final = "abstract"
"""The abstract sockets (unix(7)) of the host's network."""

VARIABLES: Final = {
    "x11": ("DISPLAY", "XAUTHORITY"),
    "wayland": ("WAYLAND_DISPLAY", "WAYLAND_SOCKET"),
    "session-bus": ("DBUS_SESSION_BUS_ADDRESS", "DBUS_SESSION_BUS_PID"),
    "system-bus": ("DBUS_SYSTEM_BUS_ADDRESS",),
    "ssh-auth": ("SSH_AUTH_SOCK", "SSH_AGENT_PID"),
    ABSTRACT: (),
}
"""By the names that flatpak gives them; ABSTRACT is ours. The first variable tells the address."""

_SYSTEM_BUS: Final = "/run/dbus/system_bus_socket"
_X11: Final = "/tmp/.X11-unix/X"  # noqa: S108  # X(7) says so


class UnknownSocket(Error):
    message = "--socket {0}: name one of {1}"


class SocketMissing(Error):
    message = "--socket {0}: there is none here ({1}); leave it out, or start the service"


def paths(names: Sequence[str], env: Environment) -> list[str]:
    """The paths of the named sockets. Raises: UnknownSocket, SocketMissing."""
    found = []
    for name in names:
        if name not in VARIABLES:
            raise UnknownSocket(name, ", ".join(VARIABLES))
        if name == ABSTRACT:
            continue
        path, source = _path(name, env)
        if path is None:
            raise SocketMissing(name, f"{source} names none")
        if not os.path.exists(path):
            raise SocketMissing(name, f"{path} is missing")
        found.append(path)
    return found


def without_variables(env: Environment, shared: Sequence[str]) -> Environment:
    """The environment without the variables that point at sockets of the host which are not shared."""
    for name, variables in VARIABLES.items():
        if name not in shared and variables and _is_local(environment.get(env, variables[0])):
            for variable in variables:
                if environment.get(env, variable) is not None:
                    env = environment.replace(env, variable, None)
    return env


def _is_local(address: str | None) -> bool:
    """Whether an address is that of a socket of this machine: no X display or D-Bus of another one."""
    if address is None:
        return False
    return address.startswith((":", "/", "unix:")) or not (":" in address or "=" in address)


def _path(name: str, env: Environment) -> tuple[str | None, str]:
    """The path of a socket, None if there is none, and the variable that tells it."""
    variable = VARIABLES[name][0]
    value = environment.get(env, variable)
    runtime = environment.get(env, "XDG_RUNTIME_DIR")
    if name == "x11":
        number = (value or "").removeprefix("unix").removeprefix(":").partition(".")[0]
        local = bool(value) and number.isascii() and number.isdecimal()
        return (_X11 + number if local else None), variable
    if name == "wayland" and value and runtime:
        return os.path.join(runtime, value), variable
    if name == "ssh-auth":
        return value or None, variable
    if name in ("session-bus", "system-bus"):
        for part in (value or "").removeprefix("unix:").split(","):
            if part.startswith("path="):
                return part.removeprefix("path="), variable
        if name == "system-bus":
            return _SYSTEM_BUS, variable
        if value is None and runtime:
            return os.path.join(runtime, "bus"), variable
    return None, variable
