"""`overlaykit doctor`: what this machine can do, and a fix for what it cannot."""

from __future__ import annotations

import os

from overlaykit.views.kernel_abilities import ABILITIES

from ..views.fixtures import only_as
from ..views.user import TestUser


def test_doctor_reports_a_machine_on_which_views_work(user: TestUser) -> None:
    user.succeeds("run", "true")
    lines = user.succeeds("doctor").splitlines()
    assert all(line.startswith("ok    ") for line in lines)
    tried = {line.removeprefix("ok    ").partition(":")[0] for line in lines}
    assert {
        "FUSE device",
        "user namespaces",
        "network namespaces",
        "a fresh /proc",
        "temporary uppers",
        "driver kernel",
    } <= tried
    (driver,) = (line for line in lines if line.startswith("ok    driver kernel: "))
    assert driver.partition(": ")[2].startswith("works")
    (network,) = (line for line in lines if "a view's network" in line)
    assert "its own by default" in network
    assert "--network host" in network
    assert "ok    --network outbound: works through pasta or slirp4netns" in lines


def test_doctor_names_the_package_for_connections_outward(user: TestUser) -> None:
    path = user.directory("nothing")
    said = user.overlaykit("doctor", env={**os.environ, "PATH": path}).stdout
    assert "ok    --network outbound: neither pasta nor slirp4netns is installed; install" in said


def test_doctor_names_what_cannot_be_told(user: TestUser) -> None:
    (line,) = (one for one in user.succeeds("doctor").splitlines() if "  --lie: " in one)
    assert line.startswith("ok    --lie: works")
    mounted = os.path.ismount("/var/lib/lxcfs")
    assert ("proc=lxcfs (install the package lxcfs, and start it)" in line) is not mounted
    # As on a kernel without either.
    covered = "mount --bind /dev/null /proc/sys/kernel/seccomp/actions_avail"
    said = user.changed_machine(covered, "doctor").stdout
    assert "kernel (takes Linux 5.0 on x86_64 or aarch64)" in said


def test_doctor_names_what_this_kernel_lacks_and_what_it_costs(user: TestUser) -> None:
    """tests/kernels runs it on kernels that lack something."""
    (first, *more) = (
        line for line in user.succeeds("doctor").splitlines() if line.startswith("ok    kernel: ")
    )
    release = os.uname().release
    lacking = [one for one in ABILITIES if not user.kernel_has(one.name)]
    if lacking:
        assert [first, *more] == [
            f"ok    kernel: {release} is without {one.name} (Linux {one.since}): {one.cost}"
            for one in lacking
        ]
    else:
        assert [first, *more] == [f"ok    kernel: {release} lacks nothing"]


@only_as("ordinary user")
def test_doctor_prints_a_fix_for_a_failure(user: TestUser) -> None:
    done = user.changed_machine(
        "echo 0 >/proc/sys/user/max_user_namespaces; mount --bind /etc/shadow /dev/fuse", "doctor"
    )
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    fixes = {
        lines[i].split(":")[0]: lines[i + 1]
        for i in range(len(lines))
        if lines[i].startswith("FAIL")
    }
    assert fixes == {
        "FAIL  FUSE device": "      fix: as root, run 'chmod 0666 /dev/fuse' (udev's usual rule)",
        "FAIL  user namespaces": "      fix: raise it with: sysctl -w user.max_user_namespaces=15000",
    }
