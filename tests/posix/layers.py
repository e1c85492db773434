"""Write the layers of a table entry to disk."""

from __future__ import annotations

import os
import stat

from .table import Device, Dir, Entry, Fifo, File, Layer, Link, Symlink, Whiteout

ACLS = {"system.posix_acl_access", "system.posix_acl_default"}


def write_layer(layer: Layer, root: str, *, xattr_prefix: str) -> None:
    """Write `layer` below the existing directory `root`; missing parents get mode 0755.

    `xattr_prefix`: "trusted" or "user", the namespace of the overlay's markers.
    """
    made = {""}
    for path, entry in layer.items():
        if (parent := os.path.dirname(path)) not in made:
            os.makedirs(os.path.join(root, parent), exist_ok=True)
            made.add(parent)
        _make(entry, os.path.join(root, path), root, xattr_prefix)
    # Last and deepest first: creating a child changes its directory's times, and a mode may forbid it.
    ordinary = File()
    for path in sorted((path for path in layer if layer[path] != ordinary), reverse=True):
        _set_attributes(layer[path], os.path.join(root, path))


def _make(entry: Entry, path: str, root: str, xattr_prefix: str) -> None:
    match entry:
        case File():
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            if entry.content:
                os.write(fd, entry.content)
            if entry.size is not None:
                os.ftruncate(fd, entry.size)
            os.close(fd)
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
        case Device():
            os.mknod(path, stat.S_IFCHR, os.makedev(entry.major, entry.minor))
        case Whiteout():
            os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))


def _set_attributes(entry: Entry, path: str) -> None:
    if isinstance(entry, File | Dir) and (os.geteuid() == 0 or entry.uid or entry.gid):
        os.chown(path, entry.uid, entry.gid)  # an ordinary user's 0 means their own
    xattrs = entry.xattrs if isinstance(entry, File | Dir) else {}
    for name in xattrs.keys() - ACLS:  # before the mode, which may forbid it
        os.setxattr(path, name, xattrs[name])
    if isinstance(entry, File | Dir | Fifo | Device):
        os.chmod(path, entry.mode)
    for name in xattrs.keys() & ACLS:  # after the mode, which is part of them
        os.setxattr(path, name, xattrs[name])
    if isinstance(entry, File | Dir) and entry.mtime_ns is not None:
        os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns))
