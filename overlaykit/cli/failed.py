"""The program that the supervisor executes when a step of a view failed: print the error, exit with its status.

    python -m overlaykit.cli.failed VIEW CREATED|lasting FAILURE ERRNO SUBJECT before|after

The last four are the supervisor's (`namespace.execute`), which has replaced `overlaykit run` or `exec`. A named
view that is new, and whose command was not executed, is removed: the one that was made at the time CREATED, because it
may have another name by now, and another view its name.
"""

from __future__ import annotations

import errno
import sys

from overlaykit import standard
from overlaykit.cli import main, output
from overlaykit.errors import Error
from overlaykit.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, NoReturn

_MOUNT_GONE: Final = (errno.ENOTCONN, errno.ECONNABORTED)
"""The errors of a mount whose daemon has ended (fuse_get_req() in fs/fuse/dev.c)."""


def fail(view: str, name: str, number: int, subject: str, *, created: int | None) -> NoReturn:
    """Raise the error that stands for the failure of a step; remove the named view that was `created` then."""
    if created is not None:
        from overlaykit.views import named

        with suppress(Error, OSError):
            for one in named.all_views():
                if one.definition().created == created:
                    one.remove()
    from overlaykit.namespace import failure

    if name == failure.DAEMON or number in _MOUNT_GONE:
        from overlaykit.fuse.daemon import describe_log
        from overlaykit.views import Registry, places
        from overlaykit.views.view import DaemonEnded

        # In place of the daemon.
        registry = Registry()
        registry.remove_ended()
        registry.remove_if_empty()
        raise DaemonEnded(view, describe_log(places.log()))
    raise failure.error_of(name, number, subject)


if __name__ == "__main__":
    standard.fill()
    output.replace_streams()
    view, life, name, number, subject, when = sys.argv[1:]
    created = int(life) if life != "lasting" and when == "before" else None
    sys.exit(main.status_of(lambda: fail(view, name, int(number), subject, created=created)))
