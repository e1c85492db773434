"""unlink and rmdir: of names in a lower, above a lower, or only in the upper."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from ..files import list_names, opened, read_file, write_file
from ..refusals import refused
from ..table import Dir, Fifo, File, Symlink, Whiteout, behaviour


@behaviour(lower={"f": File(b"x"), "g": File()})
def check_unlink_hides_a_lower_file() -> None:
    os.unlink("f")
    assert list_names() == ["g"]
    with refused(errno.ENOENT):
        os.stat("f")


@behaviour(lower={"f": File(b"x")})
def check_unlink_hides_a_lower_file_that_was_changed() -> None:
    write_file("f", b"changed")
    os.unlink("f")
    assert list_names() == []


@behaviour(lower={"f": File(b"old")})
def check_a_file_made_over_a_removed_one_has_nothing_of_the_old() -> None:
    os.unlink("f")
    with opened("f", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600):
        pass
    assert read_file("f") == b""
    assert list_names() == ["f"]


@behaviour(lower={"f": File(b"old")})
def check_a_directory_made_over_a_removed_file_is_empty() -> None:
    os.unlink("f")
    os.mkdir("f")
    assert list_names("f") == []


@behaviour(lower={"d": Dir(), "d/a": File(b"a"), "d/sub": Dir(), "d/sub/b": File(b"b")})
def check_a_directory_made_over_a_removed_one_is_empty() -> None:
    os.unlink("d/sub/b")
    os.rmdir("d/sub")
    os.unlink("d/a")
    os.rmdir("d")
    os.mkdir("d")
    assert list_names("d") == []
    with refused(errno.ENOENT):
        os.stat("d/a")


@behaviour(lower={"d": Dir(), "d/a": File(b"a")}, remount=True)
def check_a_directory_made_over_a_removed_one_is_empty_after_a_remount() -> Iterator[None]:
    os.unlink("d/a")
    os.rmdir("d")
    os.mkdir("d")
    yield
    assert list_names("d") == []
    write_file("d/a", b"new")
    assert read_file("d/a") == b"new"


@behaviour(lower={"f": File(b"x"), "d": Dir(), "d/g": File()}, remount=True)
def check_removed_names_stay_removed_after_a_remount() -> Iterator[None]:
    os.unlink("f")
    os.unlink("d/g")
    os.rmdir("d")
    yield
    assert list_names() == []


@behaviour(lower={"d": Dir()})
def check_unlink_refuses_a_directory() -> None:
    with refused(errno.EISDIR):
        os.unlink("d")


@behaviour()
def check_unlink_refuses_a_missing_name() -> None:
    with refused(errno.ENOENT):
        os.unlink("missing")


@behaviour(lower={"f": File()})
def check_unlink_refuses_a_name_removed_before() -> None:
    os.unlink("f")
    with refused(errno.ENOENT):
        os.unlink("f")


@behaviour(lower={"link": Symlink("target"), "target": File(b"kept")})
def check_unlink_of_a_symlink_leaves_its_target() -> None:
    os.unlink("link")
    assert list_names() == ["target"]
    assert read_file("target") == b"kept"


@behaviour(lower={"fifo": Fifo()})
def check_unlink_hides_a_lower_fifo() -> None:
    os.unlink("fifo")
    assert list_names() == []


@behaviour(lower={"d": Dir(), "d/f": File()})
def check_rmdir_refuses_a_lower_directory_that_holds_a_file() -> None:
    with refused(errno.ENOTEMPTY, errno.EEXIST):
        os.rmdir("d")
    assert list_names("d") == ["f"]


@behaviour({"d": Dir(), "d/f": Whiteout()}, {"d": Dir(), "d/f": File()})
def check_rmdir_takes_a_lower_directory_that_holds_only_whiteouts() -> None:
    assert list_names("d") == []
    os.rmdir("d")
    assert list_names() == []


@behaviour(lower={"d": Dir(), "d/f": File(), "d/g": File()})
def check_rmdir_takes_a_directory_that_was_emptied() -> None:
    os.unlink("d/f")
    os.unlink("d/g")
    os.rmdir("d")
    assert list_names() == []


@behaviour(lower={"d": Dir(), "d/f": File()})
def check_rmdir_refuses_a_directory_where_one_file_came_back() -> None:
    os.unlink("d/f")
    write_file("d/f", b"again")
    with refused(errno.ENOTEMPTY, errno.EEXIST):
        os.rmdir("d")


@behaviour({"d": Dir()}, {"d": Dir(), "d/deep": File()})
def check_rmdir_refuses_a_directory_with_a_file_two_layers_below() -> None:
    with refused(errno.ENOTEMPTY, errno.EEXIST):
        os.rmdir("d")


@behaviour({"d": Dir(opaque=True)}, {"d": Dir(), "d/deep": File()})
def check_rmdir_takes_an_empty_opaque_directory() -> None:
    os.rmdir("d")
    assert list_names() == []


@behaviour(lower={"f": File()})
def check_rmdir_refuses_a_file() -> None:
    with refused(errno.ENOTDIR):
        os.rmdir("f")


@behaviour(lower={"d": Dir(), "link": Symlink("d")})
def check_rmdir_refuses_a_symlink_to_a_directory() -> None:
    with refused(errno.ENOTDIR):
        os.rmdir("link")


@behaviour(lower={"d": Dir()})
def check_rmdir_refuses_dot_and_dot_dot() -> None:
    with refused(errno.EINVAL):
        os.rmdir("d/.")
    with refused(errno.ENOTEMPTY):
        os.rmdir("d/..")


@behaviour(lower={"d": Dir()})
def check_a_removed_directory_that_is_still_open_takes_no_new_names() -> None:
    with opened("d", os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.rmdir("d")
        with refused(errno.ENOENT):
            os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        assert os.listdir(fd) == []


@behaviour(lower={"d": Dir(), "d/f": File(b"x")})
def check_a_tree_is_removed_and_made_again_ten_times() -> None:
    for number in range(10):
        os.unlink("d/f")
        os.rmdir("d")
        os.mkdir("d")
        write_file("d/f", b"%d" % number)
    assert read_file("d/f") == b"9"
    assert list_names() == ["d"]
