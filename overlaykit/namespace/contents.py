"""What a view has beside its layers and what it shares: directories, symbolic links, and files in memory."""

from __future__ import annotations

import os

from overlaykit.errors import Error
from overlaykit.namespace.binds import covers_processes
from overlaykit.record import Record


class BadTarget(Error):
    message = "{0}: {1}: no place for it: give an absolute path that is neither / nor of /proc"


class Directory(Record):
    """A directory at the absolute `path` of the view, made with these permissions if there is none."""

    path: str
    mode: int = 0o755


class Symlink(Record):
    """A symbolic link at the absolute `path` of the view. One with the same `target` may be there already."""

    target: str
    path: str


class Data(Record):
    """A file in memory, mounted at the absolute path `target`, with all that is read from a descriptor."""

    descriptor: int
    target: str
    read_only: bool = False
    mode: int = 0o600


class Cover(Record):
    """A file in memory over the regular file at the absolute `path` of the view."""

    path: str
    contents: str
    make: bool = False
    """Whether a missing file is made, if it can be."""
    required: bool = False
    """Whether it is an error if nothing is covered."""


def target(option: str, path: str) -> str:
    """A path of the view at which something can be put. Raises: BadTarget."""
    clean = "/" + os.path.normpath(path).lstrip("/")
    if not path.startswith("/") or clean == "/" or covers_processes(clean):
        raise BadTarget(option, path)
    return clean
