"""What a system under comparison is: something that shows layers as one tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """What all rounds of one workload find below. Absolute paths.

    `lowers`: top first; no system may change them. `directory`: an empty one, on the same file system, where a system
    makes its upper and what else it needs. `written_to`: whether the workload changes the tree.
    """

    lowers: tuple[str, ...]
    directory: str
    written_to: bool


class Tree(Protocol):
    """What a system shows."""

    @property
    def path(self) -> str:
        """Its root."""
        ...

    def requests(self) -> Mapping[str, int] | None:
        """How many FUSE requests of each kind there have been; None if its system does not count them."""
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
