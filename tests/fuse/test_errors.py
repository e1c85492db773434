"""Errors of the file systems below reach the program unchanged."""

from __future__ import annotations

import errno
import os

from ..overlay.inside import as_ordinary_user, as_root
from ..overlay.stack import Stack
from ..overlay.view import refused
from ..posix import syscalls
from ..posix.sandbox import ORDINARY_UID
from ..posix.table import Dir, File
from .mounted import mounted, only_with_open


def test_without_an_upper_every_change_is_refused(stack: Stack) -> None:
    stack.add({"f": File(b"x"), "d": Dir()})
    with mounted(stack, writable=False) as mount:
        f, new = mount.path("f"), mount.path("new")
        for change in (
            lambda: os.open(f, os.O_WRONLY),
            lambda: os.truncate(f, 0),
            lambda: os.chmod(f, 0o600),
            lambda: os.utime(f),
            lambda: os.setxattr(f, "user.k", b"v"),
            lambda: os.rename(f, new),
            lambda: os.link(f, new),
            lambda: os.unlink(f),
            lambda: os.mkdir(new),
            lambda: os.symlink("x", new),
            lambda: os.mkfifo(new),
            lambda: os.rmdir(mount.path("d")),
            lambda: os.open(new, os.O_CREAT | os.O_WRONLY),
        ):
            with refused(errno.EROFS):
                change()


@only_with_open
@as_ordinary_user
def test_a_file_that_its_user_may_not_read_below_stays_unreadable(stack: Stack) -> None:
    """It is shown as root's, but root of a user namespace is another user to the file system below."""
    stack.lowers.append("/etc")
    with mounted(stack, squash_unmapped=True) as mount:
        assert os.stat(mount.path("shadow")).st_uid == 0
        with refused(errno.EACCES):
            os.open(mount.path("shadow"), os.O_RDONLY)
        with refused(errno.EACCES):
            os.open(mount.path("shadow"), os.O_WRONLY)
        with open(mount.path("passwd"), "ab") as file:
            file.write(b"# changed here only\n")


@as_root
def test_modes_are_checked_for_every_user(stack: Stack) -> None:
    stack.add({"mine": File(b"x", mode=0o600), "closed": Dir(mode=0o700), "closed/f": File()})
    os.chmod(stack.directory, 0o755)
    with mounted(stack) as mount:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.setresgid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID)
                os.setgroups([])
                os.setresuid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID)
                for path in ("mine", "closed/f"):
                    with refused(errno.EACCES):
                        os.open(mount.path(path), os.O_RDONLY)
                with refused(errno.EACCES):
                    os.unlink(mount.path("mine"))
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0


def test_a_layer_cannot_be_written_through_its_mount(stack: Stack) -> None:
    """A lower is a read-only clone of its mount: not even the daemon can write into it."""
    stack.add({"f": File(b"x")})
    with mounted(stack) as mount:
        clones = [
            fd
            for fd in os.listdir(f"/proc/{mount.process.pid}/fd")
            if os.path.exists(f"/proc/{mount.process.pid}/fd/{fd}/f")
        ]
        assert clones
        for fd in clones:
            with refused(errno.EROFS):
                os.open(f"/proc/{mount.process.pid}/fd/{fd}/f", os.O_WRONLY)


def test_a_name_that_is_too_long_is_refused_and_the_longest_taken(stack: Stack) -> None:
    stack.add({"n" * 255: File(b"x")})
    with mounted(stack) as mount:
        assert os.stat(mount.path("n" * 255)).st_size == 1
        with refused(errno.ENAMETOOLONG):
            os.stat(mount.path("n" * 256))
        os.mkdir(mount.path("d" * 255))


def test_flags_that_no_file_system_knows_are_refused(stack: Stack) -> None:
    stack.add({"a": File(b"a"), "b": File(b"b")})
    with mounted(stack) as mount:
        with refused(errno.EINVAL):
            syscalls.renameat2(
                os.fsencode(mount.path("a")), os.fsencode(mount.path("b")), syscalls.RENAME_WHITEOUT
            )
        with refused(errno.EEXIST):
            syscalls.renameat2(
                os.fsencode(mount.path("a")),
                os.fsencode(mount.path("b")),
                syscalls.RENAME_NOREPLACE,
            )
