"""The merge, called as by the kernel, but with paths: each name is looked up, counted, and forgotten at the end."""

from __future__ import annotations

import contextlib
import errno
import os
from collections import Counter
from collections.abc import Iterator
from typing import final

import pytest

from overlaykit.overlay.attributes import Attributes, Caller, Changes
from overlaykit.overlay.filesystem import Filesystem
from overlaykit.overlay.nodes import Directory, File, Node


def refused(*numbers: int) -> pytest.RaisesExc[OSError]:
    """Expect an OSError with one of these errnos."""
    return pytest.raises(OSError, check=lambda error: error.errno in numbers)


@final
class View:
    """Paths are relative to the root; "" is the root. Methods raise the errors of the file system."""

    def __init__(self, filesystem: Filesystem) -> None:
        self.filesystem = filesystem
        self.caller = Caller(os.geteuid(), os.getegid())
        self._counts: Counter[int] = Counter()

    # Nodes

    def node(self, path: str) -> Node:
        self.filesystem.between_operations()
        node: Node = self.filesystem.root
        for name in filter(None, path.split("/")):
            found = self.filesystem.lookup.find(
                self.filesystem.nodes.directory(node.nodeid), os.fsencode(name)
            )
            if found is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            node = self._count(found.node)
        return node

    def file(self, path: str) -> File:
        return self.filesystem.nodes.file(self.node(path).nodeid)

    def directory(self, path: str) -> Directory:
        return self.filesystem.nodes.directory(self.node(path).nodeid)

    def exists(self, path: str) -> bool:
        try:
            self.node(path)
        except FileNotFoundError:
            return False
        return True

    def forget_everything(self) -> None:
        """Forget every lookup, as the kernel does under memory pressure."""
        for nodeid, count in self._counts.items():
            self.filesystem.nodes.forget(nodeid, count)
        self._counts.clear()
        self.filesystem.between_operations()

    # Reading

    def names(self, path: str = "") -> list[str]:
        """List a directory, and check that inode numbers and kinds of the listing are those of lookups."""
        directory = self.directory(path)
        entries = self.filesystem.listings.get(directory, restart=True).entries
        nodeids = list(self.filesystem.entries.nodeids(directory, entries))
        for entry, nodeid in zip(entries, nodeids, strict=True):
            if nodeid:
                node = self.filesystem.lookup.require(directory, entry[0])
                assert (node.nodeid, node.kind) == (nodeid, entry[1]), entry[0]
                self.filesystem.nodes.evict_if_unused(node)
        return [os.fsdecode(entry[0]) for entry in entries]

    def nodeids(self, path: str = "") -> dict[str, int]:
        """The inode numbers of a listing, without lookups."""
        directory = self.directory(path)
        entries = self.filesystem.listings.get(directory, restart=True).entries
        nodeids = self.filesystem.entries.nodeids(directory, entries)
        return {
            os.fsdecode(entry[0]): nodeid for entry, nodeid in zip(entries, nodeids, strict=True)
        }

    def stat(self, path: str) -> Attributes:
        return self.filesystem.tree.attributes(self.node(path))

    def nodeid(self, path: str) -> int:
        return self.node(path).nodeid

    @contextlib.contextmanager
    def opened(self, path: str, flags: int = os.O_RDONLY) -> Iterator[int]:
        """Open a file handle."""
        handle = self.filesystem.files.open(self.file(path), flags)
        try:
            yield handle
        finally:
            self.filesystem.files.release(handle)

    def read(self, path: str) -> bytes:
        with self.opened(path) as handle:
            return self.filesystem.files.read(handle, 0, self.stat(path).stat.st_size)

    def readlink(self, path: str) -> bytes:
        return self.filesystem.tree.readlink(self.node(path))

    def xattrs(self, path: str) -> dict[str, bytes]:
        node = self.node(path)
        names = self.filesystem.xattrs.names(node, trusted=True)
        return {os.fsdecode(name): self.filesystem.xattrs.get(node, name) for name in names}

    # Changing

    def write(self, path: str, data: bytes, offset: int = 0) -> None:
        with self.opened(path, os.O_RDWR) as handle:
            self.filesystem.files.write(handle, offset, data)

    def create(self, path: str, data: bytes = b"", mode: int = 0o644) -> File:
        directory, name = self._split(path)
        (node, _), handle = self.filesystem.creation.create(directory, name, mode, self.caller)
        assert isinstance(node, File)
        self._count(node)
        try:
            if data:
                self.filesystem.files.write(handle, 0, data)
        finally:
            self.filesystem.files.release(handle)
        return node

    def mkdir(self, path: str, mode: int = 0o755) -> Node:
        directory, name = self._split(path)
        return self._count(self.filesystem.creation.mkdir(directory, name, mode, self.caller).node)

    def mknod(self, path: str, mode: int, device: int = 0) -> Node:
        directory, name = self._split(path)
        return self._count(
            self.filesystem.creation.mknod(directory, name, mode, device, self.caller).node
        )

    def symlink(self, target: str, path: str) -> Node:
        directory, name = self._split(path)
        made = self.filesystem.creation.symlink(directory, name, os.fsencode(target), self.caller)
        return self._count(made.node)

    def link(self, old: str, new: str) -> None:
        node = self.file(old)
        self.filesystem.creation.link(node, *self._split(new))
        self._count(node)

    def unlink(self, path: str) -> None:
        self.filesystem.removal.unlink(*self._split(path))

    def rmdir(self, path: str) -> None:
        self.filesystem.removal.rmdir(*self._split(path))

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        self.filesystem.renaming.rename(*self._split(old), *self._split(new), flags)

    def change(self, path: str, changes: Changes) -> None:
        self.filesystem.changing.change(self.node(path), changes)

    def getxattr(self, path: str, name: str) -> bytes:
        return self.filesystem.xattrs.get(self.node(path), name.encode())

    def setxattr(self, path: str, name: str, value: bytes) -> None:
        self.filesystem.xattrs.set(self.node(path), name.encode(), value)

    def removexattr(self, path: str, name: str) -> None:
        self.filesystem.xattrs.remove(self.node(path), name.encode())

    def _split(self, path: str) -> tuple[Directory, bytes]:
        directory, _, name = path.rpartition("/")
        return self.directory(directory), os.fsencode(name)

    def _count(self, node: Node) -> Node:
        node.count_lookup()
        self._counts[node.nodeid] += 1
        return node
