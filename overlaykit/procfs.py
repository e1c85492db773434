"""Process relations, read from procfs.

Source: proc_pid_stat(5).
"""

from __future__ import annotations

import os

from overlaykit.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def read(path: str) -> bytes:
    """All of a file of procfs, in as many pieces as the kernel gives (proc(5))."""
    with open(path, "rb", buffering=0) as file:
        return file.readall()


def children(process: int) -> list[int]:
    """The children of a process, zombies included."""
    return _children_by_parent().get(process, [])


def parent(process: int) -> int:
    """The parent of a process. Raises: FileNotFoundError, ProcessLookupError: it has ended."""
    # The name of the program, in parentheses, may hold any character.
    return int(read(f"/proc/{process}/stat").rpartition(b")")[2].split()[1])


def descendants(process: int, *, through: Callable[[int], bool] = lambda _: True) -> list[int]:
    """The children of a process, their children and so on, zombies included.

    Only the children of processes for which `through` is true are listed.
    """
    by_parent = _children_by_parent()
    family = [process]
    for member in family:
        if through(member):
            family += by_parent.get(member, [])
    return family[1:]


def innermost(process: int) -> int:
    """The process id in the innermost PID namespace of the process; its first process has 1.

    Raises: FileNotFoundError, ProcessLookupError: it has ended.
    """
    with open(f"/proc/{process}/status", "rb", buffering=0) as status:
        line = next(one for one in status.readall().splitlines() if one.startswith(b"NSpid:"))
    return int(line.split()[-1])


def _children_by_parent() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        # A process may have ended.
        with suppress(FileNotFoundError, ProcessLookupError):
            found.setdefault(parent(int(name)), []).append(int(name))
    return found
