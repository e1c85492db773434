"""The mount namespace that a daemon serves in: what it still reaches there, and what it does not."""

from __future__ import annotations

import os
import subprocess
import sys

from overlaykit import mountinfo

from ..overlay.stack import Stack
from .mounted import mounted

BEGIN = """
import logging, os, sys
from overlaykit import _native
from overlaykit.fuse import cleanup, daemon_log, minimal_namespace
from overlaykit.fuse.spec import Cleanup
directory = sys.argv[1]
stage = os.path.join(directory, "stage")
_native.unshare(_native.CLONE_NEWNS)
_native.mount(None, "/", None, _native.MS_REC | _native.MS_PRIVATE)
"""

WITHOUT_PATHS = (
    BEGIN
    + """
registry, tree, place = (os.path.join(directory, name) for name in ("registry", "place/tree", "place"))
given = Cleanup(trees=(os.path.join(registry, "entry"), tree), registry=registry, places=(place,))
daemon_log.configure(os.path.join(directory, "state/new/log"))
stage = minimal_namespace.make_stage(stage)
left = cleanup.held(given)
daemon_log.hold()
minimal_namespace.enter(stage)
assert not any(map(os.path.lexists, ("/etc", "/dev", directory, "/bin"))), os.listdir("/")
import wave  # for the first time
try:
    raise ValueError("of the test")
except ValueError:
    logging.getLogger().exception("logged")
try:
    os.mkdir("/new")
except OSError as error:
    print(error.strerror)
cleanup.remove(left)
"""
)

IN_A_CHROOT = (
    BEGIN
    + """
os.chroot(directory)
minimal_namespace.enter(minimal_namespace.make_stage("/stage"))
assert not os.path.lexists("/stage"), os.listdir("/")
assert not os.path.lexists("/../stage")
print("entered")
"""
)


def output(program: str, directory: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, directory],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_daemon_without_paths_loads_modules_logs_and_removes_what_its_mount_leaves(
    stack: Stack,
) -> None:
    directory = os.path.join(stack.directory, "host")
    for name in ("stage", "registry/entry/in", "place/tree/in", "state"):
        os.makedirs(os.path.join(directory, name))
    assert output(WITHOUT_PATHS, directory) == "Read-only file system\n"
    assert sorted(os.listdir(directory)) == ["stage", "state"]
    with open(os.path.join(directory, "state/new/log")) as file:
        log = file.read()
    assert "logged" in log
    assert "ValueError: of the test" in log


def test_a_root_that_cannot_be_exchanged_is_left_behind(stack: Stack) -> None:
    """As the initial ramfs cannot; the root of a chroot(2) is no mountpoint."""
    directory = os.path.join(stack.directory, "root")
    os.makedirs(os.path.join(directory, "stage"))
    assert output(IN_A_CHROOT, directory) == "entered\n"


def test_the_daemon_of_a_mount_has_no_path_to_what_its_caller_has(stack: Stack) -> None:
    stack.add({})
    with mounted(stack) as merged:
        root = f"/proc/{merged.process.pid}/root"
        for path in ("/etc/passwd", "/dev", "/bin", stack.directory):
            assert os.path.lexists(path)
            assert not os.path.lexists(root + path)
        found = {one.mountpoint for one in mountinfo.of_process(merged.process.pid)}
        assert {"/", "/proc"} <= found
        assert (
            not {one.mountpoint for one in mountinfo.current() if one.mountpoint[:4] == "/dev"}
            & found
        )
