"""Names and paths: any bytes, the longest, too long ones, and errors of path lookup."""

from __future__ import annotations

import errno
import os

from ..files import list_names, opened, read_file, write_file
from ..refusals import refused
from ..table import Dir, File, Symlink, behaviour

LONGEST = "n" * 255


@behaviour(lower={LONGEST: File(b"x")})
def check_a_name_of_255_bytes_is_read_written_moved_and_removed() -> None:
    write_file(LONGEST, b"changed")
    assert read_file(LONGEST) == b"changed"
    other = "m" * 255
    os.rename(LONGEST, other)
    assert list_names() == [other]
    os.unlink(other)
    os.mkdir(LONGEST)
    assert list_names() == [LONGEST]


@behaviour(lower={"f": File()})
def check_a_name_of_256_bytes_is_refused_everywhere() -> None:
    long = "n" * 256
    for call in (
        lambda: os.stat(long),
        lambda: os.open(long, os.O_CREAT | os.O_WRONLY),
        lambda: os.mkdir(long),
        lambda: os.symlink("x", long),
        lambda: os.link("f", long),
        lambda: os.rename("f", long),
        lambda: os.unlink(long),
        lambda: os.rmdir(long),
        lambda: os.mkfifo(long),
        lambda: os.readlink(long),
        lambda: os.chmod(long, 0),
        lambda: os.truncate(long, 0),
    ):
        with refused(errno.ENAMETOOLONG):
            call()


@behaviour(lower={"f": File()})
def check_a_path_of_4096_bytes_is_refused() -> None:
    with refused(errno.ENAMETOOLONG):
        os.stat("./" * 2047 + "ff")
    os.stat("./" * 2046 + "f")


@behaviour()
def check_directories_go_deeper_than_the_longest_path() -> None:
    name = "d" * 200
    fd = os.open(".", os.O_RDONLY)
    for _ in range(25):
        os.mkdir(name, dir_fd=fd)
        child = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = child
    with open(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd), "wb") as file:
        file.write(b"deep")
    with open(os.open("f", os.O_RDONLY, dir_fd=fd), "rb") as file:
        assert file.read() == b"deep"
    assert os.listdir(fd) == ["f"]
    os.close(fd)


@behaviour()
def check_names_of_any_bytes_are_kept() -> None:
    odd = [bytes([number]) + b"x" for number in range(1, 256) if number != ord("/")]
    for name in odd:
        write_file(name, name)
    assert sorted(os.listdir(b".")) == sorted(odd)
    assert all(read_file(name) == name for name in odd)


@behaviour(lower={"with:colon,comma\\and space": File(b"x"), ".wh": File(), "...": File()})
def check_names_with_special_meaning_to_options_are_plain_names() -> None:
    assert list_names() == sorted(["with:colon,comma\\and space", ".wh", "..."])
    write_file("with:colon,comma\\and space", b"y")
    assert read_file("with:colon,comma\\and space") == b"y"


@behaviour(lower={"A": File(b"A"), "a": File(b"a")})
def check_case_is_told_apart() -> None:
    assert (read_file("A"), read_file("a")) == (b"A", b"a")


@behaviour(lower={"f": File(), "link": Symlink("f")})
def check_a_file_on_the_way_is_refused() -> None:
    for name in ("f", "link"):
        for call in (
            lambda name=name: os.stat(f"{name}/x"),
            lambda name=name: os.open(f"{name}/x", os.O_CREAT | os.O_WRONLY),
            lambda name=name: os.mkdir(f"{name}/x"),
            lambda name=name: os.unlink(f"{name}/x"),
            lambda name=name: os.listdir(name),
            lambda name=name: os.stat(f"{name}/"),
        ):
            with refused(errno.ENOTDIR):
                call()


@behaviour(lower={"d": Dir()})
def check_a_missing_directory_on_the_way_is_refused() -> None:
    for call in (
        lambda: os.open("d/no/x", os.O_CREAT | os.O_WRONLY),
        lambda: os.mkdir("d/no/x"),
        lambda: os.symlink("x", "d/no/x"),
        lambda: os.mkfifo("d/no/x"),
        lambda: os.rmdir("d/no"),
        lambda: os.listdir("d/no"),
        lambda: os.chmod("d/no", 0),
        lambda: os.truncate("d/no", 0),
        lambda: os.utime("d/no"),
        lambda: os.chown("d/no", 0, 0),
        lambda: os.getxattr("d/no", "user.x"),
        lambda: os.stat(""),
    ):
        with refused(errno.ENOENT):
            call()


@behaviour(lower={"f": File()})
def check_a_trailing_slash_asks_for_a_directory() -> None:
    with refused(errno.EISDIR):
        os.open("new/", os.O_CREAT | os.O_WRONLY)
    os.mkdir("d/")
    assert os.path.isdir("d/")
    with refused(errno.ENOTDIR):
        os.unlink("f/")


@behaviour(lower={"d": Dir(), "d/s": Dir(), "f": File(b"x")})
def check_dot_and_dot_dot_lead_to_the_directory_and_its_parent() -> None:
    assert read_file("d/s/../../f") == b"x"
    assert read_file("./d/./../f") == b"x"
    os.chdir("d/s")
    assert read_file("../../f") == b"x"


@behaviour(lower={"f": File(b"x")})
def check_a_name_missed_once_is_found_when_made() -> None:
    with refused(errno.ENOENT):
        os.stat("new")
    os.rename("f", "new")
    assert read_file("new") == b"x"
    with refused(errno.ENOENT):
        os.stat("f")
    with opened("f", os.O_CREAT | os.O_WRONLY):
        pass
    assert list_names() == ["f", "new"]
