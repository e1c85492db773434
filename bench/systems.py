"""What is compared: file systems that show layers as one tree, each behind the same few verbs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The layers of one mount, absolute paths.

    `lowers`: top first, never changed. `directory`: an empty one, for the upper, the work directory and the target.
    """

    lowers: tuple[str, ...]
    directory: str


class Tree(Protocol):
    """What a system shows. `path`: its root."""

    @property
    def path(self) -> str: ...

    def requests(self) -> Mapping[str, int] | None:
        """How many FUSE requests of each kind there have been; None if nobody counts them."""
        ...


class System(Protocol):
    """Something that shows layers as one tree. `what`: the command that mounts it, or what it is."""

    @property
    def name(self) -> str: ...

    @property
    def what(self) -> str: ...

    def show(self, stack: Stack) -> AbstractContextManager[Tree]:
        """The tree, fresh and with nothing written to it yet; gone at the end, with its processes.

        Raises workload.Unfit or OSError if it cannot be made.
        """
        ...
