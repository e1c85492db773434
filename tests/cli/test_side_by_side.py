"""Servers that want one port, and programs that write under one HOME, side by side and unmodified."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from ..views.fixtures import only_with
from ..views.user import TestUser

pytestmark = only_with(host=True)


@contextmanager
def detached(
    user: TestUser, name: str, *command: str, options: tuple[str, ...] = ()
) -> Iterator[int]:
    """A view with the published port 80; the port of the host."""
    user.succeeds("run", "-d", "--rm", "--name", name, "-p", "0:80", *options, "--", *command)
    try:
        (view,) = (one for one in json.loads(user.succeeds("ps", "--json")) if one["name"] == name)
        (port,) = view["ports"]
        yield int(str(port).split(":")[1])
    finally:
        user.overlaykit("kill", name)
        user.overlaykit("wait", name)


def page(user: TestUser, name: str, port: int) -> str:
    """What the server answers, once it does. The test fails if its view has ended."""
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
                return str(answer.read().decode())
        except (ConnectionError, urllib.error.URLError):
            assert name in user.succeeds("ps"), user.overlaykit("logs", name)


def test_two_servers_are_on_port_80_at_once_and_both_are_reached(user: TestUser) -> None:
    files = user.directory("files", greeting="hello\n")
    nginx: tuple[str, ...] = ("nginx", "-g", "daemon off;")
    options: tuple[str, ...] = ()
    if not user.is_root:
        # One identity, no other for nginx's workers, and root's directories may not be written.
        conf = "user root; events {} http { server { listen 80; return 200 nginx; } }"
        nginx = (*nginx, "-c", user.write(user.path("nginx.conf"), conf))
        options = ("--tmpfs", "/var/log/nginx", "--tmpfs", "/var/lib/nginx", "--tmpfs", "/run")
    python = ("python3", "-m", "http.server", "80", "--directory", files)
    with (
        detached(user, "nginx", *nginx, options=options) as first,
        detached(user, "python", *python) as second,
    ):
        assert "nginx" in page(user, "nginx", first)
        assert "greeting" in page(user, "python", second)
        inside = user.succeeds("exec", "nginx", "sh", "-c", "ps aux | wc -l")
        outside = user.program(["sh", "-c", "ps aux | wc -l"])
        # A heading, init, nginx and a worker for each processor, and what counts them.
        assert int(inside) < 8 + (os.cpu_count() or 1)
        assert int(outside) > int(inside)
        outsider = subprocess.Popen(["sleep", "infinity"])
        try:
            kill = f"import os; os.kill({outsider.pid}, 9)"
            refused = user.overlaykit("exec", "python", "python3", "-c", kill)
            assert "ProcessLookupError" in refused.stderr
            assert outsider.poll() is None
        finally:
            outsider.kill()
            outsider.wait()


def test_a_file_under_home_is_in_the_view_that_wrote_it_alone(user: TestUser) -> None:
    written = user.path("home", "written")
    with (
        detached(user, "one", "sleep", "infinity"),
        detached(user, "other", "sleep", "infinity"),
    ):
        user.succeeds("exec", "one", "sh", "-c", f"echo text > {written}")
        assert user.succeeds("exec", "one", "cat", written) == "text\n"
        assert user.overlaykit("exec", "other", "cat", written).returncode == 1
        assert not os.path.exists(written)
