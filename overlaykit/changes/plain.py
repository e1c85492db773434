"""Changes as plain data, for `--json`: a form that stays (docs/changes.md)."""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from overlaykit.changes.model import Change, Version

_TYPES: Final = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


def plain(change: Change) -> dict[str, object]:
    """A change as data that JSON knows. Names of any bytes are as in Python (PEP 383)."""
    import base64

    return {
        "path": shown(change.path),
        "kind": change.kind,
        "old_path": None if change.old_path is None else shown(change.old_path),
        "what": sorted(change.what),
        "opaque": change.opaque,
        "link": None if change.link is None else shown(change.link),
        "old": None if change.old is None else _version(change.old),
        "new": None if change.new is None else _version(change.new),
        "xattrs": {
            os.fsdecode(name): None if value is None else base64.b64encode(value).decode()
            for name, value in change.xattrs.items()
        },
    }


def shown(path: bytes) -> str:
    """A path as it is shown, from the root of the view."""
    return "/" + os.fsdecode(path)


def type_name(version: Version) -> str:
    """The type of a file, as a noun."""
    return _TYPES.get(version.type, "file")


def _version(version: Version) -> dict[str, object]:
    data: dict[str, object] = {
        "type": type_name(version),
        "mode": f"{stat.S_IMODE(version.mode):04o}",
        "uid": version.uid,
        "gid": version.gid,
        "size": version.size,
        "blocks": version.stat.st_blocks,
        "mtime_ns": version.stat.st_mtime_ns,
    }
    if version.device:
        data["device"] = [os.major(version.device), os.minor(version.device)]
    if stat.S_ISLNK(version.mode):
        try:
            data["target"] = os.fsdecode(version.readlink())
        except OSError:  # it has gone since
            data["target"] = None
    return data
