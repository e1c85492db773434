"""The base class of user errors: one line that names the cause and the fix.

Imports no other module of overlaykit. A room defines its errors as subclasses beside the code that raises them; the
command line prints the message and exits with `exit_code`. A failure of the operating system stays an `OSError`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar


class Error(Exception):
    """An error that the user can fix. Raise a subclass, and this class only where none fits."""

    message: ClassVar[str] = "{0}"
    """The text for the user, formatted with the arguments. No docstring: `python -OO` drops those."""

    exit_code: ClassVar[int] = 125
    """The exit status of the command (125: overlaykit itself failed, as with env(1) and podman)."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.__doc__ = cls.__doc__ or cls.message

    def __str__(self) -> str:
        thing = ("''" if argument == "" else argument for argument in self.args[:1])
        return self.message.format(*thing, *self.args[1:])
