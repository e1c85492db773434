"""User errors: one line that names the thing and the way out.

Imports nothing, so every room may raise from here. A room's own errors are subclasses beside the code that finds
them; the command line prints the message and exits with `exit_code`. Inside the rooms a failure of the operating system
stays an `OSError`.
"""

from __future__ import annotations

from typing import ClassVar


class Error(Exception):
    """A mistake or a lack that the user can mend. Rooms raise subclasses; this class only where none fits."""

    message: ClassVar[str] = "{0}"
    """What the user reads, formatted with the arguments: it names the thing and the way out.

    An attribute and not the docstring, which `python -OO` drops."""

    exit_code: ClassVar[int] = 125
    """The status the command exits with (125: overlaykit itself failed, as env(1) and podman do)."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.__doc__ = cls.__doc__ or cls.message

    def __str__(self) -> str:
        thing = ("''" if argument == "" else argument for argument in self.args[:1])
        return self.message.format(*thing, *self.args[1:])
