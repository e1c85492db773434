"""The interface of a system under comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """The layers of one workload, shared by all rounds, as absolute paths.

    `lowers`: top first; no system changes them. `directory`: an empty one on the same file system, for a system's upper
    and other files. `written_to`: whether the workload changes the tree.
    """

    lowers: tuple[str, ...]
    directory: str
    written_to: bool


class Counts(NamedTuple):
    """FUSE requests by kind, and the bytes that the daemon has written.

    `requests`: those that reached Python; `native`: those that native code answered.
    `written`: by write(2) and copy_file_range(2), replies to the kernel included, reflinks not (proc_pid_io(5)).
    """

    requests: Mapping[str, int]
    native: Mapping[str, int]
    written: int


class Tree(Protocol):
    """A merged tree."""

    @property
    def path(self) -> str:
        """The root directory."""
        ...

    def counts(self) -> Counts | None:
        """The counters since the mount; None if the system has none."""
        ...


Show = Callable[[], AbstractContextManager[Tree]]
"""Show a fresh tree; the end of the context removes it, its processes and all changes."""


class System(Protocol):
    """A file system that shows layers as one tree.

    `what`: the command that mounts it, or a description. `counts`: whether its trees count requests.
    """

    @property
    def name(self) -> str: ...

    @property
    def what(self) -> str: ...

    @property
    def counts(self) -> bool: ...

    def over(self, layers: Layers) -> AbstractContextManager[Show]:
        """Prepare the rounds of one workload.

        Raises: Unfit or OSError, on entering either context manager.
        """
        ...
