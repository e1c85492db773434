"""`mount -t fuse.overlaykit` and lines in fstab: mount(8) finds the helper, and umount(8) ends its mounts."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from overlaykit import mountinfo

from ..posix import syscalls
from ..views.fixtures import only_as
from ..views.user import TestUser

pytestmark = only_as("root")  # mount(8) is root's

OWN, OF_FUSE = "mount.fuse.overlaykit", "overlaykit"
"""The program that mount(8) runs itself, and the one that mount.fuse3 runs for it."""

TYPE = "fuse.overlaykit"


@pytest.fixture(params=[OWN, OF_FUSE])
def program(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextlib.contextmanager
def installed(user: TestUser, program: str) -> Iterator[None]:
    """Install a program of ours for mount(8), in this mount namespace only."""
    directory = "/usr/sbin" if program == OWN else "/usr/local/sbin"
    added, work = user.directory("added"), user.directory("added-work")
    os.symlink(os.path.join(os.path.dirname(sys.executable), program), f"{added}/{program}")
    options = f"lowerdir={directory},upperdir={added},workdir={work}"
    subprocess.run(["mount", "-i", "-t", "overlay", "-o", options, "none", directory], check=True)
    try:
        yield
    finally:
        syscalls.umount2(os.fsencode(directory), syscalls.MNT_DETACH)


def umount(user: TestUser, target: str) -> None:
    """Unmount with umount(8), which does not wait for the daemon."""
    user.program(["umount", target])
    user.wait_for_descendants()


def mounts_at(target: str) -> list[tuple[str, str]]:
    """The type and options of each mount there."""
    return [(one.fstype, one.mountpoint) for one in mountinfo.current() if one.mountpoint == target]


def test_a_line_in_fstab_mounts_and_umount_unmounts(user: TestUser, program: str) -> None:
    lower, upper, work = map(user.directory, ("lo wer", "up:per", "work"))
    target = user.directory("tar get")
    user.write(os.path.join(lower, "file"), "from the lower\n")
    options = f"nofail,x-systemd.automount,_netdev,noatime,lowerdir={lower}"
    options += f",upperdir={upper},workdir={work}"
    line = "\t".join(field.replace(" ", "\\040") for field in ("none", target, TYPE, options))
    fstab = user.write(user.path("fstab"), f"{line}\t0\t0\n")
    with installed(user, program):
        user.program(["mount", "-T", fstab, target])
        try:
            assert mounts_at(target) == [(TYPE, target)]
            with open(os.path.join(target, "file")) as file:
                assert file.read() == "from the lower\n"
            user.write(os.path.join(target, "new"), "new\n")
            assert "noatime" in user.program(["findmnt", "-no", "OPTIONS", target])
        finally:
            umount(user, target)
        assert os.listdir(upper) == ["new"]
        user.program(["mount", "-o", "ro", "-T", fstab, target])
        try:
            with pytest.raises(OSError, match="Read-only file system"):
                os.unlink(os.path.join(target, "new"))
        finally:
            umount(user, target)
        user.program(["mount", "--all", "-T", fstab])
        try:
            assert mounts_at(target) == [(TYPE, target)]
            user.program(["mount", "--all", "-T", fstab])
            assert mounts_at(target) == [(TYPE, target)]
        finally:
            umount(user, target)


def test_the_program_may_be_named_in_the_source(user: TestUser) -> None:
    lower, target = user.directory("lower"), user.directory("target")
    with installed(user, OF_FUSE):
        for source, seen in ("overlaykit#name", "name"), ("overlaykit", "overlaykit"):
            user.program(["mount", "-t", "fuse", "-o", f"lowerdir={lower}", source, target])
            try:
                assert user.program(["findmnt", "-no", "SOURCE", target]) == f"{seen}\n"
            finally:
                umount(user, target)


def test_mount_reports_why_it_fails(user: TestUser, program: str) -> None:
    target = user.directory("target")
    with installed(user, program):
        done = subprocess.run(
            ["mount", "-t", TYPE, "-o", "lowerdir=/missing", "none", target],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 125
    assert done.stderr == (
        "overlaykit: layer /missing: No such file or directory: give a directory that can be read\n"
    )


def test_options_that_mount_passes_on_are_accepted(user: TestUser) -> None:
    lower, target = user.directory("lower"), user.directory("target")
    options = ["-o", f"lowerdir={lower}", "-o", "unheard-of=1"]
    command = ["mount", "-t", TYPE, *options, "a source", target]
    with installed(user, OWN):
        user.program([*command, "-v", "-n", "-s"])
        try:
            source = user.program(["findmnt", "-no", "SOURCE,OPTIONS", target])
            assert source.startswith("a source ro,")
        finally:
            umount(user, target)
        user.program([*command, "-f", "-s"])
        assert mounts_at(target) == []
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "mount option unheard-of=1: not one of" in done.stderr
        assert mounts_at(target) == []


def test_an_unknown_command_is_reported_beside_the_mount_helper(user: TestUser) -> None:
    for arguments in ("none", "target", "-o", "lowerdir=/"), ("none", "/t"):
        line = user.refused(*arguments)
        assert line == f"{arguments[0]}: no such command: 'overlaykit --help' lists them"
