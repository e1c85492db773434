"""What a machine has written, as an upper: copied from its disk by this process, which reads the file system itself.

The kernel of the host never mounts that disk. The guest's overlayfs wrote it: whiteouts, opaque directories and
redirects are those of an upper. Of a machine that runs, what it has not written yet is written first, and it stands
still while it is read.
"""

from __future__ import annotations

import fcntl
import os
import stat
from typing import TYPE_CHECKING, Final

from overlaykit import privilege
from overlaykit.layers.tree import Attributes, Tree
from overlaykit.machine.ext4 import ROOT, BadFileSystem, FileSystem
from overlaykit.machine.qcow2 import Image
from overlaykit.overlay import features
from overlaykit.overlay.marker_names import TRUSTED_PREFIX, USER_PREFIX
from overlaykit.record import Record
from overlaykit.scope import ExitStack, contextmanager
from overlaykit.views import machine, machine_joining, places, scratch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overlaykit.machine.ext4 import Inode
    from overlaykit.views.registry import RunningView

_UPPER: Final = b"upper"
"""Its name on the disk (machine/view_guest.py)."""
_OPAQUE: Final = b"opaque"
_REDIRECT: Final = b"redirect"
_ACLS: Final = b"system.posix_acl_"
_LARGEST: Final = 1 << 44
"""Bytes: no file of ext4 is larger."""


class Copy(Record):
    """An upper at a path. `left_out`: how many devices an ordinary user cannot make."""

    path: str
    left_out: int


@contextmanager
def copied(disk: int, name: str, *, contents: bool = True) -> Iterator[Copy]:
    """An upper with what the disk in an open file holds, removed at the end of the block.

    `name`: of the disk, for errors. Without `contents`, regular files have their size, and are holes.
    Raises: disk.BadDisk, BadFileSystem, places.NoScratchPlace; OSError.
    """
    files = FileSystem(Image(disk, name))
    with _scratch() as directory:
        path = os.path.join(directory, scratch.UPPER)
        os.mkdir(path, 0o700)
        with ExitStack() as stack:
            tree = Tree(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            stack.callback(tree.close)
            copying = _Copying(files, tree, name, contents=contents)
            copying.all()
            tree.seal()
            features.write(os.fsencode(path), copying.prefix, {features.REDIRECT})
        yield Copy(path, copying.left_out)


@contextmanager
def of_file(path: str) -> Iterator[int]:
    """The open file of a disk that no machine uses. Raises: machine.DiskInUse; OSError."""
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield opened
    except BlockingIOError:
        raise machine.DiskInUse(path) from None
    finally:
        os.close(opened)


@contextmanager
def of_running(found: RunningView) -> Iterator[int]:
    """The open file of the disk of a machine that runs, and stands still until the end of the block.

    Raises: machine_callers.NoPorts; Error, OSError.
    """
    machine_joining.write_all(found)
    with machine_joining.paused(found) as opened:
        yield opened


@contextmanager
def _scratch() -> Iterator[str]:
    name = scratch.name_of(f"disk-{os.urandom(8).hex()}")
    tried = places.scratch()
    made = (places.make_scratch(place, name) for place in tried)
    path = next((one for one in made if one is not None), None)
    if path is None:
        raise places.NoScratchPlace(", ".join(tried))
    held = scratch.lock(path)
    try:
        yield path
    finally:
        scratch.remove(path)
        if held >= 0:
            os.close(held)


class _Copying:
    """From a file system to a tree."""

    def __init__(self, files: FileSystem, tree: Tree, name: str, *, contents: bool) -> None:
        self._files: Final = files
        self._tree: Final = tree
        self._name: Final = name
        self._contents: Final = contents
        self._paths: Final[dict[int, bytes]] = {}
        """The first path of each file, by its inode."""
        self.left_out = 0
        may_set = privilege.CAP_SYS_ADMIN in privilege.capabilities() and privilege.maps_all_ids()
        self.prefix: Final = TRUSTED_PREFIX if may_set else USER_PREFIX

    def all(self) -> None:
        """Raises: BadFileSystem, OSError."""
        top = dict(self._files.entries(self._files.inode(ROOT))).get(_UPPER)
        if top is None:  # no machine has used it
            return
        left = [(b"", top)]
        while left:
            path, number = left.pop()
            inode = self._files.inode(number)
            if stat.S_ISDIR(inode.mode):
                self._directory(path, inode)
                left += [
                    (path + b"/" + name if path else name, one)
                    for name, one in self._files.entries(inode)
                ]
            elif number in self._paths:
                self._tree.link(path, self._paths[number])
            else:
                self._file(path, inode)

    def _directory(self, path: bytes, inode: Inode) -> None:
        if inode.number in self._paths:
            raise self._bad("a directory is in itself")
        self._paths[inode.number] = path
        self._tree.directory(path, self._attributes(inode).apply)

    def _file(self, path: bytes, inode: Inode) -> None:
        kind = stat.S_IFMT(inode.mode)
        finish = self._attributes(inode).apply
        if kind == stat.S_IFREG:
            if inode.size > _LARGEST:
                raise self._bad(f"inode {inode.number} is damaged")
            self._tree.file(path, lambda file: self._fill(file, inode))
        elif kind == stat.S_IFLNK:
            self._tree.symlink(path, self._files.target(inode), finish)
        else:
            try:
                self._tree.node(path, kind, inode.device, finish)
            except PermissionError:
                self.left_out += 1
                return
        self._paths[inode.number] = path

    def _fill(self, file: int, inode: Inode) -> None:
        for at, content in self._files.data(inode) if self._contents else ():
            rest = memoryview(content)
            while rest:
                written = os.pwrite(file, rest, at)
                rest, at = rest[written:], at + written
        os.ftruncate(file, inode.size)
        self._attributes(inode).apply(file)

    def _attributes(self, inode: Inode) -> Attributes:
        given = self._tree.keeps_owners
        mode = stat.S_IMODE(inode.mode)
        found = {}
        for name, value in inode.xattrs.items():
            if name.startswith(TRUSTED_PREFIX):
                marker = name.removeprefix(TRUSTED_PREFIX)
                if self._counts(marker, value):
                    found[self.prefix + marker] = value
            elif not name.startswith((USER_PREFIX, *self._tree.withheld_xattrs)) and (
                given or not name.startswith(_ACLS)
            ):
                found[name] = value
        return Attributes(
            mode=mode if given else mode & ~(stat.S_ISUID | stat.S_ISGID),
            owner=(inode.uid, inode.gid) if given else None,
            mtime_ns=inode.mtime_ns,
            xattrs=found,
        )

    def _counts(self, marker: bytes, value: bytes) -> bool:
        """Whether an attribute of the guest's overlayfs says what a file hides. Raises: BadFileSystem."""
        if marker == _REDIRECT:
            names = value.removeprefix(b"/").split(b"/")
            if b".." in names or b"" in names or (len(names) > 1 and value[:1] != b"/"):
                raise self._bad("a redirect leads nowhere")
        return marker in (_OPAQUE, _REDIRECT)

    def _bad(self, reason: str) -> BadFileSystem:
        return BadFileSystem(self._name, reason)
