"""Steps at which a crash is tried: of all that changes an upper, the moments between two system calls.

`OVERLAYKIT_FAULT=STEP[:N]` in the environment has the process kill itself when it comes to that step for the Nth time
(the first, without a number), and `copyup.data:N` as soon as it has copied N bytes of a file. Without it `reach` does
nothing. tests/crash dies at each step in turn, and holds what is left against the tree before and after.
"""

from __future__ import annotations

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
    "whiteout.noted",
    "index.dropped",
    "rmdir.covered",
    "rmdir.removed",
    "rename.prepared",
    "rename.cleared",
    "rename.moved",
    "rename.done",
    "mode.noted",
    "mode.widened",
    "mode.put_back",
]

STEPS: Final[tuple[str, ...]] = get_args(Step)
DATA: Final = "copyup.data"

_VARIABLE: Final = "OVERLAYKIT_FAULT"


def _pass(step: Step) -> None:
    """Come to a step, and go on."""


def _armed(fault: str) -> Callable[[Step], None]:
    """What `reach` is to be. Raises ValueError for a step that there is not, which no test could ever come to."""
    if not fault:
        return _pass
    wanted, _, number = fault.partition(":")
    left = int(number or 1)
    if wanted == DATA:
        _die_at_size(left)
        return _pass
    if wanted not in STEPS:
        raise ValueError(f"{_VARIABLE}={fault}: there is no such step")

    def count(step: Step) -> None:
        nonlocal left
        if step == wanted:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return count


def _die_at_size(size: int) -> None:
    """Let the kernel end the process in the middle of the write that makes any file larger (setrlimit(2))."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it


reach: Final = _armed(os.environ.get(_VARIABLE, ""))
