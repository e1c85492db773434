"""Sockets of the host's services: out of reach, unless they are shared by name."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from overlaykit.namespace import environment
from overlaykit.views import shared_sockets

from .fixtures import only_with, with_both_drivers
from .user import TestUser

pytestmark = pytest.mark.as_each_user

CONNECT = (
    "import os, socket, sys\n"
    "s = socket.socket(socket.AF_UNIX)\n"
    "try: s.connect(sys.argv[1].replace('@', '\\0', 1)); print('reached')\n"
    "except OSError as error: print('refused')\n"
)


@contextmanager
def served(address: str) -> Iterator[str]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address.replace("@", "\0", 1))
        server.listen()
        yield address


def connect(user: TestUser, address: str, *options: str) -> str:
    return user.succeeds("run", *options, "--", "python3", "-c", CONNECT, address).strip()


@with_both_drivers
def test_a_socket_in_a_layer_is_none(user: TestUser) -> None:
    with served(user.path("home", "agent")) as path:
        assert connect(user, path) == "refused"
        assert connect(user, path, "-v", f"{path}:{path}") == "reached"
        assert connect(user, path, "-v", f"{user.home}:{user.home}:ro") == "reached"


def landlock_abi() -> int:
    """The version of Landlock here (landlock_create_ruleset(2)); 0 without it."""
    return max(0, int(ctypes.CDLL(None).syscall(444, None, 0, 1)))


def test_abstract_sockets_of_the_host_are_out_of_reach(user: TestUser) -> None:
    """From Linux 6.12 on also in the host's network."""
    with served(f"@overlaykit-test-{os.getpid()}") as address:
        assert connect(user, address) == "refused"
        in_network = "refused" if landlock_abi() >= 6 else "reached"
        assert connect(user, address, "--network", "host") == in_network
        assert connect(user, address, "--network=host", "--socket=abstract") == "reached"
        free = "--security-opt=no-new-privileges=false"
        assert connect(user, address, "--network=host", free) == in_network


def test_processes_of_a_view_reach_one_anothers_abstract_sockets(user: TestUser) -> None:
    name = f"\\0overlaykit-test-own-{os.getpid()}"  # the same test may run beside this one
    program = (
        "import os, socket\n"
        "s, c = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)\n"
        f"s.bind('{name}'); s.listen()\n"
        f"os.fork() or (c.connect('{name}'), print('reached', flush=True), os._exit(0))\n"
        "os.wait()\n"
    )
    for network in ("private", "host"):
        shown = user.succeeds("run", "--network", network, "--", "python3", "-c", program)
        assert shown == "reached\n"


VARIABLES = ("SSH_AUTH_SOCK", "DBUS_SESSION_BUS_ADDRESS", "WAYLAND_DISPLAY", "DISPLAY")


@only_with(server=False)
def test_services_are_shared_by_name_with_their_variables(
    user: TestUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = user.path("runtime")
    os.mkdir(runtime, 0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    agent, bus, display = (os.path.join(runtime, name) for name in ("agent", "bus", "wayland-7"))
    monkeypatch.setenv("SSH_AUTH_SOCK", agent)
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={bus},guid=1")
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-7")
    monkeypatch.setenv("DISPLAY", ":99")
    shown = "echo ${SSH_AUTH_SOCK-} ${DBUS_SESSION_BUS_ADDRESS-} ${WAYLAND_DISPLAY-} ${DISPLAY-}"
    assert user.succeeds("run", "--", "sh", "-c", shown) == "\n"
    given = user.succeeds("run", "-e", "SSH_AUTH_SOCK=/mine", "--", "sh", "-c", shown)
    assert given == "/mine\n"
    with served(agent), served(bus), served(display):
        for name, path, value in (
            ("ssh-auth", agent, agent),
            ("session-bus", bus, f"unix:path={bus},guid=1"),
            ("wayland", display, "wayland-7"),
        ):
            assert connect(user, path) == "refused"
            assert connect(user, path, "--socket", name) == "reached"
            assert user.succeeds("run", "--socket", name, "--", "sh", "-c", shown) == f"{value}\n"


def test_a_socket_that_is_missing_is_one_line(
    user: TestUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert user.refused("run", "--socket", "pcsc", "--", "true").startswith(
        "--socket pcsc: name one of x11, wayland, "
    )
    said = user.refused("run", "--socket", "ssh-auth", "--", "true")
    assert said.startswith("--socket ssh-auth: there is none here (SSH_AUTH_SOCK names none)")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/none")
    said = user.refused("run", "--socket", "ssh-auth", "--", "true")
    assert said.startswith("--socket ssh-auth: there is none here (/none is missing)")


@pytest.mark.parametrize(
    ("name", "variables", "path"),
    [
        ("x11", {"DISPLAY": ":1.0"}, "/tmp/.X11-unix/X1"),
        ("x11", {"DISPLAY": "unix:0"}, "/tmp/.X11-unix/X0"),
        ("x11", {"DISPLAY": "far:0"}, None),
        ("x11", {}, None),
        ("wayland", {"WAYLAND_DISPLAY": "/w"}, None),
        ("wayland", {"WAYLAND_DISPLAY": "/w", "XDG_RUNTIME_DIR": "/r"}, "/w"),
        ("wayland", {"WAYLAND_DISPLAY": "w", "XDG_RUNTIME_DIR": "/r"}, "/r/w"),
        ("session-bus", {"XDG_RUNTIME_DIR": "/r"}, "/r/bus"),
        ("session-bus", {"DBUS_SESSION_BUS_ADDRESS": "tcp:host=a"}, None),
        ("system-bus", {}, "/run/dbus/system_bus_socket"),
        ("system-bus", {"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/s"}, "/s"),
        ("ssh-auth", {"SSH_AUTH_SOCK": "/a"}, "/a"),
    ],
)
def test_an_address_names_the_path_of_a_socket(
    monkeypatch: pytest.MonkeyPatch, name: str, variables: dict[str, str], path: str | None
) -> None:
    monkeypatch.setattr(os.path, "exists", lambda _: True)
    env = environment.entries(variables)
    if path is None:
        with pytest.raises(shared_sockets.SocketMissing):
            shared_sockets.paths([name], env)
    else:
        assert shared_sockets.paths([name], env) == [path]


def test_addresses_of_other_machines_stay_in_the_environment() -> None:
    far = {"DISPLAY": "far:0", "DBUS_SESSION_BUS_ADDRESS": "tcp:host=far", "XAUTHORITY": "/x"}
    env = environment.entries(far)
    assert shared_sockets.without_variables(env, ()) == env
