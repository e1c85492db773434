"""`--disk` where the file system of the upper keeps limits of projects: ext4 and XFS, with both drivers.

A suite of tests/kernels runs this file by its name, in a guest whose kernel has them. Elsewhere it fails: it has no
name that pytest collects, and it skips nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import subprocess
from collections.abc import Iterator
from typing import Any, Final

import pytest

from overlaykit import _native

from .fixtures import only_as, with_both_drivers
from .user import TestUser

assert os.geteuid() == 0, "only root has project quotas"

MIB: Final = 1 << 20
FULL: Final = "No space left on device"
FILL: Final = "dd if=/dev/zero of=large bs=64k count=200 conv=fsync"

NEXT_PROJECT_QUOTA: Final = 0x80000902
"""QCMD(Q_GETNEXTQUOTA, PRJQUOTA) of include/uapi/linux/quota.h."""

MAKE: Final = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-O", "quota,project"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
}

pytestmark = [only_as("root"), with_both_drivers, pytest.mark.parametrize("kind", MAKE)]


@contextlib.contextmanager
def on_disk_with_quota(user: TestUser, kind: str) -> Iterator[None]:
    """Mount a file system that keeps limits of projects over the user's home, and so below all uppers."""
    image = user.path("image")
    with open(image, "wb") as file:
        file.truncate(320 * MIB)
    user.program([*MAKE[kind], image])
    user.program(["mount", "-o", "loop,prjquota", image, user.home])
    os.chdir(user.home)
    try:
        yield
        user.end_server()
    finally:
        os.chdir("/")
        user.program(["umount", user.home])


def limits(user: TestUser) -> list[int]:
    """The limits of projects on the user's disk, in bytes."""
    number, found = 1, []
    disk = os.open(user.home, os.O_RDONLY)
    with contextlib.suppress(FileNotFoundError):  # there is no further one
        while True:
            quota = bytearray(256)  # struct if_nextdqblk
            _native.quotactl_fd(disk, NEXT_PROJECT_QUOTA, number, quota)
            hard, *_, project = struct.unpack_from("=8QII", quota)
            found += [hard << 10] if hard else []
            number = project + 1
    os.close(disk)
    return found


def shell(user: TestUser, script: str, *options: str) -> subprocess.CompletedProcess[str]:
    return user.overlaykit(
        "run", "--driver", user.driver, *options, "--", "bash", "-c", f"cd /; {script}"
    )


def kill_at_once(view: dict[str, Any]) -> None:
    """Kill the processes of a view that end its limit: the daemon first, which would see the supervisor's end."""
    for process in filter(None, (view["daemon"], view["supervisor"])):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def full(user: TestUser, kind: str) -> str:
    """What a program is told that has no room: through the kernel's overlayfs, what the file system says."""
    return "Disk quota exceeded" if (user.driver, kind) == ("kernel", "ext4") else FULL


def test_the_file_system_keeps_the_limit_of_a_view_and_forgets_it(
    user: TestUser, kind: str
) -> None:
    with on_disk_with_quota(user, kind):
        running = user.start(
            *("run", "--driver", user.driver, "--disk", "8m", "--", "bash", "-c"),
            f"cd /; {FILL}; rm large; set -e;"
            "for i in 1 2 3; do dd if=/dev/zero of=f bs=1M count=6 conv=fsync status=none; rm f; done;"
            "df -B1 --output=size . | tail -1; read line",
            stderr=subprocess.PIPE,
        )
        assert running.stdout is not None
        assert running.stdout.readline().strip() == str(8 * MIB)
        assert limits(user) == [8 * MIB]
        _, said = running.communicate("\n")
        assert running.returncode == 0, said
        assert full(user, kind) in said
        user.wait_for_descendants()
        assert limits(user) == []


def test_names_change_as_without_a_limit(user: TestUser, kind: str) -> None:
    """No rename or link crosses from one project into another (EXDEV)."""
    layer = user.directory("layer", file=b"below", other=b"below")
    os.makedirs(os.path.join(layer, "tree", "deep"))
    user.write(os.path.join(layer, "tree", "deep", "file"), b"deep\n")
    os.symlink("file", os.path.join(layer, "link"))
    with on_disk_with_quota(user, kind):
        done = user.overlaykit(
            *("run", "--driver", user.driver, "--disk", "8m", "-l", layer),
            *("-l", user.small_system(), "-v", "/usr:/usr:ro", "--", "bash", "-euc"),
            "cd /; mkdir new; mv file link new; rm other; ln new/file new/hard; echo more >>new/hard;"
            "mkfifo new/fifo; mv new/fifo .; mv new newer; cp -r tree copy; rm -r tree; mv copy tree;"
            "cat newer/link tree/deep/file; ls -d other 2>&1 || true",
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert (
            done.stdout == "belowmore\ndeep\nls: cannot access 'other': No such file or directory\n"
        )


def test_an_upper_that_is_kept_has_its_limit_with_each_view_that_has_one(
    user: TestUser, kind: str
) -> None:
    with on_disk_with_quota(user, kind):
        upper = os.path.join(user.home, "upper")
        kept = ("--upper", upper)
        assert full(user, kind) in shell(user, FILL, "--disk", "8m", *kept).stderr
        user.wait_for_descendants()
        assert limits(user) == []
        assert shell(user, FILL, *kept).returncode == 0
        done = shell(user, "echo more >new; sync new", "--disk", "8m", *kept)
        assert full(user, kind) in done.stderr
        # A view that was killed leaves its limit, which the next one ends.
        with user.start(
            *("run", "--driver", user.driver, "--disk", "64m", *kept, "--", "bash", "-c"),
            "echo; read line",
        ) as killed:
            assert killed.stdout is not None
            killed.stdout.readline()
            assert limits(user) == [64 * MIB]
            (found,) = json.loads(user.succeeds("ps", "--json"))
            kill_at_once(found)
        user.wait_for_descendants()
        assert limits(user) == [64 * MIB]
        user.expects_log = True
        assert shell(user, "rm large", *kept).returncode == 0
        assert limits(user) == []


def test_what_was_there_before_is_counted_by_a_daemon(user: TestUser, kind: str) -> None:
    """It belongs to no project. Neither does a directory's project of someone else change."""
    with on_disk_with_quota(user, kind):
        upper = os.path.join(user.home, "upper")
        os.mkdir(upper)
        user.write(os.path.join(upper, "old"), b"o" * (6 * MIB))
        others = os.path.join(user.home, "others")
        os.mkdir(others)
        user.program(["chattr", "-p", "7", "+P", others])
        for kept in (upper, os.path.join(others, "upper")):
            options = ("--disk", "8m", "--upper", kept)
            done = shell(user, f"{FILL}; echo", *options)
            if user.driver == "kernel":
                assert done.returncode == 125
                assert "--disk 8388608: " in done.stderr
            else:
                assert FULL in done.stderr
                assert done.returncode == 0
        assert limits(user) == []


def test_a_named_view_keeps_its_limit_and_leaves_none(user: TestUser, kind: str) -> None:
    with on_disk_with_quota(user, kind):
        done = shell(user, FILL, "--name", "limited", "--disk", "8m")
        assert full(user, kind) in done.stderr
        again = user.overlaykit("start", "-a", "limited")
        assert full(user, kind) in again.stderr
        user.succeeds("rm", "limited")
        assert limits(user) == []
        # One that is killed, and then removed.
        user.succeeds(
            *("run", "-d", "--driver", user.driver, "--name", "killed", "--disk", "8m"),
            *("--", "sleep", "1000"),
        )
        (found,) = json.loads(user.succeeds("ps", "--json"))
        assert limits(user) == [8 * MIB]
        user.expects_log = True
        kill_at_once(found)
        user.wait_for_descendants()
        user.succeeds("rm", "killed")
        assert limits(user) == []
        # The next view removes the entry of the killed one.
        user.succeeds("run", "true")


def test_a_view_that_is_killed_leaves_no_limit_to_the_next(user: TestUser, kind: str) -> None:
    with on_disk_with_quota(user, kind):
        with user.start(
            *("run", "--driver", user.driver, "--disk", "8m", "--", "bash", "-c"), "echo; read line"
        ) as killed:
            assert killed.stdout is not None
            killed.stdout.readline()
            assert limits(user) == [8 * MIB]
            (found,) = json.loads(user.succeeds("ps", "--json"))
            kill_at_once(found)
        user.wait_for_descendants()
        user.expects_log = True
        assert shell(user, "true").returncode == 0
        user.wait_for_descendants()
        assert limits(user) == []
