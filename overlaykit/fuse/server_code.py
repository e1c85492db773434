"""The code that the fork server has loaded, and whether it has changed since."""

from __future__ import annotations

import os
import sys

import overlaykit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    Version: TypeAlias = tuple[int, ...]


class Code:
    """The files of this process's code, as they were when it read them.

    Of other packages and libraries it looks at the directories, in which an upgrade replaces files.
    Requires: it is made before the package is loaded, and `complete` is called after that.
    """

    def __init__(self) -> None:
        self._files: dict[str, Version] = {}
        for place in overlaykit.__path__:
            for folder, _, names in os.walk(place):
                for name in names:
                    path = os.path.join(folder, name)
                    self._files[path] = _version(path)

    def complete(self) -> None:
        """Keep what is loaded now."""
        paths = {getattr(module, "__file__", None) or "" for module in tuple(sys.modules.values())}
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
            paths.update(line.split(maxsplit=5)[5].rstrip("\n") for line in maps if "/" in line)
        loaded = {path for path in paths if os.path.isabs(path)}
        own = loaded & self._files.keys()
        self._files = {path: self._files[path] for path in own} | {
            path: _version(path) for path in map(os.path.dirname, loaded - own)
        }

    def has_changed(self) -> bool:
        """Whether a file is another one now."""
        return any(_version(path) != found for path, found in self._files.items())


def _version(path: str) -> Version:
    """What changes with a file's contents; empty if it is gone."""
    try:
        st = os.stat(path)
    except OSError:
        return ()
    return st.st_dev, st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns
