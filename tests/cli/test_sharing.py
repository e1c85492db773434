"""Namespaces of the host and of a view's own: --share, --userns, --monotonic and --boottime."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from ..views.fixtures import only_as, only_with, with_both_drivers
from ..views.test_identities import FIRST, subordinate_ids
from ..views.user import AS_ORDINARY, ORDINARY, TestUser, command

KINDS = ("ipc", "uts", "cgroup", "net")
SHOW = ("sh", "-c", "cd /proc/self/ns; readlink ipc uts cgroup net mnt pid")


def host() -> list[str]:
    return [os.readlink(f"/proc/self/ns/{kind}") for kind in KINDS]


@with_both_drivers
@pytest.mark.parametrize("shared", [(kind,) for kind in KINDS] + [KINDS, ()])
def test_what_is_shared_is_the_hosts_and_nothing_else(
    user: TestUser, shared: tuple[str, ...]
) -> None:
    options = ("--share", ",".join(shared)) if shared else ()
    script = f"{SHOW[2]}; echo done; read line"
    with user.start("run", "--rm", "--name", "v", *options, "--", "sh", "-c", script) as view:
        assert view.stdout is not None
        found = [line.rstrip() for line in iter(view.stdout.readline, "done\n")]
        for kind, theirs, ours in zip(KINDS, found, host(), strict=False):
            assert (theirs == ours) == (kind in shared)
        assert os.readlink("/proc/self/ns/mnt") not in found
        assert os.readlink("/proc/self/ns/pid") not in found
        # A command that joins has the same.
        assert user.succeeds("exec", "v", "--", *SHOW).split() == found
        view.communicate("\n")


def test_shared_memory_is_the_hosts_with_its_ipc_namespace(user: TestUser) -> None:
    path = f"/dev/shm/overlaykit-test-{os.getpid()}"
    user.write(path, "shared\n")
    try:
        assert user.succeeds("run", "--share", "ipc", "--", "cat", path) == "shared\n"
        assert "No such file" in user.overlaykit("run", "--", "cat", path).stderr
    finally:
        os.unlink(path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--share", "mount"), "--share mount: a view is its own mounts: share paths with -v"),
        (("--share", "net,pid"), "--share pid: the end of a view is the end of its processes"),
        (("--share", "disk"), "--share disk: no namespace that can be shared: give net, ipc, uts"),
        (("--share", ""), "--share '': no namespace that can be shared"),
        (("--share", "time", "--boottime", "1"), "--boottime: a clock of its own needs a time"),
        (("--monotonic", "x"), "run: argument --monotonic: invalid int value: 'x'"),
        (("--monotonic", "-9000000000"), "--monotonic, --boottime: the kernel gives the view no"),
    ],
)
def test_what_cannot_be_shared_is_named(
    user: TestUser, options: tuple[str, ...], said: str
) -> None:
    assert user.refused("run", *options, "--", "true").startswith(said)


@with_both_drivers
def test_a_view_has_clocks_of_its_own(user: TestUser) -> None:
    script = (
        "import time\nprint(time.clock_gettime(time.CLOCK_MONOTONIC), "
        "time.clock_gettime(time.CLOCK_BOOTTIME), flush=True)\ninput()"
    )
    show = script.removesuffix("\ninput()")
    before = [time.clock_gettime(clock) for clock in (time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME)]
    options = ("--monotonic", "1000000", "--boottime=2000000")
    python = "/usr/bin/python3"
    with user.start("run", "--rm", "--name", "v", *options, "--", python, "-c", script) as view:
        assert view.stdout is not None
        for line in (view.stdout.readline(), user.succeeds("exec", "v", "--", python, "-c", show)):
            monotonic, boottime = map(float, line.split())
            assert before[0] + 1_000_000 <= monotonic < before[0] + 1_900_000
            assert before[1] + 2_000_000 <= boottime < before[1] + 2_900_000
        view.communicate("\n")


@only_as("ordinary user")
def test_an_ordinary_user_has_a_user_namespace(user: TestUser) -> None:
    for options in (("--userns", "single"), ("--userns", "auto")):
        found = user.succeeds("run", *options, "--", "cat", "/proc/self/uid_map")
        assert found.split() == ["0", str(os.getuid()), "1"]
    for options in (("--userns", "host"), ("--share", "user")):
        line = user.refused("run", *options, "--", "true")
        assert line.startswith("--userns host, --share user: only root with all capabilities")
    line = user.refused("run", "--userns", "subids", "--", "true")
    assert line.startswith("--userns subids: ")
    assert line.endswith(", or use --userns single")


@only_as("root")
@with_both_drivers
def test_roots_views_are_in_the_hosts_user_namespace(user: TestUser) -> None:
    ours = os.readlink("/proc/self/ns/user")
    for options in (("--userns", "host"), ("--share", "user"), ()):
        assert user.succeeds("run", *options, "readlink", "/proc/self/ns/user") == f"{ours}\n"
    for kind in ("single", "subids"):
        line = user.refused("run", "--userns", kind, "true")
        assert line.startswith(f"--userns {kind}: root's views are in the host's user namespace")


@only_as("root")
@only_with(driver="fuse", server=False)
@pytest.mark.parametrize("driver", ["fuse", "kernel"])
def test_subordinate_ids_are_mapped_or_not(user: TestUser, driver: str) -> None:
    own = ["0", str(ORDINARY), "1"]
    both = [*own, "1", str(FIRST), "65536"]
    with subordinate_ids(user) as home:
        layer = f"{home}/layer"
        os.makedirs(f"{layer}/usr")
        for name in ("bin", "lib", "lib64"):
            os.symlink(f"usr/{name}", f"{layer}/{name}")
        user.program(["chown", "-R", f"{ORDINARY}:{ORDINARY}", layer])
        for kind, expected in (("auto", both), ("subids", both), ("single", own)):
            run = [*AS_ORDINARY, command(), "run", "--userns", kind, "--driver", driver]
            show = ["-l", layer, "-v", "/usr:/usr:ro", "--", "cat", "/proc/self/uid_map"]
            assert user.program([*run, *show]).split() == expected


@only_as("root")
@only_with(driver="fuse", server=False)
def test_ranges_that_are_refused_are_named(user: TestUser) -> None:
    """newuidmap fails for ids beyond the last one."""
    with subordinate_ids(user, count=(1 << 32) - 1):
        arguments = ("run", "--userns", "subids", "--", "true")
        done = subprocess.run(
            [*AS_ORDINARY, command(), *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 125
        assert done.stderr == (
            "overlaykit: --userns subids: newuidmap maps none: mend /etc/subuid and /etc/subgid, or"
            " use --userns single\n"
        )
