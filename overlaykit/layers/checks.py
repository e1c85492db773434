"""Check that a directory can be a layer, or the source of one."""

from __future__ import annotations

import os
import stat

from overlaykit.errors import Error
from overlaykit.layers.image import refuse_image


class MissingDirectory(Error):
    message = "{0} does not exist; give the path of a directory"


class NotADirectory(Error):
    message = "{0} is not a directory; give the path of a directory"


class UnreadableDirectory(Error):
    message = "{0!r} cannot be read by you; make it readable and searchable, or run as its owner"


def check_directory(path: str) -> None:
    """Check that `path` can be a layer.

    Raises:
      MissingDirectory, NotADirectory, UnreadableDirectory, ImageNotTree: see their messages.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise MissingDirectory(path) from None
    except NotADirectoryError:
        raise NotADirectory(path) from None
    except PermissionError:
        raise UnreadableDirectory(path) from None
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectory(path)
    if not os.access(path, os.R_OK | os.X_OK, effective_ids=True):
        raise UnreadableDirectory(path)
    refuse_image(path, path)
