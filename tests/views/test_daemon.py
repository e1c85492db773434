"""The daemon of a view is confined, however it was started."""

from __future__ import annotations

import os
import sys

import pytest

from overlaykit import View, mountinfo
from overlaykit.views import Registry

from ..processes import thread_statuses
from .fixtures import in_all_variants, only_with
from .user import CHECKOUT, TestUser, command

pytestmark = pytest.mark.in_each_variant

DAEMON = """
import os, sys
def opens(process):
    try:
        for fd in os.listdir(f"/proc/{process}/fd"):
            try:
                yield os.readlink(f"/proc/{process}/fd/{fd}")
            except FileNotFoundError:  # closed since
                pass
    except OSError:
        pass
for process in filter(str.isdecimal, os.listdir("/proc")):
    if "/dev/fuse" in opens(process):
        with open(f"/proc/{process}/mountinfo") as file:
            print(*(line.split()[4] for line in file), sep="\\n")
"""
"""The mountpoints of the daemon of a view that runs in this one, and of its keeper."""


def unneeded(mountpoints: list[str]) -> list[str]:
    """Those of a daemon's that are no part of an interpreter, of a procfs or of a layer."""
    code = [path for path in map(os.path.abspath, sys.path) if os.path.exists(path)]
    needed = ["/proc", *code, *map(os.path.realpath, code)]
    return [
        one
        for one in mountpoints
        if not one.startswith("/layer-")
        and one not in ("/", *needed)
        and not any(mountinfo.below(one, path) for path in needed)
    ]


@in_all_variants
@only_with(driver="fuse")
def test_every_thread_of_a_views_daemon_has_a_filter(user: TestUser) -> None:
    upper = user.directory("upper")
    user.write(user.path("large"), b"x" * (3 << 20))
    # The kept upper is synced in a thread.
    script = f"echo new >>{user.path('large')}; sync {user.path('large')}; echo written; read line"
    with user.start("run", "--upper", upper, "--", "sh", "-c", script) as view:
        assert view.stdout is not None
        assert view.stdout.readline() == "written\n"
        (entry,) = Registry().running()
        daemon = entry.about.daemon
        for status in thread_statuses(daemon):
            assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
        view.communicate("end\n")
    with open(os.path.join(upper, user.path("large").lstrip("/")), "rb") as file:
        assert file.read().endswith(b"xnew\n")


@in_all_variants
@only_with(driver="fuse")
def test_a_confined_daemon_removes_what_its_view_leaves(user: TestUser) -> None:
    before = user.leftovers()
    user.succeeds(
        "run", "--", "sh", "-c", "mkdir -p /tmp/in-a/b; chmod 0 /tmp/in-a/b; echo x >/tmp/in-a/c"
    )
    user.wait_for_descendants()
    assert user.leftovers() == before


@in_all_variants
@only_with(driver="fuse")
def test_the_daemon_of_a_view_has_no_path_to_what_the_host_has(user: TestUser) -> None:
    lower = user.directory("lower", file="x")
    upper = user.directory("upper")
    with View([lower, "host"], upper=upper) as view:
        view.launch(["sleep", "1000"])
        (entry,) = Registry().running()
        daemon = entry.about.daemon
        mountpoints = [one.mountpoint for one in mountinfo.of_process(daemon)]
        assert {"/", "/proc"} <= set(mountpoints)
        assert unneeded(mountpoints) == []
        root = f"/proc/{daemon}/root"
        for path in ("/etc/passwd", "/dev", "/run", "/tmp", "/bin", lower, upper, user.runtime):
            if CHECKOUT.startswith(
                f"{path}/"
            ):  # The daemon has the directories of its own modules.
                continue
            assert os.path.lexists(path)
            assert not os.path.lexists(root + path)
        assert any(one.startswith("layer-") for one in os.listdir(root))


@only_with(driver="fuse")
def test_the_daemon_of_a_view_in_a_view_has_no_path_to_what_the_outer_has(user: TestUser) -> None:
    look = user.write(user.path("look"), DAEMON)
    # The inner one runs as long as its input is open.
    script = f"""
        mkfifo /tmp/in-input /tmp/in-output
        {command()} run --name inner -- sh -c 'echo runs; read line' </tmp/in-input >/tmp/in-output &
        exec 3>/tmp/in-input 4</tmp/in-output
        read line <&4
        {sys.executable} {look}
        echo end >&3
        wait
    """
    mountpoints = user.succeeds("run", "--", "sh", "-ec", script).splitlines()
    assert {"/", "/proc"} <= set(mountpoints)
    assert unneeded(mountpoints) == []
