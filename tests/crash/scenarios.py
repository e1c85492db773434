"""Scenarios: operations on layers, each in a directory of its own, so that one mount serves many of them."""

from __future__ import annotations

import os

from ..overlay.seen import looked_at
from ..overlay.stack import Stack
from ..posix.layers import write_layer
from .operations import OPERATIONS
from .recovered import Tree, lasting

_DEPTH = max(len(operation.lowers) for operation in OPERATIONS.values())


def build(stack: Stack, *names: str) -> None:
    """Make the layers for these operations, with the content of the upper."""
    for _ in range(_DEPTH):
        stack.add({})
    os.mkdir(stack.upper)
    for name in names:
        operation = OPERATIONS[name]
        for root, layer in [
            *zip(reversed(stack.lowers), reversed(operation.lowers), strict=False),
            *([(stack.upper, operation.upper)] if operation.upper else []),
        ]:
            os.mkdir(os.path.join(root, name))
            write_layer(layer, os.path.join(root, name), xattr_prefix=stack.prefix)
    if any(OPERATIONS[name].prepare for name in names):
        with stack.mounted_by_the_kernel() as target:
            for name in names:
                if prepare := OPERATIONS[name].prepare:
                    prepare(os.path.join(target, name))


def run(name: str, root: str) -> None:
    """Run the operation in a mounted tree."""
    OPERATIONS[name].run(os.path.join(root, name))


def look(name: str, root: str) -> Tree:
    """The part of a mounted tree that the operation concerns."""
    return lasting(looked_at(os.path.join(root, name)))


def trees(stack: Stack, *names: str) -> dict[str, tuple[Tree, Tree]]:
    """The result of `look` before and after each operation, on the kernel's overlayfs over other layers."""
    directory = os.path.join(stack.directory, "expected")
    os.mkdir(directory)
    expected = Stack(directory, unprivileged=stack.unprivileged)
    expected.metacopy = stack.metacopy
    build(expected, *names)
    found = {}
    with expected.mounted_by_the_kernel() as target:
        for name in names:
            before = look(name, target)
            run(name, target)
            found[name] = before, look(name, target) if OPERATIONS[name].changes else before
    return found
