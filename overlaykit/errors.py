"""What a user can do wrong, said in one line.

Imports nothing, so every room may raise from here. A room's own mistakes are subclasses beside
the code that finds them; the command line prints the message and exits with `exit_code`.
Inside the rooms an operating system's failure stays an `OSError`.
"""

from __future__ import annotations

from typing import ClassVar


class Error(Exception):
    """{0}"""

    # The first line of a subclass's docstring is its message, formatted with the arguments: it
    # names the thing and the way out. Subclasses are raised, this class only where none fits.

    exit_code: ClassVar[int] = 125
    """The status the command exits with (125: overlaykit itself failed, as env(1) and podman do)."""

    def __str__(self) -> str:
        template = (type(self).__doc__ or "{0}").partition("\n")[0]
        return template.format(*self.args)
