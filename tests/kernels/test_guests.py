"""A guest with the oldest kernel, and what is seen of one that does not end well.

The tests of all that differs between guests share one boot. `make proofs` has more (test_ends.py), and runs the other
suites there (test_suites.py).
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from overlaykit.machine import boot, initramfs
from overlaykit.machine.boot import Machine
from overlaykit.machine.kernel import NoModule
from overlaykit.machine.plan import Plan
from overlaykit.views.kernel_abilities import ABILITIES

from . import rig
from .guests import ENOUGH, Guest

pytestmark = pytest.mark.xdist_group("guests")

SCRIPT = """
echo - release; uname -r
echo - view; .venv/bin/overlaykit run -l host -- sh -c 'echo changed >/etc/issue; cat /etc/issue'
cat /etc/issue
echo - doctor; .venv/bin/overlaykit doctor
echo - limits; cat /sys/fs/cgroup/cgroup.subtree_control; grep CapEff /proc/self/status
echo - host; umount --lazy /tmp /var/tmp; cd "$PWD"
XDG_CACHE_HOME=/run .venv/bin/overlaykit run --driver kernel -- sh -c 'rm /etc/issue; ls /etc/issue' 2>&1
cat /etc/issue
echo - disk; dd if=/dev/zero of=/zeros bs=1M 2>&1
exit 7
"""


class Run:
    """The end of a guest that has run SCRIPT, and the lines that each of its parts has written."""

    def __init__(self, end: boot.End, output: bytes) -> None:
        self.end = end
        parts = output.decode().split("- ")[1:]
        self.lines = {
            name: rest.splitlines() for name, _, rest in (p.partition("\n") for p in parts)
        }


@pytest.fixture(scope="module")
def ran(oldest: Machine, tmp_path_factory: pytest.TempPathFactory) -> Run:
    guest = Guest(oldest.replace(disk=64 << 20), tmp_path_factory.mktemp("guest"))
    return Run(guest.run("sh", "-c", SCRIPT), guest.output)


def test_the_guest_has_the_oldest_kernel(ran: Run) -> None:
    (release,) = ran.lines["release"]
    assert release.startswith("6.1.")


def test_a_view_works_on_the_oldest_kernel(ran: Run) -> None:
    with open("/etc/issue", encoding="utf-8") as file:
        assert ran.lines["view"] == ["changed", *file.read().splitlines()]


def test_the_driver_kernel_shows_the_host_on_the_oldest_kernel(ran: Run) -> None:
    """Its overlayfs has no lowerdir+. Without the disk, the guest's root is one file system."""
    missing, *after = ran.lines["host"]
    assert missing == "ls: cannot access '/etc/issue': No such file or directory"
    with open("/etc/issue", encoding="utf-8") as file:
        assert after == file.read().splitlines()


def test_doctor_names_what_the_oldest_kernel_lacks(ran: Run) -> None:
    assert [line for line in ran.lines["doctor"] if not line.startswith("ok    ")] == []
    assert "ok    driver kernel: works" in ran.lines["doctor"]
    lacking = [line for line in ran.lines["doctor"] if line.startswith("ok    kernel: ")]
    assert [line.partition(" is without ")[2] for line in lacking] == [
        f"{one.name} (Linux {one.since}): {one.cost}" for one in ABILITIES
    ]


def test_a_guest_has_all_controllers_and_capabilities(ran: Run) -> None:
    controllers, capabilities = ran.lines["limits"]
    assert {"cpu", "cpuset", "io", "memory", "pids"} <= set(controllers.split())
    assert capabilities == "CapEff:\t000001ffffffffff"


def test_a_full_disk_is_told_and_the_status_comes_back(ran: Run) -> None:
    assert "No space left on device" in ran.lines["disk"][0]
    assert ran.end == boot.End(7, disk_full=True)


def _ended(directory: str | os.PathLike[str], *arguments: str) -> tuple[int, str, bytes]:
    """The status and the only line of `make kernels`, and the log that the line names at its end."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.kernels", "--kernel", "6.1", "--logs", directory, *arguments],
        cwd=rig.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    (line,) = ended.stderr.splitlines()
    assert ended.stdout == ""
    with open(line.rpartition(" ")[2], "rb") as file:
        return ended.returncode, line, file.read()


@pytest.mark.usefixtures("oldest")
@pytest.mark.long
def test_a_panic_ends_the_run_with_one_line_and_a_log(tmp_path: os.PathLike[str]) -> None:
    crash = ("sh", "-c", "echo c >/proc/sysrq-trigger")
    status, line, log = _ended(tmp_path, "--seconds", str(ENOUGH), "--", *crash)
    assert status == 125
    assert line.startswith(
        "kernel 6.1: the guest ended without a result: kernel panic: sysrq triggered crash; "
    )
    assert b"Kernel panic - not syncing: sysrq triggered crash" in log


@pytest.mark.usefixtures("oldest")
def test_a_guest_that_hangs_ends_with_one_line_and_a_log(tmp_path: os.PathLike[str]) -> None:
    status, line, _ = _ended(tmp_path, "--seconds", "1", "--", "sleep", "infinity")
    assert status == 124
    assert line.startswith("kernel 6.1: the guest did not end within 1 seconds; ")


def test_a_module_that_a_kernel_lacks_is_named(oldest: Machine) -> None:
    with pytest.raises(NoModule, match="has no module no_such_module"):
        oldest.kernel.modules(["no-such-module"])


def test_modules_come_after_what_they_depend_on(oldest: Machine) -> None:
    names = [module.name for module in oldest.kernel.modules(["virtiofs"])]
    assert names.index("fuse") < names.index("virtiofs")
    assert names.index("virtio") < names.index("virtiofs")


def test_a_word_with_a_nul_is_refused_in_a_plan() -> None:
    plan = Plan()
    with pytest.raises(ValueError, match="null byte"):
        plan.module("a\0b")


def test_every_part_of_an_archive_begins_at_a_multiple_of_four() -> None:
    whole = initramfs.archive([initramfs.file("a", b"x"), initramfs.directory("bc")])
    assert len(whole) % 4 == 0
    assert [at for at in range(0, len(whole), 4) if whole[at : at + 6] == b"070701"] == [
        0,
        116,
        232,
    ]
