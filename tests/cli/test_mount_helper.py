"""`mount -t fuse.overlaykit` and lines in fstab: mount(8) finds us, and umount(8) ends what it mounted."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from overlaykit import mountinfo

from ..posix import syscalls
from ..views.someone import Someone
from ..views.staged import only_as

pytestmark = only_as("root")  # mount(8) is root's

OWN, OF_FUSE = "mount.fuse.overlaykit", "overlaykit"
"""The program that mount(8) runs itself, and the one that mount.fuse3 runs for it."""

TYPE = "fuse.overlaykit"


@pytest.fixture(params=[OWN, OF_FUSE])
def program(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextlib.contextmanager
def installed(someone: Someone, program: str) -> Iterator[None]:
    """Let mount(8) find a program of ours, in this mount namespace alone."""
    directory = "/usr/sbin" if program == OWN else "/usr/local/sbin"
    added, work = someone.directory("added"), someone.directory("added-work")
    os.symlink(os.path.join(os.path.dirname(sys.executable), program), f"{added}/{program}")
    options = f"lowerdir={directory},upperdir={added},workdir={work}"
    subprocess.run(["mount", "-i", "-t", "overlay", "-o", options, "none", directory], check=True)
    try:
        yield
    finally:
        syscalls.umount2(os.fsencode(directory), syscalls.MNT_DETACH)


def umount(someone: Someone, target: str) -> None:
    """With umount(8), which does not wait for the daemon."""
    someone.program(["umount", target])
    someone.await_the_end()


def shown(target: str) -> list[tuple[str, str]]:
    """The mounts there: type and options."""
    return [(one.fstype, one.mountpoint) for one in mountinfo.current() if one.mountpoint == target]


def test_a_line_in_fstab_mounts_and_umount_unmounts(someone: Someone, program: str) -> None:
    lower, upper, work = map(someone.directory, ("lo wer", "up:per", "work"))
    target = someone.directory("tar get")
    someone.write(os.path.join(lower, "file"), "from the lower\n")
    options = f"nofail,x-systemd.automount,_netdev,noatime,lowerdir={lower}"
    options += f",upperdir={upper},workdir={work}"
    line = "\t".join(field.replace(" ", "\\040") for field in ("none", target, TYPE, options))
    fstab = someone.write(someone.path("fstab"), f"{line}\t0\t0\n")
    with installed(someone, program):
        someone.program(["mount", "-T", fstab, target])
        try:
            assert shown(target) == [(TYPE, target)]
            with open(os.path.join(target, "file")) as file:
                assert file.read() == "from the lower\n"
            someone.write(os.path.join(target, "new"), "new\n")
            assert "noatime" in someone.program(["findmnt", "-no", "OPTIONS", target])
        finally:
            umount(someone, target)
        assert os.listdir(upper) == ["new"]
        someone.program(["mount", "-o", "ro", "-T", fstab, target])
        try:
            with pytest.raises(OSError, match="Read-only file system"):
                os.unlink(os.path.join(target, "new"))
        finally:
            umount(someone, target)
        someone.program(["mount", "--all", "-T", fstab])
        try:
            assert shown(target) == [(TYPE, target)]
            someone.program(["mount", "--all", "-T", fstab])
            assert shown(target) == [(TYPE, target)]
        finally:
            umount(someone, target)


def test_the_program_may_be_named_in_the_source(someone: Someone) -> None:
    lower, target = someone.directory("lower"), someone.directory("target")
    with installed(someone, OF_FUSE):
        for source, seen in ("overlaykit#name", "name"), ("overlaykit", "overlaykit"):
            someone.program(["mount", "-t", "fuse", "-o", f"lowerdir={lower}", source, target])
            try:
                assert someone.program(["findmnt", "-no", "SOURCE", target]) == f"{seen}\n"
            finally:
                umount(someone, target)


def test_mount_says_why_not(someone: Someone, program: str) -> None:
    target = someone.directory("target")
    with installed(someone, program):
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


def test_what_mount_passes_on_is_understood(someone: Someone) -> None:
    lower, target = someone.directory("lower"), someone.directory("target")
    options = ["-o", f"lowerdir={lower}", "-o", "unheard-of=1"]
    command = ["mount", "-t", TYPE, *options, "a source", target]
    with installed(someone, OWN):
        someone.program([*command, "-v", "-n", "-s"])
        try:
            source = someone.program(["findmnt", "-no", "SOURCE,OPTIONS", target])
            assert source.startswith("a source ro,")
        finally:
            umount(someone, target)
        someone.program([*command, "-f", "-s"])
        assert shown(target) == []
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "mount option unheard-of=1: not one of" in done.stderr
        assert shown(target) == []


def test_a_word_that_is_no_command_is_still_told(someone: Someone) -> None:
    for arguments in ("none", "target", "-o", "lowerdir=/"), ("none", "/t"):
        line = someone.refused(*arguments)
        assert line == f"{arguments[0]}: no such command: 'overlaykit --help' lists them"
