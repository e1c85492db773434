"""Modes deny an ordinary user's daemon its own files: a mode that it widens for an operation is restored."""

from __future__ import annotations

import importlib
import os
import signal
import stat
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import pytest

from overlaykit import _native, attributes
from overlaykit.overlay import faults
from overlaykit.overlay.attributes import Changes
from overlaykit.overlay.stack import MergeOptions
from overlaykit.reader import Reader

from ..posix.table import Dir, File, Layer, Link, Whiteout
from .inside import as_bound_user
from .seen import Seen, look_through
from .stack import Stack
from .view import View

pytestmark = as_bound_user

OPTIONS: Final = MergeOptions(userxattr=True, reader=Reader())
STEPS: Final = ("mode.recorded", "mode.widened", "mode.restored")
_MODULES: Final = ("modes", "copyup", "creation", "removal", "renaming", "whiteouts")

Tree: TypeAlias = Mapping[str, Seen]

_FILE: Final = File(b"content" * 3000, 0o444, xattrs={"user.k": b"v"}, mtime_ns=10**18)
_CLOSED: Final[Layer] = {
    "d": Dir(0o555, mtime_ns=10**18),
    "d/s": Dir(0o555, mtime_ns=10**18),
    "d/s/f": _FILE,
    "d/s/g": File(b"g", 0),
}
_LINKED: Final[Layer] = {"a": _FILE, "b": Link("a"), "d": Dir(0o555), "d/c": Link("a")}


@dataclass(frozen=True)
class Operation:
    act: Callable[[View], object]
    lower: Layer = field(default_factory=dict)
    upper: Layer = field(default_factory=dict)
    steps: tuple[str, ...] = STEPS


OPERATIONS: Final = {
    "chmod of a file two closed directories deep": Operation(
        lambda view: view.change("d/s/f", Changes(mode=0o400)), _CLOSED
    ),
    "chmod of a file closed to all": Operation(
        lambda view: view.change("d/s/g", Changes(mode=0o600)), _CLOSED
    ),
    "a write into a file to write only": Operation(
        lambda view: view.write("f", b"new"), upper={"f": File(b"old", 0o200)}
    ),
    "chmod of a hard-linked file": Operation(
        lambda view: view.change("d/c", Changes(mode=0o400)), _LINKED
    ),
    "one more name for a hard-linked file": Operation(lambda view: view.link("b", "n"), _LINKED),
    "rename of a closed directory": Operation(
        lambda view: view.rename("d", "n"), _CLOSED, steps=(*STEPS, "rename.moved")
    ),
    "rename of a new closed directory into another": Operation(
        lambda view: view.rename("n", "p/m"),
        {"p": Dir(0o755)},
        {"n": Dir(0o555), "n/f": _FILE},
        (*STEPS, "rename.moved"),
    ),
    "rename of a directory onto a closed one that was emptied": Operation(
        lambda view: view.rename("n", "w"),
        {"w": Dir(), "w/f": _FILE},
        {"n": Dir(0o711), "w": Dir(0o111), "w/f": Whiteout()},
        (*STEPS, "rename.cleared", "rename.moved"),
    ),
    "rmdir of a closed directory that holds whiteouts": Operation(
        lambda view: view.rmdir("w"),
        {"w": Dir(), "w/f": _FILE},
        {"w": Dir(0o111), "w/f": Whiteout()},
        (*STEPS, "rmdir.removed"),
    ),
    "mkdir of a closed directory where a lower's is hidden": Operation(
        lambda view: view.mkdir("w", 0o555),
        {"w": Dir(), "w/f": _FILE},
        {"w": Whiteout()},
        (*STEPS, "create.published"),
    ),
    "a new name in a closed directory": Operation(lambda view: view.create("d/s/new"), _CLOSED),
}


def _build(stack: Stack, operation: Operation) -> Stack:
    stack.add(operation.lower)
    os.mkdir(stack.upper)
    top = Stack(stack.upper, unprivileged=True)
    top.add(operation.upper)  # in a directory of the upper, from which it is moved up
    for name in os.listdir(top.lowers[0]):
        path = os.path.join(top.lowers[0], name)
        mode = stat.S_IMODE(os.lstat(path).st_mode)
        if os.path.isdir(path):
            os.chmod(path, 0o700)
        os.rename(path, os.path.join(stack.upper, name))
        if os.path.isdir(os.path.join(stack.upper, name)):
            os.chmod(os.path.join(stack.upper, name), mode)
    os.rmdir(top.lowers[0])
    return stack


def _shown(stack: Stack) -> dict[str, Seen]:
    with stack.bare(options=OPTIONS) as view:
        assert [
            n for n in os.listdir(os.path.join(stack.work, "work")) if n.startswith("mode")
        ] == []
        seen = look_through(view)
    return {
        path: one._replace(
            links=0 if stat.S_ISDIR(one.mode) else one.links, mtime_ns=min(one.mtime_ns, 10**18)
        )
        for path, one in seen.items()
    }


def _dies(stack: Stack, operation: Operation, fault: str) -> bool:
    """Run the operation in a process with the fault. Returns: whether it died."""
    child = os.fork()
    if child == 0:
        try:
            os.environ["OVERLAYKIT_FAULT"] = fault
            armed = importlib.reload(faults).reach
            for name in _MODULES:
                vars(importlib.import_module(f"overlaykit.overlay.{name}"))["reach"] = armed
            with stack.bare(options=OPTIONS) as view:
                operation.act(view)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
    return os.waitstatus_to_exitcode(status) != 0


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_crash_while_a_mode_is_widened_leaves_the_mode_that_was_shown(
    stack: Stack, name: str
) -> None:
    operation = OPERATIONS[name]
    os.umask(0)

    def fresh(label: str) -> Stack:
        directory = os.path.join(stack.directory, label)
        os.mkdir(directory)
        return _build(Stack(directory, unprivileged=True), operation)

    expected = fresh("expected")
    before = _shown(expected)
    with expected.bare(options=OPTIONS) as view:
        operation.act(view)
    after = _shown(expected)
    crashes = 0
    for step in operation.steps:
        for number in range(1, 100):
            crashed = fresh(f"{step}-{number}")
            if not _dies(crashed, operation, f"{step}:{number}"):
                assert _shown(crashed) == after
                break
            assert _shown(crashed) in (before, after), f"{step}:{number}"
            crashes += 1
    assert crashes >= len(operation.steps)


def test_an_invalid_record_changes_nothing_and_is_removed(stack: Stack) -> None:
    stack.add({"f": File(mode=0o600)})
    with stack.bare(options=OPTIONS) as view:
        view.change("f", Changes(mode=0o640))
    work = os.path.join(stack.work, "work")
    number, outside, home = map(_identity, (os.path.join(stack.upper, "f"), stack.directory, work))
    for name, target in {
        "mode.1": "nothing",
        "mode.2": "9 x x 0 f",
        "mode.3": f"0 {number} {home} 7 f",
        "mode.4": f"0 {outside} {home} 0 ..",
        "mode.x": "0 1 1 0 f",
    }.items():
        os.symlink(target, os.path.join(work, name))
    open(os.path.join(work, "mode.5"), "w").close()
    mode = os.stat(stack.directory).st_mode
    with stack.bare(options=OPTIONS) as view:
        assert os.listdir(work) == []
        assert view.stat("f").mode == stat.S_IFREG | 0o640
    assert os.stat(stack.directory).st_mode == mode


def test_a_record_is_of_the_inode_wherever_it_was_moved(stack: Stack) -> None:
    stack.add({})
    with stack.bare(options=OPTIONS) as view:
        view.mkdir("a")
        view.create("a/f", mode=0o640)
    work = os.path.join(stack.work, "work")
    number, home = map(_identity, (os.path.join(stack.upper, "a/f"), work))
    os.rename(os.path.join(stack.upper, "a"), os.path.join(stack.upper, "b"))
    os.symlink(f"100440 {number} {home} 0 a/f", os.path.join(work, "mode.1"))
    with stack.bare(options=OPTIONS) as view:
        assert view.stat("b/f").mode == stat.S_IFREG | 0o440


def test_a_record_does_not_change_a_file_with_a_reused_inode_number(stack: Stack) -> None:
    stack.add({})
    with stack.bare(options=OPTIONS) as view:
        view.create("f", mode=0o640)
    work = os.path.join(stack.work, "work")
    number, _, _ = _identity(os.path.join(stack.upper, "f")).partition(".")
    for name in ("f", "gone"):
        os.symlink(f"100040 {number}.1 {_identity(work)} 0 {name}", os.path.join(work, "mode.1"))
        with stack.bare(options=OPTIONS) as view:
            assert view.stat("f").mode == stat.S_IFREG | 0o640


def test_a_copy_of_an_upper_in_which_a_mode_was_widened_has_the_mode_that_was_shown(
    stack: Stack,
) -> None:
    operation = OPERATIONS["a write into a file to write only"]
    _build(stack, operation)
    before = _shown(stack)
    assert _dies(stack, operation, "mode.widened:1")
    copy = os.path.join(stack.directory, "copy")
    os.mkdir(copy)
    paths = (*stack.lowers, stack.upper, stack.work)
    subprocess.run(["cp", "-a", *paths, copy], check=True)
    copied = Stack(copy, unprivileged=True)
    copied.lowers = [os.path.join(copy, os.path.basename(path)) for path in stack.lowers]
    assert _shown(copied) == before


def _identity(path: str) -> str:
    mask = _native.STATX_BASIC_STATS | _native.STATX_BTIME
    st = attributes.statx(_native.AT_FDCWD, os.fsencode(path), 0, mask)
    return f"{st.ino}.{st.btime_ns if st.mask & _native.STATX_BTIME else 0}"
