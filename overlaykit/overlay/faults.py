"""Fault injection: the steps, between two system calls that change a tree, at which a test crashes the process.

With `OVERLAYKIT_FAULT=STEP[:N]` in the environment the process kills itself at the Nth time (default: the first) that
it, or another daemon of the same mount, reaches the step; with `STEP:0` it crashes each time; and with `copyup.data:N`
it ends as soon as it has copied N bytes of a file. Otherwise `reach` is a no-op.
tests/crash crashes at each step in turn, and compares the tree left with those before and after.
"""

from __future__ import annotations

import mmap
import os
import resource
import signal
from collections.abc import Callable
from typing import Final, Literal, TypeAlias, get_args

Step: TypeAlias = Literal[
    "copyup.directory.made",
    "copyup.directory.copied",
    "copyup.directory.published",
    "copyup.made",
    "copyup.copied",
    "copyup.synced",
    "copyup.indexed",
    "copyup.published",
    "datacopy.emptied",
    "datacopy.copied",
    "datacopy.synced",
    "datacopy.unmarked",
    "linkup.prepared",
    "linkup.linked",
    "linkup.counted",
    "create.made",
    "create.opaque",
    "create.published",
    "link.counted",
    "link.made",
    "link.published",
    "unlink.counted",
    "unlink.removed",
    "whiteout.aufs_made",
    "index.dropped",
    "rmdir.covered",
    "rmdir.removed",
    "redirect.set",
    "rename.prepared",
    "rename.cleared",
    "rename.covered",
    "rename.moved",
    "rename.done",
    "mode.recorded",
    "mode.widened",
    "mode.restored",
    "apply.begun",
    "apply.made",
    "apply.staged",
    "apply.planned",
    "apply.stripped",
    "apply.removed",
    "apply.step",
    "apply.stepped",
    "apply.applied",
    "apply.unstep",
    "apply.undone",
    "snapshot.noted",
    "snapshot.made",
    "snapshot.emptied",
    "snapshot.frozen",
    "snapshot.begun",
    "snapshot.pointed",
    "snapshot.settled",
]

STEPS: Final[tuple[str, ...]] = get_args(Step)
DATA: Final = "copyup.data"

_VARIABLE: Final = "OVERLAYKIT_FAULT"


def _pass(step: Step) -> None:
    """Reach a step without a fault."""


def _armed(fault: str) -> Callable[[Step], None]:
    """The function `reach` for this fault.

    Raises: ValueError for an unknown step, which no test could reach.
    """
    if not fault:
        return _pass
    wanted, _, number = fault.partition(":")
    if wanted == DATA:
        _die_at_size(int(number))
        return _pass
    if wanted not in STEPS:
        raise ValueError(f"{_VARIABLE}={fault}: no such step")

    # Daemons that are forked later have it, too.
    reached = mmap.mmap(-1, mmap.PAGESIZE)

    def count(step: Step) -> None:
        if step != wanted:
            return
        if number == "0":
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.abort()
        reached[0] += 1
        if reached[0] == int(number or 1):
            os.kill(os.getpid(), signal.SIGKILL)

    return count


def _die_at_size(size: int) -> None:
    """Have the kernel kill the process at the write(2) that makes a file larger than `size` (setrlimit(2))."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it


reach: Final = _armed(os.environ.get(_VARIABLE, ""))
