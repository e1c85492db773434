"""`overlaykit ps`: the list of running views and mounts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import Any

from overlaykit.procfs import descendants
from overlaykit.views import Registry

from ..views.fixtures import only_as, only_with
from ..views.user import AS_ORDINARY, TestUser


def list_json(user: TestUser) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(user.succeeds("ps", "--json"))
    return found


def start_view(user: TestUser, *options: str) -> subprocess.Popen[str]:
    view = user.start("run", *options, "--", "sh", "-c", "echo started; read line")
    assert view.stdout is not None
    assert view.stdout.readline() == "started\n"
    return view


@only_as("root")
@only_with(driver="fuse")
def test_no_other_user_reaches_the_control_socket_of_a_view(user: TestUser) -> None:
    script = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    connect = ["/usr/bin/python3", "-c", script]
    os.umask(0)  # so that the socket itself is for all
    with start_view(user, "--rm", "--name", "view") as view:
        path = Registry().find("view").control
        subprocess.run([*connect, path], check=True)
        done = subprocess.run(
            [*AS_ORDINARY, *connect, path], capture_output=True, text=True, check=False
        )
        assert done.stderr.endswith("PermissionError: [Errno 13] Permission denied\n")
        view.communicate("end\n")


def test_views_and_mounts_are_listed_while_they_run_oldest_first(user: TestUser) -> None:
    assert list_json(user) == []
    lower, target = user.directory("lower"), user.directory("target")
    user.succeeds("mount", "-o", f"lowerdir={lower}", "--name", "mounted", target)
    upper = user.path("upper")
    with start_view(user, "--rm", "--name", "view", "--upper", upper, "-p", "0:80") as view:
        mount, run = list_json(user)
        assert (mount["name"], mount["target"], mount["layers"]) == ("mounted", target, [lower])
        assert (run["name"], run["upper"], run["layers"]) == ("view", upper, ["host"])
        assert run["command"] == ["sh", "-c", "echo started; read line"]
        assert run["pid"] == view.pid
        assert {mount["daemon"], run["daemon"]} <= set(descendants(os.getpid()))
        assert mount["started"] < run["started"]
        (port,) = run["ports"]
        address, number, inside = port.split(":")
        assert (address, inside) == ("127.0.0.1", "80")
        assert int(number) > 0
        table = user.succeeds("ps").splitlines()
        assert table[0].split()[:3] == ["NAME", "PID", "STARTED"]
        assert [line.split()[0] for line in table[1:]] == ["mounted", "view"]
        assert table[2].rstrip().endswith("sh -c 'echo started; read line'")
        view.communicate("end\n")
    assert [one["name"] for one in list_json(user)] == ["mounted"]
    user.succeeds("umount", target)
    assert list_json(user) == []


def test_a_view_without_a_name_gets_a_usable_one(user: TestUser) -> None:
    with start_view(user) as view:
        (run,) = list_json(user)
        assert user.succeeds("explain", run["name"], "/etc").startswith("/etc\n")
        view.communicate("end\n")


def test_a_view_that_was_killed_is_not_listed(user: TestUser) -> None:
    with start_view(user) as view:
        os.kill(view.pid, signal.SIGKILL)
        view.wait()
        user.wait_for_descendants()
    assert list_json(user) == []
