"""What a system under comparison is: something that shows layers as one tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """What all rounds of one workload find below. Absolute paths.

    `lowers`: top first; no system may change them. `directory`: an empty one, on the same file system, where a system
    makes its upper and what else it needs. `written_to`: whether the workload changes the tree.
    """

    lowers: tuple[str, ...]
    directory: str
    written_to: bool


class Counts(NamedTuple):
    """What a round made a system do: the FUSE requests by kind, and the bytes that its daemon has written.

    `written`: by write(2) and copy_file_range(2), answers to the kernel among them, reflinks not (proc_pid_io(5)).
    """

    requests: Mapping[str, int]
    written: int


class Tree(Protocol):
    """What a system shows."""

    @property
    def path(self) -> str:
        """Its root."""
        ...

    def counts(self) -> Counts | None:
        """What its system has done so far; None if it does not count that."""
        ...


Show = Callable[[], AbstractContextManager[Tree]]
"""Shows the tree as the layers have it, fresh; at the end it is gone, with its processes and all that was written."""


class System(Protocol):
    """Something that shows layers as one tree.

    `what`: the command that mounts it, or what it is. `counts`: whether its trees count requests.
    """

    @property
    def name(self) -> str: ...

    @property
    def what(self) -> str: ...

    @property
    def counts(self) -> bool: ...

    def over(self, layers: Layers) -> AbstractContextManager[Show]:
        """Get ready for the rounds of one workload. Entering either context manager may raise Unfit or OSError."""
        ...
