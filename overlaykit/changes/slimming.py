"""A layer of what a trace has used of other layers (`overlaykit slim`, docs/trace.md).

A file that was opened is copied. One that was only looked up, or listed with its directory, keeps its attributes and
its size, as a hole. What was missing stays missing, and what was denied is denied again: modes and owners are kept.
"""

from __future__ import annotations

import os
import stat
from functools import partial
from typing import TYPE_CHECKING, Final

from overlaykit import codec, inodes
from overlaykit.errors import Error
from overlaykit.overlay.filesystem import Filesystem
from overlaykit.overlay.nodes import Directory, File

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from overlaykit.changes.opening import Opened
    from overlaykit.layers.layer import Layer
    from overlaykit.layers.tree import Tree, Usage
    from overlaykit.overlay.nodes import Node

_MARKERS: Final = (b"trusted.overlay.", b"user.overlay.")
_ONLY_SEEN: Final = frozenset({"found", "missed", "removed", "made"})
"""Events after which a file's bytes are not needed."""


class NotATrace(Error):
    message = "{0} is no trace, line {1}: make one with 'overlaykit trace -o {0} -- COMMAND'"


class EventsLost(Error):
    message = "{0}: {1} events of the trace were lost: trace the command again"


class Used:
    """What a trace has used, of paths from the root. `layers`: those that the trace names.

    `seen`: paths that were looked up; `opened`: those whose bytes are needed; `listed`: directories.
    """

    def __init__(self, path: str, lines: Iterable[bytes]) -> None:
        """Read a trace. Raises: NotATrace; EventsLost."""
        self.path = path
        self.layers: tuple[str, ...] = ()
        self.seen: set[bytes] = set()
        self.opened: set[bytes] = set()
        self.listed: set[bytes] = set()
        for number, line in enumerate(lines, 1):
            try:
                event = codec.parsed(line)
                if "lost" in event:
                    raise EventsLost(path, event["lost"])
                if "layers" in event:
                    self.layers = tuple(event["layers"])
                    continue
                name, kind = os.fsencode(event["path"]).strip(b"/"), event["kind"]
            except (KeyError, TypeError, ValueError):
                raise NotATrace(path, number) from None
            self.seen.add(name)
            if kind == "listed":
                self.listed.add(name)
            elif kind not in _ONLY_SEEN:
                self.opened.add(name)


class Slimmed:
    """Implements `layers.source.Source`: what is `used` of `layers`, top first, which it closes."""

    def __init__(self, used: Used, layers: Sequence[Opened]) -> None:
        self._used = used
        self._layers = layers

    def __str__(self) -> str:
        return f"slim:{os.path.abspath(self._used.path)}"

    def unpack(self, tree: Tree, scratch: str, base: Layer | None) -> Usage:
        """Fill `tree`; see `layers.source.Source`."""
        with Filesystem(self._layers) as filesystem:
            copy = _Copy(filesystem, tree, self._used.opened)
            copy.add(b"")
            for path in sorted(self._used.seen | self._used.opened | self._used.listed):
                copy.add(path)
                if path in self._used.listed:
                    copy.add_names(path)
            copy.write()
            return tree.seal()


class _Copy:
    """The paths that the layer gets, each with its node, above before below."""

    def __init__(self, filesystem: Filesystem, tree: Tree, opened: set[bytes]) -> None:
        self._filesystem = filesystem
        self._tree = tree
        self._opened = opened
        self._nodes: dict[bytes, Node] = {b"": filesystem.root}

    def add(self, path: bytes) -> None:
        """Add a path, if the layers have it, and the directories above."""
        above = b""
        for name in path.split(b"/") if path else ():
            here = above + b"/" + name if above else name
            if here not in self._nodes:
                directory = self._nodes[above]
                if not isinstance(directory, Directory):
                    return
                found = self._filesystem.lookup.find(directory, name)
                if found is None:
                    return
                found.node.count_lookup()
                self._nodes[here] = found.node
            above = here

    def add_names(self, path: bytes) -> None:
        """Add all names of a directory."""
        directory = self._nodes.get(path)
        if isinstance(directory, Directory):
            for entry in self._filesystem.entries.read(directory):
                self.add(path + b"/" + entry[0] if path else entry[0])

    def write(self) -> None:
        needed = {self._nodes[path].nodeid for path in self._opened if path in self._nodes}
        first: dict[int, bytes] = {}
        for path, node in self._nodes.items():
            finish = partial(self._finish, node, node.nodeid in needed)
            if isinstance(node, Directory):
                self._tree.directory(path, finish)
            elif node.nodeid in first:
                self._tree.link(path, first[node.nodeid])
            else:
                first[node.nodeid] = path
                self._make(path, node, finish)
            self._filesystem.between_operations()

    def _make(self, path: bytes, node: File, finish: partial[None]) -> None:
        if node.kind == stat.S_IFREG:
            self._tree.file(path, finish)
        elif node.kind == stat.S_IFLNK:
            self._tree.symlink(path, self._filesystem.tree.readlink(node), finish)
        else:
            device = self._filesystem.tree.attributes(node).stat.st_rdev
            self._tree.node(path, node.kind, device, finish)

    def _finish(self, node: Node, needed: bool, made: int) -> None:
        """Set the attributes of a new inode, and its bytes if they are `needed`."""
        files = self._filesystem.files
        if isinstance(node, File) and node.kind == stat.S_IFREG and needed:
            handle = files.open(node, os.O_RDONLY)
            try:
                self._copy(files.by_handle[handle].fd, made)
            finally:
                files.release(handle)
            return
        location = self._filesystem.tree.location(node)
        original = os.open(
            location.name or b".", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=location.dirfd
        )
        try:
            if node.kind == stat.S_IFREG:
                os.ftruncate(made, self._filesystem.tree.attributes(node).stat.st_size)
            self._copy(original, made, data=False)
        finally:
            os.close(original)

    def _copy(self, original: int, made: int, *, data: bool = True) -> None:
        withheld = (*self._tree.withheld_xattrs, *_MARKERS)
        uid, gid = (-1, -1) if self._tree.keeps_owners else (os.geteuid(), os.getegid())
        inodes.copy(original, made, data=data, uid=uid, gid=gid, skip_xattrs=withheld)


def sizes(paths: Iterable[str], *, disk: bool = False) -> tuple[int, int]:
    """How many bytes and files directories have, without what is mounted in them. `disk`: without holes."""
    size = files = 0
    for path in paths:
        for status in _statuses(path):
            files += 1
            if stat.S_ISREG(status.st_mode):
                size += min(status.st_size, status.st_blocks * 512) if disk else status.st_size
    return size, files


def _statuses(top: str) -> Iterator[os.stat_result]:
    device = os.stat(top).st_dev
    paths = [top]
    while paths:
        try:
            with os.scandir(paths.pop()) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    if not stat.S_ISDIR(status.st_mode):
                        yield status
                    elif status.st_dev == device:
                        paths.append(entry.path)
        except OSError:  # it has gone, or may not be read
            continue
