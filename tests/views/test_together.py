"""Concurrent views: each has its own port 80, processes and files."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

from overlaykit.fuse import control, mount, mountpoints, unmount
from overlaykit.fuse.spec import MountFlags
from overlaykit.views import Registry, RunningView

from ..posix import syscalls
from .fixtures import only_as, only_with, with_both_drivers
from .user import TestUser

SERVER = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        page = sys.argv[1].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)
    def log_message(self, *_): pass
server = http.server.HTTPServer(("", 80), Handler)
open("/etc/of-this-view", "w").write(sys.argv[1])
processes = sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())
others = [name for name in os.listdir("/etc") if name == "of-the-other"]
print(len(processes), processes[0], others, flush=True)
server.serve_forever()
"""

pytestmark = with_both_drivers


@contextlib.contextmanager
def serving(user: TestUser, name: str) -> Iterator[tuple[int, str]]:
    """A view that serves its name on port 80. Yields: the host's port, and the first line printed."""
    arguments = (
        "run",
        "--rm",
        "--name",
        name,
        "-p",
        "0:80",
        "--",
        "/usr/bin/python3",
        "-c",
        SERVER,
        name,
    )
    with user.start(*arguments) as view:
        try:
            assert view.stdout is not None
            printed = view.stdout.readline()
            yield int(Registry().find(name).about.ports[0].split(":")[1]), printed
        finally:
            view.terminate()
    assert view.returncode == 143


def fetch(port: int) -> str:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    return answer.decode().partition("\r\n\r\n")[2]


def test_two_views_serve_on_port_80_at_once_and_see_only_their_own(user: TestUser) -> None:
    with (
        serving(user, "one") as (first, printed_first),
        serving(user, "two") as (second, printed),
    ):
        assert first != second
        assert [fetch(port) for port in (first, second, first)] == ["one", "two", "one"]
        assert printed_first == printed == "2 1 []\n"  # init and the server
        assert not os.path.exists("/etc/of-this-view")
        assert [one.about.name for one in Registry().running()] == ["one", "two"]


def test_no_view_sees_the_changes_of_another(user: TestUser) -> None:
    script = "echo mine >/etc/mine; echo ready; read line; ls /etc"
    first = user.start("run", "sh", "-c", script)
    second = user.start("run", "sh", "-c", script.replace("mine", "others"))
    for view in first, second:
        assert view.stdout is not None
        assert view.stdout.readline() == "ready\n"
    seen_first, seen_second = (set(view.communicate("go\n")[0].split()) for view in (first, second))
    assert seen_first - seen_second == {"mine"}
    assert seen_second - seen_first == {"others"}
    assert {"mine", "others"}.isdisjoint(os.listdir("/etc"))


@only_with(host=True)
def test_a_view_in_a_view_of_another_directory_sees_its_layers(user: TestUser) -> None:
    lower = user.directory("lower", file="contents\n")
    target = user.directory("target")
    user.succeeds("mount", "-o", f"lowerdir={lower}", target)
    assert user.succeeds("run", "-l", target, "-l", "host", "cat", "/file") == "contents\n"
    # The layer `host` masks FUSE mounts.
    assert user.succeeds("run", "sh", "-c", f"ls {target}") == ""
    user.succeeds("umount", target)


@only_as("root")  # who may mount again
def test_the_daemon_forgets_what_the_kernel_has_forgotten(user: TestUser) -> None:
    lower, target = user.directory("lower"), user.directory("target")
    for number in range(500):
        user.write(os.path.join(lower, str(number)), "x")
    user.succeeds("mount", "-o", f"lowerdir={lower}", target)
    (mount,) = Registry().running()
    for name in os.listdir(target):
        with open(os.path.join(target, name)) as file:
            file.read()
    assert count_held_objects(mount)["nlookup"] > 500
    # FORGET has no reply to wait for. A remount drops the caches of this file system alone.
    while (now := count_held_objects(mount))["nodes"] > 1:
        syscalls.mount(b"none", os.fsencode(target), None, syscalls.MS_REMOUNT)
    assert (now["nlookup"], now["open_files"]) == (1, 0)  # the root's
    user.succeeds("umount", target)


def count_held_objects(mount: RunningView) -> dict[str, int]:
    """The objects that its daemon holds in memory."""
    counted = control.ask(mount.control, control.Stats(), control.Measured)
    return counted.held


@only_as("root")
def test_a_view_does_not_hang_on_a_dead_file_system_of_the_host(user: TestUser) -> None:
    target, upper = user.directory("target"), user.directory("upper")
    device = mount.open_device()  # its requests are never read
    silent = mount.create(device, "silent", MountFlags(), read_only=True)
    place = mountpoints.open_target(target)
    mount.attach(silent, place)
    os.close(place)
    os.close(silent)
    try:
        user.succeeds("run", "true", timeout=60)
        user.succeeds("run", "--upper", upper, "true", timeout=60)
    finally:
        os.close(device)
        unmount.discard(target)
