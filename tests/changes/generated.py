"""Generated programs on real mounts: what each test of them needs."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import pytest
from hypothesis import given

from ..oracle.comparison import Directories
from ..oracle.operations import Operation, Slots, result_of
from ..oracle.program import Program, programs, settings_of
from ..oracle.script import script
from ..posix.sandbox import Sandbox
from ..posix.systems import KernelOverlay, Stack, System

UNPRIVILEGED = os.geteuid() != 0

T = TypeVar("T")


@pytest.fixture(scope="module")
def isolated() -> Iterator[Sandbox]:
    """Not `sandbox`, in which a whole test runs: each program has its own minute."""
    with contextlib.closing(Sandbox(unprivileged=UNPRIVILEGED)) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def directory(isolated: Sandbox) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="overlaykit-changes-", dir="/var/tmp") as directory:
        yield directory


def check(
    isolated: Sandbox,
    directory: str,
    wrong: Callable[[Program, Stack, Directories], Iterable[str]],
    *,
    examples: int,
) -> None:
    """Run `wrong` in the sandbox for each program, with its directories made. It says what is wrong, a line each."""

    def run(program: Program) -> list[str]:
        place = Directories(os.path.join(directory, "one"), UNPRIVILEGED)
        place.build(program)
        try:
            return list(wrong(program, place.stack(program), place))
        finally:
            os.chdir("/")
            place.remove()

    @settings_of(examples)
    @given(programs(unprivileged=UNPRIVILEGED))
    def agree(program: Program) -> None:
        found = isolated.run(lambda: run(program))
        if found:
            raise AssertionError("\n".join([*found, script(program, unprivileged=UNPRIVILEGED)]))

    agree()


def of_lowers(stack: Stack, place: Directories, look: Callable[[str], T]) -> T:
    """What `look` finds in the merged lowers, before anything is written."""
    empty = [os.path.join(os.fsencode(place.directory), name) for name in (b"no-upper", b"no-work")]
    for path in empty:
        os.mkdir(path)
    reference = KernelOverlay(UNPRIVILEGED)
    reference.mount(Stack(stack.lowers, *empty), place.target)
    try:
        return look(os.fsdecode(place.target))
    finally:
        reference.unmount(place.target)


def after(
    program: Program, system: System, stack: Stack, target: bytes, look: Callable[[str], T]
) -> T:
    """What `look` finds in a mount after the program's operations."""
    system.mount(stack, target)
    try:
        os.chdir(target)
        run(program.operations)
        return look(os.fsdecode(target))
    finally:
        os.chdir("/")
        system.unmount(target)


def run(operations: Iterable[Operation]) -> None:
    """Run operations in the current directory, whatever their results."""
    slots: Slots = {}
    for operation in operations:
        result_of(operation, slots)
    for fd in slots.values():
        os.close(fd)
