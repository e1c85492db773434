"""Runs one program on two systems and reports where they differ, in results and on disk."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..posix.layers import write_layer
from ..posix.systems import KernelOverlay, Stack, System
from .differences import DIFFERENCES
from .observation import Description, Result, Tree, look
from .operations import Operation, Slots, result_of
from .program import Program
from .script import script


class Disagreement(AssertionError):
    """The two systems differ. The text lists the differences and a script that reproduces them."""


@dataclass(frozen=True)
class Outcome:
    """The results of a program on one system."""

    results: tuple[Result, ...]
    tree: Tree
    lowers_before: tuple[Tree, ...]
    lowers_after: tuple[Tree, ...]


@dataclass(frozen=True)
class Directories:
    """One system's directories, all on one file system."""

    directory: str
    unprivileged: bool

    def stack(self, program: Program) -> Stack:
        lowers = tuple(self._path(f"lower{number}") for number in range(len(program.layers)))
        return Stack(lowers, upper=self._path("upper"), work=self._path("work"))

    @property
    def target(self) -> bytes:
        return self._path("merged")

    def _path(self, name: str) -> bytes:
        return os.fsencode(os.path.join(self.directory, name))

    def build(self, program: Program) -> None:
        stack = self.stack(program)
        for path in (*stack.lowers, self._path("upper"), self._path("work"), self.target):
            os.makedirs(path)
        prefix = "user" if self.unprivileged else "trusted"
        for layer, lower in zip(program.layers, stack.lowers, strict=True):
            write_layer(layer, os.fsdecode(lower), xattr_prefix=prefix)

    def remove(self) -> None:
        shutil.rmtree(self.directory)


def compare(
    program: Program, reference: System, subject: System, directory: str, *, unprivileged: bool
) -> list[str]:
    """Every difference of `subject` from `reference`, a line each; runs inside a sandbox.

    `directory`: an empty directory; empty again afterwards.
    """
    one = Directories(os.path.join(directory, "reference"), unprivileged)
    two = Directories(os.path.join(directory, "subject"), unprivileged)
    try:
        one.build(program)
        two.build(program)
        return list(_disagreements(program, reference, subject, one, two))
    finally:
        os.chdir("/")
        one.remove()
        two.remove()


def explain(
    program: Program, disagreements: list[str], *, unprivileged: bool, metacopy: bool = False
) -> str:
    """The text of a failure."""
    shell = script(program, unprivileged=unprivileged, metacopy=metacopy)
    return "\n".join([*disagreements, "", "To reproduce:", "", shell])


def _disagreements(
    program: Program, reference: System, subject: System, one: Directories, two: Directories
) -> Iterator[str]:
    expected = _execute(program, reference, one)
    actual = _execute(program, subject, two)
    moves_times = isinstance(reference, KernelOverlay) and reference.metacopy
    if moves_times:
        expected = replace(
            expected,
            results=tuple(map(_with_kept_time, expected.results, actual.results)),
            tree=_with_kept_times(expected.tree, actual.tree),
        )
    yield from step_differences(program.operations, expected.results, actual.results)
    yield from tree_differences("at the end", expected.tree, actual.tree)
    for before, after in zip(actual.lowers_before, actual.lowers_after, strict=True):
        yield from tree_differences("in a lower layer, which must not change", before, after)
    # On disk: each system's upper, mounted by the other one, must show the same tree.
    again = _show(program, reference, one)
    yield from tree_differences(
        f"{reference.name}'s upper mounted by {subject.name}", again, _show(program, subject, one)
    )
    ours = _show(program, reference, two)
    yield from tree_differences(
        f"{subject.name}'s upper mounted by {reference.name}",
        _with_kept_times(again, ours) if moves_times else again,
        ours,
    )


# The kernel's overlayfs moves the modification time of a file whose data it copies after its metadata.


def _with_kept_times(kernel: Tree, ours: Tree) -> Tree:
    return {
        path: replace(found, description=_kept(found.description, ours[path].description))
        if path in ours
        else found
        for path, found in kernel.items()
    }


def _with_kept_time(kernel: Result, ours: Result) -> Result:
    if isinstance(kernel.value, Description) and isinstance(ours.value, Description):
        return kernel._replace(value=_kept(kernel.value, ours.value))
    if isinstance(kernel.value, dict) and isinstance(ours.value, dict):
        return kernel._replace(value=_with_kept_times(kernel.value, ours.value))
    return kernel


def _kept(kernel: Description, ours: Description) -> Description:
    moved = kernel.modified == "now" and stat.S_ISREG(kernel.kind)
    return kernel._replace(modified=ours.modified) if moved else kernel


def _execute(program: Program, system: System, directories: Directories) -> Outcome:
    stack = directories.stack(program)
    before = tuple(look(os.fsdecode(lower)) for lower in stack.lowers)
    system.mount(stack, directories.target)
    slots: Slots = {}
    try:
        os.chdir(directories.target)
        results = tuple(result_of(operation, slots) for operation in program.operations)
        tree = look(".")
    finally:
        for fd in slots.values():
            os.close(fd)
        os.chdir("/")
        system.unmount(directories.target)
    after = tuple(look(os.fsdecode(lower)) for lower in stack.lowers)
    return Outcome(results, tree, before, after)


def _show(program: Program, system: System, directories: Directories) -> Tree:
    system.mount(directories.stack(program), directories.target)
    try:
        return look(os.fsdecode(directories.target))
    finally:
        system.unmount(directories.target)


def step_differences(
    operations: Sequence[Operation], kernel: Sequence[Result], ours: Sequence[Result]
) -> Iterator[str]:
    """The steps whose results differ, except as `DIFFERENCES` permits."""
    for number, (operation, expected, seen) in enumerate(
        zip(operations, kernel, ours, strict=True)
    ):
        if expected != seen and not _is_documented(operation, expected, seen):
            yield f"step {number}, {operation}: {_result(expected, seen)}"


def _is_documented(operation: Operation, kernel: Result, ours: Result) -> bool:
    return any(difference.explains(operation, kernel, ours) for difference in DIFFERENCES)


def _result(kernel: Result, ours: Result) -> str:
    if isinstance(kernel.value, dict) and isinstance(ours.value, dict):
        return "; ".join(tree_differences("then", kernel.value, ours.value))
    return f"{kernel.error or kernel.value!r} expected, {ours.error or ours.value!r} seen"


def tree_differences(where: str, expected: Tree, actual: Tree) -> Iterator[str]:
    """The paths that differ between two trees, a line each."""
    for path in sorted(expected.keys() | actual.keys()):
        if path not in actual:
            yield f"{where}: {path} is missing"
        elif path not in expected:
            yield f"{where}: {path} should not be there"
        elif expected[path] != actual[path]:
            yield f"{where}: {path} is {actual[path]}, expected {expected[path]}"
