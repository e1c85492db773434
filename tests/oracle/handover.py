"""Hands one upper from one driver to the other and back: each shows exactly what the other left, and writes on.

A *relay* is a program whose operations are cut into turns. Each turn has a mount of its own, by the two drivers
alternately. `compare_relays` runs each turn once on each driver, and compares the two relays with each other.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from overlaykit.overlay.marker_names import USER_PREFIX
from overlaykit.overlay.uppers import find_features

from ..posix.systems import System
from .comparison import Directories, step_differences, tree_differences
from .differences import UNSHOWN
from .observation import Result, Tree, look, with_rounded_times
from .operations import Operation, Slots, result_of
from .program import Program


@dataclass(frozen=True)
class Turn:
    """One mount, from the first look at it to the last."""

    driver: System
    operations: tuple[Operation, ...]
    before: Tree
    results: tuple[Result, ...]
    after: Tree


def turns_of(program: Program, number: int) -> list[tuple[Operation, ...]]:
    """The program's operations in `number` turns of about the same length, some of them empty."""
    length = -(-len(program.operations) // number)
    return [program.operations[at * length : (at + 1) * length] for at in range(number)]


def compare_relays(
    program: Program,
    kernel: System,
    ours: System,
    directory: str,
    *,
    turns: int,
    unprivileged: bool,
) -> list[str]:
    """Every difference between the drivers, a line each; runs inside a sandbox.

    `directory`: a directory that does not exist, before and afterwards.
    """
    parts = turns_of(program, turns)
    first, second = (
        list(run_relay(program, parts, drivers, Directories(directory, unprivileged)))
        for drivers in ((kernel, ours), (ours, kernel))
    )
    return [*handover_differences(first), *handover_differences(second), *_compare(first, second)]


def show_elsewhere(
    program: Program, ours: System, kernel: System, directory: str
) -> tuple[list[str], list[str]]:
    """Run a program on ours, in a user namespace, with all that ours can do there.

    Returns: the features of the upper that the kernel does not show; and the differences of what the kernel shows if
    there are none, and of what ours shows afterwards, a line each.
    """
    directories = Directories(directory, unprivileged=True)
    stack = directories.stack(program)
    directories.build(program)
    try:
        relay = [_take_turn(program, ours, program.operations, directories)]
        assert stack.upper is not None
        assert stack.work is not None
        found = _features(stack.upper, stack.work)
        unshown = [one.feature for one in UNSHOWN if one.feature in found]
        if not unshown:
            relay.append(_take_turn(program, kernel, (), directories))
        relay.append(_take_turn(program, ours, (), directories))
    finally:
        os.chdir("/")
        directories.remove()
    return unshown, list(handover_differences(relay))


def _features(upper: bytes, work: bytes) -> frozenset[str]:
    """The features of an upper that no system has mounted, as the driver `kernel` finds them."""
    opened = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (upper, work)]
    try:
        return find_features(opened[0], opened[1], USER_PREFIX)
    finally:
        for fd in opened:
            os.close(fd)


def run_relay(
    program: Program,
    parts: list[tuple[Operation, ...]],
    drivers: tuple[System, System],
    directories: Directories,
) -> Iterator[Turn]:
    """Each part by the next driver. At the end both drivers look at what is there, and write nothing."""
    directories.build(program)
    try:
        for number, operations in enumerate([*parts, (), ()]):
            yield _take_turn(program, drivers[number % 2], operations, directories)
    finally:
        directories.remove()


def _take_turn(
    program: Program, driver: System, operations: tuple[Operation, ...], directories: Directories
) -> Turn:
    slots: Slots = {}
    driver.mount(directories.stack(program), directories.target)
    try:
        os.chdir(directories.target)
        before = look(".", exact=True)
        results = tuple(result_of(operation, slots) for operation in operations)
        after = look(".", exact=True) if operations else before
    finally:
        for fd in slots.values():
            os.close(fd)
        os.chdir("/")
        driver.unmount(directories.target)
    return Turn(driver, operations, before, results, after)


def handover_differences(relay: list[Turn]) -> Iterator[str]:
    """What a driver shows otherwise than the one before it left it, to the nanosecond."""
    for number, (turn, following) in enumerate(itertools.pairwise(relay)):
        left, shown = turn.after, following.before
        if turn.operations and turn.driver.name == "overlaykit":
            left, shown = _without_change_times(left), _without_change_times(shown)
        where = f"left by {turn.driver.name} after turn {number}, shown by {following.driver.name}"
        yield from tree_differences(where, left, shown)


def _without_change_times(tree: Tree) -> Tree:
    """Those become the disk's at the next mount (docs/differences.md)."""
    return {
        path: replace(found, description=found.description._replace(changed=None))
        for path, found in tree.items()
    }


def _compare(kernel_first: list[Turn], ours_first: list[Turn]) -> Iterator[str]:
    for number, (one, two) in enumerate(zip(kernel_first, ours_first, strict=True)):
        kernel, ours = (one, two) if one.driver.name == "kernel" else (two, one)
        steps = step_differences(one.operations, kernel.results, ours.results)
        yield from (f"turn {number}, {step}" for step in steps)
        yield from tree_differences(
            f"after turn {number}", with_rounded_times(kernel.after), with_rounded_times(ours.after)
        )
