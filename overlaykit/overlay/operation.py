"""The decorator of the operations that the parts of a `Filesystem` offer."""

from __future__ import annotations

import errno

from overlaykit.lean import Protocol, wraps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Concatenate, ParamSpec, TypeVar

    from overlaykit.overlay.modes import Modes

    P = ParamSpec("P")
    R = TypeVar("R")
    S = TypeVar("S", bound="Part")


class Part(Protocol):
    """A group of operations. `modes`: widens modes of the upper; None where modes do not bind the daemon."""

    @property
    def modes(self) -> Modes | None: ...


def operation(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Run an operation again with modes of the upper widened if a mode denies access (see `modes`).

    Operations may call each other: while modes are widened, only the outermost one puts them back.
    """

    @wraps(method)
    def attempt(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except PermissionError as error:
            modes = self.modes
            if modes is None or modes.active or error.errno != errno.EACCES:
                raise
        with modes.opened():
            return method(self, *args, **kwargs)

    return attempt  # type: ignore[return-value]  # typeshed calls it a _Wrapped, mypy wants a function
