"""The code that the fork server has loaded, and whether it has changed since."""

from __future__ import annotations

import os
import sys

import overlaykit


class Code:
    """The files of this process's code, as they were when it read them.

    Of other packages and libraries it looks at the directories, in which an upgrade replaces files.
    Requires: it is made before the package is loaded, and `complete` is called after that.
    """

    def __init__(self) -> None:
        self._before: dict[str, bytes] = {}
        for place in overlaykit.__path__:
            for folder, _, names in os.walk(place):
                for name in names:
                    path = os.path.join(folder, name)
                    self._before[path] = _version(os.fsencode(path))
        # Two objects, so that a look at them writes to few of the pages that daemons share.
        self._paths = b""
        self._versions = b""

    def complete(self, *others: str) -> None:
        """Keep what is loaded now, and other files, which may be missing."""
        paths = {getattr(module, "__file__", None) or "" for module in tuple(sys.modules.values())}
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
            fields = (line.rstrip("\n").split(maxsplit=5) for line in maps)
            paths.update(path for _, mode, *_, path in fields if "x" in mode and path[:1] == "/")
        loaded = {path for path in paths if os.path.isabs(path)}
        own = sorted(loaded & self._before.keys())
        elsewhere = {os.path.dirname(path) for path in loaded - self._before.keys()}
        elsewhere.update(others)
        self._paths = b"\0".join(map(os.fsencode, (*own, *elsewhere)))
        rest = [_version(os.fsencode(path)) for path in elsewhere]
        self._versions = b"\0".join([*(self._before[path] for path in own), *rest])
        self._before.clear()

    def has_changed(self) -> bool:
        """Whether a file is another one now."""
        return b"\0".join(map(_version, self._paths.split(b"\0"))) != self._versions


def _version(path: bytes) -> bytes:
    """What changes with a file's contents; empty if it is gone."""
    try:
        st = os.stat(path)
    except OSError:
        return b""
    numbers = (st.st_dev, st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns)
    return b"%d %d %d %d %d" % numbers
