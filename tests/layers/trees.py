"""Describe all that a layer keeps of a tree, to compare two trees."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    mode: int
    owner: tuple[int, int]
    mtime_ns: int
    content: bytes
    device: int
    blocks: int
    xattrs: tuple[tuple[str, bytes], ...]
    same_as: str
    """The first path of the same inode."""


def describe(root: str) -> dict[str, Entry]:
    """The entries below a directory, and the directory itself as ``."""
    first: dict[tuple[int, int], str] = {}
    found = {}
    paths = [root]
    for path in paths:
        status = os.lstat(path)
        content = b""
        if stat.S_ISDIR(status.st_mode):
            paths += sorted(os.path.join(path, name) for name in os.listdir(path))
        elif stat.S_ISREG(status.st_mode):
            with open(path, "rb") as file:
                content = file.read()
        elif stat.S_ISLNK(status.st_mode):
            content = os.fsencode(os.readlink(path))
        shown = os.path.relpath(path, root)
        names = os.listxattr(path, follow_symlinks=False)
        found[shown] = Entry(
            mode=status.st_mode,
            owner=(status.st_uid, status.st_gid),
            mtime_ns=status.st_mtime_ns,
            content=content,
            device=status.st_rdev,
            blocks=0 if stat.S_ISDIR(status.st_mode) else status.st_blocks,
            xattrs=tuple((n, os.getxattr(path, n, follow_symlinks=False)) for n in sorted(names)),
            same_as=first.setdefault((status.st_dev, status.st_ino), shown),
        )
    return found


def populate(root: str, *, as_root: bool) -> None:
    """Make a directory with a file of each type."""
    os.mkdir(root)
    inside = os.path.join(root, "inside")
    os.makedirs(os.path.join(inside, "deeper"))
    with open(os.path.join(root, "plain"), "wb") as file:
        file.write(b"contents\n")
    os.setxattr(os.path.join(root, "plain"), "user.kept", b"\0\xff\n=")
    os.setxattr(inside, "user.directory", b"too")
    os.chmod(os.path.join(root, "plain"), 0o444)
    os.link(os.path.join(root, "plain"), os.path.join(inside, "same"))
    with open(os.path.join(root, "sparse"), "wb") as file:
        file.truncate(8 << 20)
        for offset in (1 << 20, 4 << 20):
            file.seek(offset)
            file.write(b"island")
    with open(os.path.join(root, "hole"), "wb") as file:
        file.truncate(1 << 20)
    os.symlink("/absolute/target", os.path.join(root, "absolute"))
    os.symlink("inside", os.path.join(root, "relative"))
    os.mkfifo(os.path.join(root, "fifo"), 0o640)
    os.mknod(os.path.join(inside, "whiteout"), stat.S_IFCHR, 0)
    for name in (".wh.gone", ".wh..wh..opq", "tab\tnewline\nquote'", "ü"):
        open(os.path.join(inside, name), "wb").close()
    open(os.path.join(os.fsencode(inside), b"not utf-8 \xff\xfe"), "wb").close()
    open(os.path.join(inside, "n" * 255), "wb").close()
    if as_root:
        os.mknod(os.path.join(root, "device"), stat.S_IFBLK | 0o660, os.makedev(7, 300))
        os.chown(os.path.join(root, "sparse"), 1234, 70000)
        os.chown(os.path.join(root, "relative"), 1234, 70000, follow_symlinks=False)
        open(os.path.join(root, "suid"), "wb").close()
        os.chmod(os.path.join(root, "suid"), 0o6755)
        os.setxattr(os.path.join(root, "suid"), "trusted.overlay.origin", b"x")
    second = 1_000_000_000
    for number, path in enumerate([root, *sorted(describe(root))]):
        path = os.path.join(root, path)
        time = (1_600_000_000 + number) * second + 123_456_789
        os.utime(path, ns=(time, time), follow_symlinks=False)
    os.chmod(os.path.join(inside, "deeper"), 0o555)
    os.chmod(inside, 0o555)
