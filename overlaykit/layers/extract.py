"""Extract an archive into the tree of a layer, or refuse the archive.

Refused, with the member's name: `..` in a name; a name below a symbolic link or a file of the archive; a hard link to a
file outside the archive; an unknown type. A leading `/` is dropped, as by tar. The target of a symbolic link is not
checked and may be absolute. The last of several members of one name wins.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import TypeAlias

from overlaykit.errors import Error
from overlaykit.layers.tar import Member, TarStream
from overlaykit.layers.tree import Attributes, Tree
from overlaykit.progress import counted

PathMap: TypeAlias = Callable[[bytes, bool], bytes]
"""Maps the path of a member, and whether it is a directory, to its path in the layer."""


class UnsafeMember(Error):
    message = "{0}: the member {1!r} {2}, so nothing was added; make the archive again without it"


class DeviceMemberNeedsRoot(Error):
    message = (
        "{0}: only root can make the device {1!r}; add the layer as root, or make the archive "
        "without it"
    )


def unchanged(path: bytes, directory: bool) -> bytes:
    """The `PathMap` that changes no path."""
    return path


def extract(archive: TarStream, shown: str, tree: Tree, map_path: PathMap = unchanged) -> None:
    """Create every member of `archive` in `tree`; `shown` names the archive in errors.

    As root it keeps numeric owners, set-user-ID bits, devices and all xattrs. Otherwise all files belong to the user,
    without set-ID bits and the xattrs that only root may set (`security.*`, `trusted.*`).

    Raises:
      DamagedArchive, UnsafeMember, DeviceMemberNeedsRoot: see their messages.
      OSError: ENOSPC and others.
    """
    for member in counted(archive, "unpacking files"):
        name = os.fsdecode(member.name)
        try:
            _create(archive, member, tree, map_path)
        except _Refused as refused:
            raise UnsafeMember(shown, name, str(refused)) from None
        except (OverflowError, ValueError):
            raise UnsafeMember(shown, name, "has attributes that no file can have") from None
        except OSError as error:
            if error.errno == errno.EPERM and member.kind in _DEVICES:
                raise DeviceMemberNeedsRoot(shown, name) from None
            if error.errno in (errno.ENOENT, errno.EPERM) and member.kind == 0:
                raise UnsafeMember(
                    shown, name, "is a hard link to no file of the archive"
                ) from None
            if error.errno in _REASONS:
                raise UnsafeMember(shown, name, _REASONS[error.errno]) from None
            raise OSError(error.errno, error.strerror, name) from error


_DEVICES = (stat.S_IFCHR, stat.S_IFBLK)

_REASONS = {
    errno.ELOOP: "leads through a symbolic link",
    errno.EXDEV: "leads out of the layer",
    errno.ENOTDIR: "lies below what is not a directory",
    errno.ENAMETOOLONG: "has too long a name",
}


class _Refused(Exception):
    """The reason why a member is refused."""


def _create(archive: TarStream, member: Member, tree: Tree, map_path: PathMap) -> None:
    path = map_path(_relative(member.name), member.kind == stat.S_IFDIR)
    attributes = _attributes(member, tree)
    finish = attributes.apply
    if member.kind == stat.S_IFDIR:
        tree.directory(path, finish)
        return
    if not path:
        raise _Refused("would take the place of the layer itself")
    if member.kind == stat.S_IFREG:
        tree.file(path, lambda fd: _fill(fd, archive, member, attributes))
    elif member.kind == 0:
        tree.link(path, map_path(_relative(member.target), False))
    elif member.kind == stat.S_IFLNK:
        if not member.target:
            raise _Refused("is a symbolic link to nothing")
        tree.symlink(path, member.target, finish)
    elif member.kind in (stat.S_IFIFO, *_DEVICES):
        device = os.makedev(*member.device) if member.kind in _DEVICES else 0
        tree.node(path, member.kind, device, finish)
    else:
        raise _Refused("is of an unknown type")


def _fill(fd: int, archive: TarStream, member: Member, attributes: Attributes) -> None:
    for offset, data in archive.data():
        while data:
            written = os.pwrite(fd, data, offset)
            data, offset = data[written:], offset + written
    # The file may end with a hole.
    os.ftruncate(fd, member.size)
    attributes.apply(fd)


def _relative(name: bytes) -> bytes:
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise _Refused("leads out of the layer by '..'")
    if b"\0" in name:
        raise _Refused("has a zero byte in its name")
    return b"/".join(parts)


def _attributes(member: Member, tree: Tree) -> Attributes:
    """The attributes of a member that this process may set."""
    given = tree.keeps_owners
    return Attributes(
        mode=member.mode if given else member.mode & ~(stat.S_ISUID | stat.S_ISGID),
        owner=member.owner if given else None,
        mtime_ns=member.mtime_ns,
        xattrs={
            name: value
            for name, value in member.xattrs.items()
            if not name.startswith(tree.withheld_xattrs)
        },
    )
