"""The script that a failure prints reproduces the failure."""

from __future__ import annotations

import contextlib
import os
import subprocess

import pytest

from ..posix.sandbox import Sandbox
from ..posix.table import Dir, Fifo, File, Link, Symlink, Whiteout
from . import operations as op
from . import slots
from .operations import LONG_AGO
from .program import Program
from .script import script

PROGRAM = Program(
    layers=(
        {"d": Dir(mtime_ns=LONG_AGO * 10**9), "d/gone": Whiteout(), "o": Dir(opaque=True)},
        {
            "d": Dir(mode=0o700),
            "d/gone": File(b"gone"),
            "d/f": File(b"lower", xattrs={"user.x": b"1"}),
            "d/l": Link("d/f"),
            "s": Symlink("d/f"),
            "p": Fifo(),
            "o": Dir(),
            "o/hidden": File(b"hidden"),
        },
    ),
    operations=(
        slots.Hold(0, "d/f", "<>"),
        op.Create("new"),
        op.Write("new", "written"),
        op.Append("new", "more"),
        op.Read("new"),
        op.Truncate("new", 3),
        op.WriteMapped("new", ord("!")),
        op.Mkdir("dir"),
        op.Rename("dir", "moved"),
        op.Rename("moved", "new", 2),
        op.Rmdir("new"),
        op.Link("moved", "again"),
        op.Unlink("moved"),
        op.Symlink("again", "link"),
        op.Mkfifo("fifo"),
        op.Chmod("again", 0o4711),
        op.SetAcl("again", 0, 7, False),
        op.Touch("again", LONG_AGO),
        op.SetXattr("again", "user.y", "value"),
        op.RemoveXattr("again", "user.y"),
        op.Stat("again"),
        op.List("o"),
        op.ListInParts("o"),
        op.Look(),
        slots.WriteHeld(0, "HELD"),
        slots.ReadHeld(0),
        slots.TruncateHeld(0, 4),
        slots.ChmodHeld(0, 0o600),
        slots.ChownHeld(0, 0, 0),
        slots.TouchHeld(0, LONG_AGO),
        slots.SetXattrHeld(0, "user.z", "held"),
        slots.RemoveXattrHeld(0, "user.z"),
        slots.ReadMapped(0),
        slots.SyncHeld(0),
        slots.StatHeld(0),
        slots.SameFile(0, "d/l"),
        slots.Lock(0),
        slots.Release(0),
        op.Unlink("missing"),
    ),
)


@pytest.fixture
def bash_output() -> tuple[str, str]:
    """Standard output and error of the program's script on the kernel's overlayfs."""
    unprivileged = os.geteuid() != 0
    command = ["bash", "-c", script(PROGRAM, unprivileged=unprivileged), "bash", "kernel"]
    with contextlib.closing(Sandbox(unprivileged=unprivileged)) as sandbox:
        done = sandbox.run(lambda: subprocess.run(command, capture_output=True, text=True))
    assert done.returncode == 0
    return done.stdout, done.stderr


def test_the_printed_script_does_what_the_program_did(bash_output: tuple[str, str]) -> None:
    output, errors = bash_output
    complaints = [line for line in errors.splitlines() if line.startswith(("bash:", "unlink:"))]
    assert complaints == ["unlink: cannot unlink 'missing': No such file or directory"]
    assert "Traceback" not in errors
    assert "writtenmore" in output
    assert "regular file 4774 0:0 3 1" in output
    assert "b'HELDr'" in output
    # Whether the copied-up file and its other name are one file: the kernel has an index of hard links only as root.
    assert str(os.geteuid() == 0) in output.split()
    assert "hidden" not in output
