"""A view's own host name in its /etc/hosts, so that programs which ask for the address of their machine get one.

The file is shown by a mount over /etc/hosts, as other launchers do it, and nothing is written into an upper. What
programs change in it is kept all the same, where the upper is: it is written back when the command has ended.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from overlaykit import _native
from overlaykit.namespace import mounts

HOSTS: Final = "/etc/hosts"
_WITHOUT: Final = b"127.0.0.1 localhost\n::1 localhost\n"
_STAGE: Final = "/run"


@dataclass(frozen=True, slots=True)
class Shown:
    """The file that covers /etc/hosts: descriptors of it and, with O_PATH, of the one below; what it began with."""

    shown: int
    below: int
    contents: bytes
    line: bytes
    """The one that was added."""

    @property
    def descriptors(self) -> tuple[int, int]:
        return self.shown, self.below

    def write_back(self) -> None:
        """Write what has been changed into the file below, without the line that was added. Needs no capability.

        The mount cannot be replaced, so the file is written in place: first the new bytes, then its end.
        """
        now = _entire(self.shown)
        if now == self.contents:
            return
        with suppress(OSError):  # a full disk: the status pipe is closed
            descriptor = os.open(f"/proc/self/fd/{self.below}", os.O_WRONLY | os.O_CLOEXEC)
            kept = now.replace(self.line, b"", 1)
            os.pwrite(descriptor, kept, 0)
            os.ftruncate(descriptor, len(kept))


def show(hostname: str, *, keep: bool) -> Shown | None:
    """Cover /etc/hosts, inside the view, by one that names it too; None where it does already, or nothing can be done.

    With `keep` a file that is missing is not made for it: it would be left in the upper.

    Raises:
      OSError: as the calls for the mount fail.
    """
    place = os.path.realpath(HOSTS)
    read_only = bool(os.statvfs("/").f_flag & os.ST_RDONLY)
    try:
        below = os.open(place, os.O_PATH | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(below).st_mode):  # to open a FIFO waits for a writer
            return None
        with open(place, "rb") as file:
            before, mode = file.read(), os.fstat(file.fileno()).st_mode & 0o777
    except FileNotFoundError:
        if keep or read_only:
            return None
        below, before, mode = -1, _WITHOUT, 0o644
    except OSError:  # no file, or not for us
        return None
    name = os.fsencode(hostname)
    if any(name in line.partition(b"#")[0].split()[1:] for line in before.splitlines()):
        return None
    end = b"" if before.endswith(b"\n") or not before else b"\n"
    line = b"127.0.0.1 " + name + b"\n"
    contents = before + end + line
    shown = _cover(place, contents, mode, read_only=read_only)
    return Shown(shown=shown, below=below, contents=contents, line=line)


def _cover(place: str, contents: bytes, mode: int, *, read_only: bool) -> int:
    """Mount a file in memory over another; a descriptor of it.

    It is cloned from where its file system is attached for a moment: before Linux 6.15 nothing can be cloned from a
    detached mount.
    """
    memory = mounts.fresh("tmpfs", mounts.NOSUID | mounts.NODEV, mode="0755")
    mounts.attach_at(memory, _STAGE)
    path = os.path.join(_STAGE, "hosts")
    with open(path, "wb") as file:
        file.write(contents)
        os.fchmod(file.fileno(), mode)
    shown = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    clone = mounts.clone(path, attributes=mounts.RDONLY if read_only else 0)
    mounts.attach_at(clone, place)
    _native.umount2(_STAGE, _native.MNT_DETACH)
    return shown


def _entire(descriptor: int) -> bytes:
    with open(descriptor, "rb", closefd=False) as file:
        file.seek(0)
        return file.read()
