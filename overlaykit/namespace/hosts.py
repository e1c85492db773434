"""The view's host name in its /etc/hosts, so that programs find an address for it.

A file in memory is mounted over /etc/hosts, as other launchers do, and nothing is written into an upper. Where the
upper is kept, changes to the file are written back after the command's end.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from overlaykit import _native
from overlaykit.namespace.detached import NODEV, NOSUID, RDONLY, attach, clone, fresh

HOSTS: Final = "/etc/hosts"
_DEFAULT: Final = b"127.0.0.1 localhost\n::1 localhost\n"
_ATTACHED_AT: Final = "/run"
"""Where the file system of the new file is attached until the file is cloned."""


@dataclass(frozen=True, slots=True)
class CoveredHosts:
    """The file that covers /etc/hosts."""

    cover: int
    """A descriptor of the cover."""
    below: int
    """An O_PATH descriptor of the covered file; -1 if there is none."""
    contents: bytes
    """The first contents of the cover."""
    line: bytes
    """The added line."""

    @property
    def descriptors(self) -> tuple[int, int]:
        return self.cover, self.below

    def write_back(self) -> None:
        """Write changes of the cover, without the added line, into the covered file; needs no capability.

        A mountpoint cannot be replaced by rename(2), so the file is written in place and then truncated.
        """
        now = _entire(self.cover)
        if now == self.contents:
            return
        # Nothing can be reported: the status pipe is closed.
        with suppress(OSError):
            descriptor = os.open(f"/proc/self/fd/{self.below}", os.O_WRONLY | os.O_CLOEXEC)
            kept = now.replace(self.line, b"", 1)
            os.pwrite(descriptor, kept, 0)
            os.ftruncate(descriptor, len(kept))


def cover(hostname: str, *, keep: bool) -> CoveredHosts | None:
    """Cover the view's /etc/hosts by a copy that also has `hostname`.

    With `keep` a missing file is not made: it would stay in the upper.

    Returns: None if the file has the name already, is no readable regular file, or cannot be made.

    Raises:
      OSError: as the calls for the mount.
    """
    place = os.path.realpath(HOSTS)
    read_only = bool(os.statvfs("/").f_flag & os.ST_RDONLY)
    try:
        below = os.open(place, os.O_PATH | os.O_CLOEXEC)
        # open(2) of a FIFO waits for a writer.
        if not stat.S_ISREG(os.fstat(below).st_mode):
            return None
        with open(place, "rb") as file:
            before, mode = file.read(), os.fstat(file.fileno()).st_mode & 0o777
    except FileNotFoundError:
        if keep or read_only:
            return None
        below, before, mode = -1, _DEFAULT, 0o644
    except OSError:
        return None
    name = os.fsencode(hostname)
    if any(name in line.partition(b"#")[0].split()[1:] for line in before.splitlines()):
        return None
    end = b"" if before.endswith(b"\n") or not before else b"\n"
    line = b"127.0.0.1 " + name + b"\n"
    contents = before + end + line
    descriptor = _cover(place, contents, mode, read_only=read_only)
    return CoveredHosts(cover=descriptor, below=below, contents=contents, line=line)


def _cover(place: str, contents: bytes, mode: int, *, read_only: bool) -> int:
    """Mount a file in memory over `place`; return a descriptor of it.

    Before Linux 6.15 open_tree(2) clones no detached mount, so the file system is attached while the file is cloned.
    """
    memory = fresh("tmpfs", NOSUID | NODEV, mode="0755")
    attach(memory, _ATTACHED_AT)
    path = os.path.join(_ATTACHED_AT, "hosts")
    with open(path, "wb") as file:
        file.write(contents)
        os.fchmod(file.fileno(), mode)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    attach(clone(path, attributes=RDONLY if read_only else 0), place)
    _native.umount2(_ATTACHED_AT, _native.MNT_DETACH)
    return descriptor


def _entire(descriptor: int) -> bytes:
    with open(descriptor, "rb", closefd=False) as file:
        file.seek(0)
        return file.read()
