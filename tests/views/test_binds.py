"""Options of `-v`: attributes and propagation of the mounts that a view shares with the host."""

from __future__ import annotations

import os
import subprocess

from overlaykit import _native

from .fixtures import only_as, only_with
from .user import TestUser, command

MS_SHARED = 1 << 20
"""sys/mount.h."""


def test_programs_of_a_bind_are_not_executed(user: TestUser) -> None:
    directory = user.directory("shared", program="#!/bin/sh\necho executed\n")
    os.chmod(f"{directory}/program", 0o755)
    assert user.succeeds("run", "-v", f"{directory}:/mnt", "--", "/mnt/program") == "executed\n"
    said = user.refused("run", "-v", f"{directory}:/mnt:noexec", "--", "/mnt/program", status=126)
    assert said.startswith("/mnt/program: cannot be executed")


def flags(user: TestUser, *options: str) -> set[str]:
    """The options of the mount at /mnt of a view."""
    line = user.succeeds("run", *options, "--", "findmnt", "-no", "VFS-OPTIONS", "/mnt")
    return set(line.strip().split(","))


def test_a_bind_has_the_options_that_are_asked_for(user: TestUser) -> None:
    directory = user.directory("shared", file="x")
    assert {"ro", "nosuid", "nodev"} <= flags(user, "-v", f"{directory}:/mnt:ro,nosuid,nodev")
    assert not {"ro", "nosuid", "noexec"} & flags(user, "-v", f"{directory}:/mnt")
    assert "noexec" in flags(
        user, "-v", f"{directory}/file:/mnt/file:noexec", "-v", f"{directory}:/mnt:noexec"
    )


@only_as("root")
def test_an_option_of_the_hosts_mount_is_cleared(user: TestUser) -> None:
    directory = user.directory("shared")
    _native.mount("tmpfs", directory, "tmpfs", _native.MS_NOEXEC | _native.MS_NOSUID, "")
    assert {"noexec", "nosuid"} <= flags(user, "-v", f"{directory}:/mnt")
    assert not {"noexec", "nosuid"} & flags(user, "-v", f"{directory}:/mnt:exec,suid")
    _native.umount2(directory, 0)


@only_as("ordinary user")
@only_with(driver="fuse")
def test_a_user_cannot_clear_what_the_host_sets(user: TestUser) -> None:
    directory = user.directory("shared")
    arrange = f"mount -t tmpfs -o nosuid,noexec t {directory}"
    run = ("run", "-v", f"{directory}:/mnt:exec", "--", "true")
    done = user.changed_machine(arrange, *run)
    assert done.returncode == 125
    said = f"overlaykit: -v {directory}: exec, suid and dev cannot be given where the host's"
    assert done.stderr.startswith(said)


@only_as("root")
@only_with(driver="fuse")
def test_what_is_mounted_outside_later_is_seen_in_a_slave(user: TestUser) -> None:
    directory = user.directory("shared")
    _native.mount("tmpfs", directory, "tmpfs", 0, "")
    _native.mount(None, directory, None, MS_SHARED)
    os.mkdir(f"{directory}/sub")
    for option, seen in (("rslave", "seen"), ("rprivate", "not seen")):
        script = "echo; read line; test -e /mnt/sub/file && echo seen || echo not seen"
        with subprocess.Popen(
            [command(), "run", "-v", f"{directory}:/mnt:{option}", "--", "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as running:
            assert running.stdin is not None
            assert running.stdout is not None
            running.stdout.readline()
            _native.mount("tmpfs", f"{directory}/sub", "tmpfs", 0, "")
            with open(f"{directory}/sub/file", "w"):
                pass
            running.stdin.write("\n")
            running.stdin.close()
            assert running.stdout.read() == f"{seen}\n"
        _native.umount2(f"{directory}/sub", 0)
    _native.umount2(directory, 0)


@only_as("root")
@only_with(driver="fuse")
def test_what_a_view_mounts_is_seen_outside_of_a_shared_bind(user: TestUser) -> None:
    directory = user.directory("shared")
    _native.mount("tmpfs", directory, "tmpfs", 0, "")
    _native.mount(None, directory, None, MS_SHARED)
    os.mkdir(f"{directory}/sub")
    mount = ("mount", "-t", "tmpfs", "inside", "/mnt/sub")
    for option, seen in (("rslave", False), ("rshared", True)):
        bind = f"{directory}:/mnt:{option}"
        user.succeeds("run", "-v", bind, "--cap-add", "SYS_ADMIN", "--", *mount)
        assert os.path.ismount(f"{directory}/sub") == seen
        if seen:
            _native.umount2(f"{directory}/sub", 0)
    _native.umount2(directory, 0)
