"""A tree as the merge or a mount shows it, in one form, so that the two can be compared."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import NamedTuple

from .view import View


class Seen(NamedTuple):
    """One path of a tree."""

    mode: int
    uid: int
    gid: int
    rdev: int
    links: int
    size: int | None
    """None for a directory, whose size is not defined."""
    mtime_ns: int
    content: bytes | None
    """A file's bytes, a symlink's target."""
    xattrs: dict[str, bytes]

    @property
    def keeps_its_nodeid(self) -> bool:
        return stat.S_ISREG(self.mode) or stat.S_ISDIR(self.mode)


def look_through(view: View) -> dict[str, Seen]:
    """Every path of a merge, from its root ("")."""

    def see(path: str) -> Seen:
        attributes = view.stat(path)
        st = attributes.stat
        content = None
        if stat.S_ISREG(st.st_mode):
            content = view.read(path)
        elif stat.S_ISLNK(st.st_mode):
            content = view.readlink(path)
        return Seen(
            st.st_mode,
            attributes.uid,
            attributes.gid,
            st.st_rdev,
            attributes.link_count,
            None if stat.S_ISDIR(st.st_mode) else st.st_size,
            st.st_mtime_ns,
            content,
            view.xattrs(path),
        )

    return _walk(see, view.names)


def looked_at(root: str) -> dict[str, Seen]:
    """Every path of a mounted tree."""

    def see(path: str) -> Seen:
        full = os.path.join(root, path) if path else root
        st = os.lstat(full)
        content = None
        if stat.S_ISREG(st.st_mode):
            with open(full, "rb") as file:
                content = file.read()
        elif stat.S_ISLNK(st.st_mode):
            content = os.readlink(os.fsencode(full))
        names = os.listxattr(full, follow_symlinks=False)
        return Seen(
            st.st_mode,
            st.st_uid,
            st.st_gid,
            st.st_rdev,
            st.st_nlink,
            None if stat.S_ISDIR(st.st_mode) else st.st_size,
            st.st_mtime_ns,
            content,
            {name: os.getxattr(full, name, follow_symlinks=False) for name in names},
        )

    return _walk(see, lambda path: os.listdir(os.path.join(root, path)))


def _walk(see: Callable[[str], Seen], names: Callable[[str], list[str]]) -> dict[str, Seen]:
    tree = {"": see("")}
    pending = [""]
    while pending:
        directory = pending.pop(0)
        for name in sorted(names(directory)):
            path = f"{directory}/{name}" if directory else name
            tree[path] = see(path)
            if stat.S_ISDIR(tree[path].mode):
                pending.append(path)
    return tree
