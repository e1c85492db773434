"""Random operations of eight processes at once: results are right, a remount loses nothing, and nothing leaks.

`OVERLAYKIT_STRESS_OPERATIONS`: the number of operations of each process. `OVERLAYKIT_STRESS_SEED`: the seed that a
failure printed. Without a seed it is the time if a number is given, else 1.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import time
import traceback
from collections.abc import Callable

from ..fuse.mounted import Mounted, mounted
from ..oracle.observation import Tree, look
from ..overlay.stack import Stack
from ..posix import syscalls
from ..posix.layers import write_layer
from ..posix.table import merged
from .worker import LAYERS, Worker, Workspace

SECONDS = 600
PROCESSES = 8
OPERATIONS = os.environ.get("OVERLAYKIT_STRESS_OPERATIONS")
SEED = os.environ.get("OVERLAYKIT_STRESS_SEED") or (str(time.time_ns()) if OPERATIONS else "1")
SHARED = "shared"


def test_eight_processes_find_what_they_left_and_nothing_leaks(stack: Stack) -> None:
    plain = os.path.join(stack.directory, "plain")
    build(stack, plain)
    expected = look(plain)
    with mounted(stack) as mount:
        assert look(mount.target) == expected
        numbers = map(str, range(PROCESSES))
        at_once([functools.partial(work, own, plain, mount.target) for own in numbers])
        tree = look(mount.target)
        expected = without_shared(look(plain))
        assert not changed(expected, without_shared(tree)), f"seed: {SEED}"
        forget_all(mount)
    with mounted(stack) as mount:
        assert not changed(tree, look(mount.target)), f"seed: {SEED}"
        forget_all(mount)
    if not stack.unprivileged:  # there it has no index and follows no redirect
        with stack.mounted_by_the_kernel() as target:
            assert not changed(tree, look(target)), f"seed: {SEED}"


def build(stack: Stack, plain: str) -> None:
    """Write the same tree to the lowers and to the plain directory, for each process and for all together."""
    os.mkdir(plain)
    roots = [stack.add({}) for _ in LAYERS]
    for name in (*map(str, range(PROCESSES)), SHARED):
        for root, layer in [*zip(roots, LAYERS, strict=True), (plain, merged(LAYERS))]:
            os.mkdir(os.path.join(root, name))
            write_layer(layer, os.path.join(root, name), xattr_prefix=stack.prefix)


def work(own: str, plain: str, target: str) -> None:
    paths = (os.path.join(target, own), os.path.join(plain, own), os.path.join(target, SHARED))
    with contextlib.ExitStack() as workspaces:
        opened = [workspaces.enter_context(contextlib.closing(Workspace(path))) for path in paths]
        try:
            Worker(f"{SEED}, {own}").work(int(OPERATIONS or 1000), *opened)
        except BaseException as error:
            error.add_note(f"seed: {SEED}")
            raise


def at_once(bodies: list[Callable[[], None]]) -> None:
    """Run each body in its own process. Raises: AssertionError with the tracebacks of failures."""
    reader, writer = os.pipe()
    children = []
    for body in bodies:
        child = os.fork()
        if child == 0:
            try:
                syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
                os.close(reader)
                body()
            except BaseException:
                os.write(writer, traceback.format_exc().encode()[-4000:])
            finally:
                os._exit(0)
        children.append(child)
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        failures = pipe.read()
    for child in children:
        os.waitpid(child, 0)
    assert not failures, failures


def forget_all(mount: Mounted) -> None:
    """Make the kernel forget all inodes, and check that the daemon has forgotten them."""
    assert mount.counted().held["nlookup"] > 1
    held = mount.forget()
    assert (held["nodes"], held["nlookup"], held["open_files"]) == (1, 1, 0), held


def changed(before: Tree, after: Tree) -> list[str]:
    """The changed paths, a line each: pytest shortens the trees themselves."""
    return [
        f"...{path[-40:]}: {before.get(path)} became {after.get(path)}"
        for path in sorted({*before, *after})
        if before.get(path) != after.get(path)
    ]


def without_shared(tree: Tree) -> Tree:
    return {path: found for path, found in tree.items() if not path.startswith(SHARED)}
