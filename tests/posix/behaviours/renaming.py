"""rename(2) and renameat2(2): files, directories with lower parts, whiteouts below, exchanges."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from ..files import ino_of, list_names, opened, read_file, write_file
from ..refusals import refused
from ..syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2
from ..table import Dir, File, Instead, Link, Symlink, Whiteout, behaviour

NO_REDIRECT = (
    "the kernel keeps no redirects in a user namespace, so a directory of a lower stays put"
)


def _refuses_to_move_d() -> None:
    with refused(errno.EXDEV):
        os.rename("d", "e")
    assert "d" in list_names()


STAYS = {"kernel-userns": Instead(NO_REDIRECT, _refuses_to_move_d)}


@behaviour(lower={"f": File(b"x")})
def check_a_lower_file_moves() -> None:
    os.rename("f", "g")
    assert list_names() == ["g"]
    assert read_file("g") == b"x"


@behaviour(lower={"f": File(b"x")})
def check_a_moved_file_keeps_its_inode_number() -> None:
    before = ino_of("f")
    os.rename("f", "g")
    assert ino_of("g") == before


@behaviour(lower={"f": File(b"new"), "g": File(b"old")})
def check_a_file_replaces_another() -> None:
    os.rename("f", "g")
    assert list_names() == ["g"]
    assert read_file("g") == b"new"


@behaviour(lower={"f": File(b"new"), "g": File(b"old")}, remount=True)
def check_a_replaced_file_stays_replaced_after_a_remount() -> Iterator[None]:
    os.rename("f", "g")
    yield
    assert list_names() == ["g"]
    assert read_file("g") == b"new"


@behaviour(lower={"g": File(b"old")})
def check_saving_by_rename_as_editors_do() -> None:
    write_file("g.tmp", b"saved")
    os.rename("g.tmp", "g")
    assert read_file("g") == b"saved"
    assert list_names() == ["g"]


@behaviour(lower={"f": File(b"f"), "d": Dir(), "d/g": File(b"g")})
def check_a_file_moves_into_a_lower_directory() -> None:
    os.rename("f", "d/f")
    assert list_names("d") == ["f", "g"]
    assert list_names() == ["d"]


@behaviour(lower={"f": File(b"x")})
def check_a_name_is_free_after_a_move() -> None:
    os.rename("f", "g")
    write_file("f", b"new")
    assert (read_file("f"), read_file("g")) == (b"new", b"x")


@behaviour(lower={"f": File(b"x")})
def check_a_file_moves_away_and_back() -> None:
    os.rename("f", "g")
    os.rename("g", "f")
    assert list_names() == ["f"]
    assert read_file("f") == b"x"


@behaviour(lower={"d": Dir(), "d/a": File(b"a"), "d/s": Dir(), "d/s/b": File(b"b")}, differs=STAYS)
def check_a_lower_directory_moves_with_all_it_holds() -> None:
    os.rename("d", "e")
    assert list_names() == ["e"]
    assert list_names("e") == ["a", "s"]
    assert read_file("e/s/b") == b"b"
    write_file("e/s/b", b"changed")
    assert read_file("e/s/b") == b"changed"


def _cannot_move_d_before_a_remount() -> Iterator[None]:
    _refuses_to_move_d()
    yield
    assert list_names() == ["d", "p"]


@behaviour(
    lower={"d": Dir(), "d/a": File(b"a"), "d/s": Dir(), "d/s/b": File(b"b"), "p": Dir()},
    differs={"kernel-userns": Instead(NO_REDIRECT, _cannot_move_d_before_a_remount)},
    remount=True,
)
def check_a_moved_directory_is_there_after_a_remount() -> Iterator[None]:
    os.rename("d", "p/e")
    write_file("p/e/new", b"n")
    os.unlink("p/e/a")
    yield
    assert list_names() == ["p"]
    assert list_names("p/e") == ["new", "s"]
    assert read_file("p/e/s/b") == b"b"


@behaviour(lower={"d": Dir(), "d/a": File(b"a")}, differs=STAYS)
def check_a_moved_directory_keeps_its_inode_number() -> None:
    before = ino_of("d"), ino_of("d/a")
    os.rename("d", "e")
    assert (ino_of("e"), ino_of("e/a")) == before


@behaviour(
    {"d": Dir(), "d/top": File(b"t")},
    {"d": Dir(), "d/middle": File(b"m")},
    {"d": Dir(), "d/bottom": File(b"b")},
    differs=STAYS,
)
def check_a_directory_merged_of_three_layers_moves() -> None:
    os.rename("d", "e")
    assert list_names("e") == ["bottom", "middle", "top"]
    assert [read_file(f"e/{name}") for name in list_names("e")] == [b"b", b"m", b"t"]


@behaviour(lower={"d": Dir(), "d/a": File(b"a")}, differs=STAYS)
def check_a_directory_made_where_one_moved_away_is_empty() -> None:
    os.rename("d", "e")
    os.mkdir("d")
    assert list_names("d") == []
    assert list_names("e") == ["a"]


@behaviour(
    lower={"d": Dir(), "d/s": Dir(), "d/s/f": File(b"f")},
    differs=STAYS,
)
def check_a_directory_moves_out_of_one_that_moved() -> None:
    os.rename("d", "e")
    os.rename("e/s", "s")
    assert list_names("e") == []
    assert read_file("s/f") == b"f"


@behaviour(lower={"d": Dir(), "d/a": File(b"a")}, differs=STAYS)
def check_a_directory_moves_many_times() -> None:
    for number in range(10):
        os.rename("d" if number == 0 else f"e{number - 1}", f"e{number}")
    assert list_names() == ["e9"]
    assert read_file("e9/a") == b"a"


def _refuses_to_move_d_onto_e() -> None:
    with refused(errno.EXDEV):
        os.rename("d", "e")
    assert list_names("d") == ["a"]


@behaviour(
    lower={"d": Dir(), "d/a": File(b"a"), "e": Dir()},
    differs={"kernel-userns": Instead(NO_REDIRECT, _refuses_to_move_d_onto_e)},
)
def check_a_directory_replaces_an_empty_one() -> None:
    os.rename("d", "e")
    assert list_names() == ["e"]
    assert list_names("e") == ["a"]


@behaviour(lower={"e": Dir(), "e/b": File(b"b")})
def check_a_directory_replaces_an_emptied_merged_one() -> None:
    os.mkdir("d")
    write_file("d/a", b"a")
    os.unlink("e/b")
    os.rename("d", "e")
    assert list_names() == ["e"]
    assert list_names("e") == ["a"]


@behaviour({"e": Dir(), "e/b": Whiteout()}, {"e": Dir(), "e/b": File(b"b")})
def check_a_directory_replaces_one_that_holds_only_whiteouts() -> None:
    os.mkdir("d")
    write_file("d/a", b"a")
    os.rename("d", "e")
    assert list_names("e") == ["a"]


@behaviour(lower={"e": Dir(), "e/b": File(b"b")})
def check_a_directory_does_not_replace_a_full_one() -> None:
    os.mkdir("d")
    with refused(errno.ENOTEMPTY, errno.EEXIST):
        os.rename("d", "e")
    assert list_names("e") == ["b"]


@behaviour(lower={"d": Dir(), "f": File()})
def check_a_directory_does_not_replace_a_file() -> None:
    with refused(errno.ENOTDIR):
        os.rename("d", "f")


@behaviour(lower={"d": Dir(), "f": File()})
def check_a_file_does_not_replace_a_directory() -> None:
    with refused(errno.EISDIR):
        os.rename("f", "d")


@behaviour(lower={"d": Dir(), "d/s": Dir()})
def check_a_directory_does_not_move_into_itself() -> None:
    with refused(errno.EINVAL):
        os.rename("d", "d/s/d")
    with refused(errno.EINVAL):
        os.rename("d", "d/d")


@behaviour(lower={"d": Dir(), "d/s": Dir()})
def check_a_directory_does_not_replace_its_parent() -> None:
    with refused(errno.ENOTEMPTY):
        os.rename("d/s", "d")


@behaviour(lower={"f": File(b"x")})
def check_a_rename_to_itself_does_nothing() -> None:
    os.rename("f", "f")
    assert read_file("f") == b"x"


@behaviour(lower={"a": File(b"x"), "b": Link("a")}, identities=("root",))
def check_a_rename_between_two_links_of_one_file_does_nothing() -> None:
    os.rename("a", "b")
    assert list_names() == ["a", "b"]


@behaviour(lower={"f": File()})
def check_rename_refuses_a_missing_source_or_parent() -> None:
    with refused(errno.ENOENT):
        os.rename("missing", "g")
    with refused(errno.ENOENT):
        os.rename("f", "missing/g")
    with refused(errno.ENOTDIR):
        os.rename("f", "f/g")


@behaviour(lower={"d": Dir(), "f": File()})
def check_rename_refuses_dot_and_dot_dot() -> None:
    with refused(errno.EBUSY, errno.EINVAL):
        os.rename("d/.", "e")
    with refused(errno.EBUSY, errno.EINVAL, errno.ENOTEMPTY):
        os.rename("f", "d/..")


@behaviour(lower={"f": File(), "d": Dir()})
def check_rename_of_a_file_refuses_a_trailing_slash() -> None:
    with refused(errno.ENOTDIR):
        os.rename("f", "g/")


@behaviour(lower={"link": Symlink("f"), "f": File(b"x")})
def check_rename_moves_the_symlink_itself() -> None:
    os.rename("link", "moved")
    assert os.readlink("moved") == "f"
    assert read_file("f") == b"x"


@behaviour(lower={"f": File(b"f"), "g": File(b"g")})
def check_noreplace_keeps_a_lower_file() -> None:
    with refused(errno.EEXIST):
        renameat2(b"f", b"g", RENAME_NOREPLACE)
    assert (read_file("f"), read_file("g")) == (b"f", b"g")


@behaviour(lower={"f": File(b"f"), "g": File(b"g")})
def check_noreplace_takes_a_name_that_was_removed() -> None:
    os.unlink("g")
    renameat2(b"f", b"g", RENAME_NOREPLACE)
    assert read_file("g") == b"f"
    assert list_names() == ["g"]


@behaviour(lower={"f": File(b"f"), "g": File(b"g")})
def check_exchange_swaps_two_lower_files() -> None:
    renameat2(b"f", b"g", RENAME_EXCHANGE)
    assert (read_file("f"), read_file("g")) == (b"g", b"f")


@behaviour({"f": File(b"top")}, {"f": File(b"hidden"), "g": File(b"bottom")})
def check_exchange_swaps_files_of_two_layers() -> None:
    renameat2(b"f", b"g", RENAME_EXCHANGE)
    assert (read_file("f"), read_file("g")) == (b"bottom", b"top")


def _refuses_to_exchange() -> None:
    with refused(errno.EXDEV):
        renameat2(b"f", b"d", RENAME_EXCHANGE)


@behaviour(
    lower={"f": File(b"f"), "d": Dir(), "d/a": File(b"a")},
    differs={"kernel-userns": Instead(NO_REDIRECT, _refuses_to_exchange)},
)
def check_exchange_swaps_a_file_with_a_directory() -> None:
    renameat2(b"f", b"d", RENAME_EXCHANGE)
    assert read_file("d") == b"f"
    assert read_file("f/a") == b"a"


def _refuses_to_exchange_directories() -> None:
    with refused(errno.EXDEV):
        renameat2(b"d", b"e", RENAME_EXCHANGE)


@behaviour(
    {"d": Dir(), "d/top": File(b"t")},
    {"d": Dir(), "d/a": File(b"a"), "e": Dir(), "e/b": File(b"b")},
    differs={"kernel-userns": Instead(NO_REDIRECT, _refuses_to_exchange_directories)},
)
def check_exchange_swaps_two_merged_directories() -> None:
    renameat2(b"d", b"e", RENAME_EXCHANGE)
    assert list_names("d") == ["b"]
    assert list_names("e") == ["a", "top"]


@behaviour(lower={"f": File(b"f")})
def check_exchange_needs_both_names() -> None:
    with refused(errno.ENOENT):
        renameat2(b"f", b"missing", RENAME_EXCHANGE)
    assert read_file("f") == b"f"


@behaviour(lower={"d": Dir(), "d/s": Dir()})
def check_exchange_refuses_a_directory_with_its_own_parent() -> None:
    with refused(errno.EINVAL, errno.ENOTEMPTY):
        renameat2(b"d", b"d/s", RENAME_EXCHANGE)


@behaviour(lower={"f": File()})
def check_rename_refuses_unknown_and_contradicting_flags() -> None:
    with refused(errno.EINVAL):
        renameat2(b"f", b"g", RENAME_NOREPLACE | RENAME_EXCHANGE)
    with refused(errno.EINVAL):
        renameat2(b"f", b"g", 1 << 10)


@behaviour(lower={"d": Dir(), "d/f": File(b"x")}, differs=STAYS)
def check_a_file_open_below_a_moved_directory_is_still_written() -> None:
    with opened("d/f", os.O_RDWR) as fd:
        os.rename("d", "e")
        os.pwrite(fd, b"y", 0)
    assert read_file("e/f") == b"y"


@behaviour(lower={"d": Dir(), "d/f": File(b"x")}, differs=STAYS)
def check_the_working_directory_moves_along() -> None:
    os.chdir("d")
    os.rename("../d", "../e")
    assert read_file("f") == b"x"
    write_file("g", b"new")
    assert sorted(os.listdir("../e")) == ["f", "g"]
    assert os.getcwd().endswith("/e")


@behaviour({"d": File(b"file")}, {"d": Dir(), "d/a": File()})
def check_a_file_that_hides_a_directory_moves_without_it() -> None:
    os.rename("d", "f")
    assert list_names() == ["f"]
    os.mkdir("d")
    assert list_names("d") == []


@behaviour(
    {"d": Dir(opaque=True), "d/a": File(b"a")}, {"d": Dir(), "d/b": File(b"b")}, differs=STAYS
)
def check_an_opaque_directory_moves_without_what_it_hides() -> None:
    os.rename("d", "e")
    assert list_names("e") == ["a"]
    assert list_names() == ["e"]
