"""A view without an upper: reads succeed, every change fails with EROFS."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from ..files import list_names, mode_of, read_file
from ..refusals import refused
from ..syscalls import RENAME_EXCHANGE, access, renameat2
from ..table import Dir, File, Layer, Symlink, Whiteout, behaviour

CONTENT: Layer = {
    "f": File(b"x", xattrs={"user.one": b"1"}),
    "d": Dir(),
    "d/g": File(),
    "l": Symlink("f"),
}


@behaviour({"d": Dir(), "d/g": Whiteout()}, CONTENT, read_only=True)
def check_a_read_only_view_is_read() -> None:
    assert read_file("l") == b"x"
    assert list_names("d") == []
    assert os.getxattr("f", "user.one") == b"1"


@behaviour(lower=CONTENT, read_only=True)
def check_a_read_only_view_refuses_new_names() -> None:
    calls: tuple[Callable[[], object], ...] = (
        lambda: os.open("new", os.O_CREAT | os.O_WRONLY),
        lambda: os.mkdir("new"),
        lambda: os.mkfifo("new"),
        lambda: os.symlink("f", "new"),
        lambda: os.link("f", "new"),
    )
    for call in calls:
        with refused(errno.EROFS):
            call()
    assert list_names() == ["d", "f", "l"]


@behaviour(lower=CONTENT, read_only=True)
def check_a_read_only_view_refuses_writers() -> None:
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND):
        with refused(errno.EROFS):
            os.open("f", flags)
    with refused(errno.EROFS):
        os.truncate("f", 0)
    assert read_file("f") == b"x"


@behaviour(lower=CONTENT, read_only=True)
def check_a_read_only_view_refuses_to_remove_and_rename() -> None:
    calls: tuple[Callable[[], object], ...] = (
        lambda: os.unlink("f"),
        lambda: os.rmdir("d"),
        lambda: os.rename("f", "new"),
        lambda: os.rename("d", "new"),
        lambda: renameat2(b"f", b"d", RENAME_EXCHANGE),
    )
    for call in calls:
        with refused(errno.EROFS):
            call()
    assert list_names() == ["d", "f", "l"]


@behaviour(lower=CONTENT, read_only=True)
def check_a_read_only_view_refuses_new_metadata() -> None:
    calls: tuple[Callable[[], object], ...] = (
        lambda: os.chmod("f", 0o600),
        lambda: os.chown("f", 0, 0),
        lambda: os.utime("f"),
        lambda: os.setxattr("f", "user.two", b""),
        lambda: os.removexattr("f", "user.one"),
    )
    for call in calls:
        with refused(errno.EROFS):
            call()
    assert mode_of("f") == 0o644


@behaviour(lower=CONTENT, read_only=True)
def check_a_read_only_view_says_so() -> None:
    assert os.statvfs(".").f_flag & os.ST_RDONLY
    with refused(errno.EROFS):
        access(b"f", os.W_OK)
    assert os.access("f", os.R_OK)


@behaviour(lower=CONTENT, read_only=True)
def check_a_read_only_view_says_first_what_else_is_wrong() -> None:
    with refused(errno.EEXIST):
        os.mkdir("d")
    with refused(errno.ENOENT):
        os.chmod("missing", 0)
    with refused(errno.EISDIR):
        os.open("d", os.O_WRONLY)
