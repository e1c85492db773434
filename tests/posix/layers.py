"""Put the content that a table entry asks for on disk."""

from __future__ import annotations

import os
import stat

from .table import Dir, Entry, Fifo, File, Layer, Link, Symlink, Whiteout


def write_layer(layer: Layer, root: str, *, xattr_prefix: str) -> None:
    """Make `layer` below the existing directory `root`; missing parents are made, 0755.

    `xattr_prefix`: "trusted" or "user", the namespace in which the overlay looks for its marks.
    """
    for path, entry in layer.items():
        os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
        _make(entry, os.path.join(root, path), root, xattr_prefix)
    # Last and deepest first: making a child changes its directory's times, and a mode may forbid it.
    for path in sorted(layer, reverse=True):
        _set_attributes(layer[path], os.path.join(root, path))


def _make(entry: Entry, path: str, root: str, xattr_prefix: str) -> None:
    match entry:
        case File():
            with open(path, "xb") as file:
                file.write(entry.content)
                if entry.size is not None:
                    file.truncate(entry.size)
        case Dir():
            os.makedirs(path, exist_ok=True)
            if entry.opaque:
                os.setxattr(path, f"{xattr_prefix}.overlay.opaque", b"y")
        case Symlink():
            os.symlink(entry.target, path)
        case Link():
            os.link(os.path.join(root, entry.to), path)
        case Fifo():
            os.mkfifo(path)
        case Whiteout():
            os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))


def _set_attributes(entry: Entry, path: str) -> None:
    if isinstance(entry, File | Dir):
        for name, value in entry.xattrs.items():
            os.setxattr(path, name, value)
        os.chown(path, entry.uid, entry.gid)
    if isinstance(entry, File | Dir | Fifo):
        os.chmod(path, entry.mode)
    if isinstance(entry, File | Dir) and entry.mtime_ns is not None:
        os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns))
