"""Operations on a disk: each in a directory of its own, so that one mount serves any number of them."""

from __future__ import annotations

import os

from ..overlay.seen import looked_at
from ..overlay.stack import Stack
from ..posix.layers import write_layer
from .afterwards import Tree, lasting
from .operations import OPERATIONS

_DEPTH = max(len(operation.lowers) for operation in OPERATIONS.values())


def build(stack: Stack, *names: str) -> None:
    """Make the layers for these operations, with what the upper holds already."""
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


def act(name: str, root: str) -> None:
    """Do the operation in a mounted tree."""
    OPERATIONS[name].act(os.path.join(root, name))


def look(name: str, root: str) -> Tree:
    """What it has to do with, in a mounted tree."""
    return lasting(looked_at(os.path.join(root, name)))


def trees(stack: Stack, *names: str) -> dict[str, tuple[Tree, Tree]]:
    """For each operation what `look` finds before and after, by the kernel's overlayfs over layers of their own."""
    directory = os.path.join(stack.directory, "expected")
    os.mkdir(directory)
    expected = Stack(directory, unprivileged=stack.unprivileged)
    build(expected, *names)
    found = {}
    with expected.mounted_by_the_kernel() as target:
        for name in names:
            before = look(name, target)
            act(name, target)
            found[name] = before, look(name, target)
    return found
