"""Hard links and symbolic links."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from ..files import ino_of, list_names, mode_of, opened, read_file, write_file
from ..refusals import refused
from ..table import Dir, File, Instead, Layer, Link, Symlink, behaviour

BROKEN = "the kernel has no index in a user namespace: copy-up breaks the hard links of a lower"


def _links_come_apart() -> None:
    write_file("a", b"changed")
    assert read_file("b") == b"both"


TWO: Layer = {"a": File(b"both"), "b": Link("a")}


@behaviour(lower=TWO, differs={"kernel-userns": Instead(BROKEN, _links_come_apart)})
def check_two_lower_links_stay_one_file_when_written() -> None:
    before = ino_of("a")
    write_file("a", b"changed")
    assert read_file("b") == b"changed"
    assert ino_of("a") == ino_of("b") == before
    assert os.stat("b").st_nlink == 2


def _links_are_apart_after_a_remount() -> Iterator[None]:
    write_file("a", b"changed")
    yield
    assert read_file("b") == b"both"


@behaviour(
    lower=TWO,
    remount=True,
    differs={"kernel-userns": Instead(BROKEN, _links_are_apart_after_a_remount)},
)
def check_two_lower_links_stay_one_file_after_a_remount() -> Iterator[None]:
    write_file("a", b"changed")
    yield
    assert read_file("b") == b"changed"
    assert ino_of("a") == ino_of("b")
    assert os.stat("a").st_nlink == 2


def _one_of_the_links_changes() -> None:
    os.chmod("a", 0o600)
    assert mode_of("b") == 0o644


@behaviour(lower=TWO, differs={"kernel-userns": Instead(BROKEN, _one_of_the_links_changes)})
def check_a_mode_set_by_one_name_shows_by_the_other() -> None:
    os.chmod("a", 0o600)
    assert mode_of("b") == 0o600


@behaviour(lower=TWO)
def check_lower_links_have_one_inode_and_count_both_names() -> None:
    assert ino_of("a") == ino_of("b")
    assert os.stat("a").st_nlink == 2


def _the_count_stays() -> None:
    os.unlink("a")
    assert read_file("b") == b"both"
    assert os.stat("b").st_nlink == 2


@behaviour(lower=TWO, differs={"kernel-userns": Instead(BROKEN, _the_count_stays)})
def check_removing_one_lower_link_leaves_the_other_and_counts_down() -> None:
    os.unlink("a")
    assert read_file("b") == b"both"
    assert os.stat("b").st_nlink == 1


def _links_do_not_see_each_other() -> None:
    with opened("a", os.O_RDWR) as one, opened("b", os.O_RDWR) as two:
        os.pwrite(one, b"B", 0)
        assert os.pread(two, 9, 0) == b"both"


@behaviour(lower=TWO, differs={"kernel-userns": Instead(BROKEN, _links_do_not_see_each_other)})
def check_two_lower_links_held_open_are_one_file() -> None:
    with opened("a", os.O_RDWR) as one, opened("b", os.O_RDWR) as two:
        os.pwrite(one, b"B", 0)
        assert os.pread(two, 9, 0) == b"Both"


def _a_link_is_made_of_one_name_only() -> None:
    os.link("a", "c")
    assert ino_of("a") == ino_of("c")
    write_file("c", b"changed")
    assert read_file("b") == b"both"


@behaviour(lower=TWO, differs={"kernel-userns": Instead(BROKEN, _a_link_is_made_of_one_name_only)})
def check_a_third_link_joins_two_lower_ones() -> None:
    os.link("a", "c")
    assert os.stat("b").st_nlink == 3
    write_file("c", b"changed")
    assert read_file("a") == read_file("b") == b"changed"
    os.unlink("b")
    assert os.stat("a").st_nlink == 2


@behaviour(lower=TWO)
def check_replacing_one_link_leaves_the_other() -> None:
    write_file("new", b"new")
    os.rename("new", "a")
    assert (read_file("a"), read_file("b")) == (b"new", b"both")


RENUMBERED = "without an index the kernel renumbers a name whose file was copied up for a link"


def _the_new_name_has_another_number() -> None:
    os.link("f", "d/g")
    assert ino_of("f") != ino_of("d/g")
    write_file("d/g", b"changed")
    assert read_file("f") == b"changed"


@behaviour(
    lower={"f": File(b"x"), "d": Dir()},
    differs={"kernel-userns": Instead(RENUMBERED, _the_new_name_has_another_number)},
)
def check_a_lower_file_gets_a_second_name() -> None:
    os.link("f", "d/g")
    assert ino_of("f") == ino_of("d/g")
    assert os.stat("f").st_nlink == 2
    write_file("d/g", b"changed")
    assert read_file("f") == b"changed"


@behaviour(lower={"f": File(b"x")}, remount=True)
def check_a_second_name_is_there_after_a_remount() -> Iterator[None]:
    os.link("f", "g")
    yield
    assert ino_of("f") == ino_of("g")
    assert os.stat("f").st_nlink == 2
    write_file("f", b"changed")
    assert read_file("g") == b"changed"


@behaviour()
def check_a_file_lives_until_its_last_name_goes() -> None:
    write_file("a", b"x")
    os.link("a", "b")
    os.unlink("a")
    assert read_file("b") == b"x"
    assert os.stat("b").st_nlink == 1
    os.unlink("b")
    assert list_names() == []


@behaviour(lower={"f": File(), "g": File(), "d": Dir()})
def check_link_refuses_what_link_2_says() -> None:
    with refused(errno.EEXIST):
        os.link("f", "g")
    with refused(errno.ENOENT):
        os.link("missing", "h")
    with refused(errno.ENOENT):
        os.link("f", "missing/h")
    with refused(errno.EPERM):
        os.link("d", "e")
    with refused(errno.ENOTDIR):
        os.link("f", "g/h")


@behaviour(lower={"f": File(b"x")})
def check_a_link_takes_a_name_that_was_removed() -> None:
    write_file("g", b"other")
    os.unlink("f")
    os.link("g", "f")
    assert ino_of("f") == ino_of("g")


def _the_symlink_has_another_number() -> None:
    os.link("link", "other", follow_symlinks=False)
    assert os.readlink("other") == "target"
    assert ino_of("link") != ino_of("other")


@behaviour(
    lower={"link": Symlink("target")},
    differs={"kernel-userns": Instead(RENUMBERED, _the_symlink_has_another_number)},
)
def check_a_hard_link_of_a_symlink_is_the_symlink() -> None:
    os.link("link", "other", follow_symlinks=False)
    assert os.readlink("other") == "target"
    assert ino_of("link") == ino_of("other")


@behaviour()
def check_an_unlinked_file_cannot_get_a_name_again() -> None:
    with opened("f", os.O_RDWR | os.O_CREAT) as fd, opened(".", os.O_PATH) as here:
        os.unlink("f")
        with refused(errno.ENOENT):
            os.link(f"/proc/self/fd/{fd}", "g", dst_dir_fd=here, follow_symlinks=True)


@behaviour(lower={"f": File(b"x"), "link": Symlink("f")})
def check_a_lower_symlink_leads_to_its_target() -> None:
    assert os.readlink("link") == "f"
    assert read_file("link") == b"x"
    assert os.lstat("link").st_size == 1


@behaviour()
def check_a_symlink_holds_any_text() -> None:
    for target in (b"missing", b"/absolute/missing", b"../..", b"\xff\x01 odd\n", b"x" * 4095):
        os.symlink(target, b"link")
        assert os.readlink(b"link") == target
        assert os.lstat(b"link").st_size == len(target)
        os.unlink(b"link")


@behaviour()
def check_symlink_refuses_what_symlink_2_says() -> None:
    write_file("f", b"")
    with refused(errno.EEXIST):
        os.symlink("x", "f")
    with refused(errno.ENOENT):
        os.symlink("", "empty")
    with refused(errno.ENAMETOOLONG):
        os.symlink("x" * 4096, "long")
    with refused(errno.ENOENT):
        os.symlink("x", "missing/link")


@behaviour(lower={"f": File(), "d": Dir()})
def check_readlink_refuses_what_is_no_symlink() -> None:
    for name in ("f", "d"):
        with refused(errno.EINVAL):
            os.readlink(name)


@behaviour(lower={"a": Symlink("b"), "b": Symlink("a"), "self": Symlink("self")})
def check_a_loop_of_symlinks_is_refused() -> None:
    for name in ("a", "self", "a/x"):
        with refused(errno.ELOOP):
            os.stat(name)
    with refused(errno.ELOOP):
        os.open("a", os.O_RDONLY)


@behaviour(lower={"link": Symlink("f"), "f": File()})
def check_open_without_following_refuses_a_symlink() -> None:
    with refused(errno.ELOOP):
        os.open("link", os.O_RDONLY | os.O_NOFOLLOW)


@behaviour(lower={"link": Symlink("/proc/self/status")})
def check_an_absolute_symlink_is_followed_by_the_program_not_by_the_file_system() -> None:
    assert b"Pid:\t%d\n" % os.getpid() in read_file("link")


@behaviour(lower={"link": Symlink("/etc")})
def check_removing_a_symlink_out_of_the_tree_removes_only_the_link() -> None:
    os.rename("link", "moved")
    os.unlink("moved")
    assert os.path.isdir("/etc")


@behaviour(lower={"dangling": Symlink("made")})
def check_creating_through_a_dangling_symlink_makes_its_target() -> None:
    write_file("dangling", b"x")
    assert list_names() == ["dangling", "made"]
    with refused(errno.EEXIST):
        os.open("dangling", os.O_CREAT | os.O_EXCL | os.O_WRONLY)


@behaviour(lower={"link": Symlink("f"), "f": File(mode=0o640)})
def check_times_of_a_symlink_are_its_own() -> None:
    before = os.stat("f").st_mtime_ns
    os.utime("link", ns=(10**18, 10**18 + 1), follow_symlinks=False)
    assert os.lstat("link").st_mtime_ns == 10**18 + 1
    assert os.stat("f").st_mtime_ns == before
