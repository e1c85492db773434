"""What an ordinary user may do with own files and directories whose modes deny the owner.

Git's objects, Go's module cache and Nix's store are such: files 0444 in directories 0555.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator

from .. import syscalls
from ..acl import ACCESS, DEFAULT, acl
from ..files import drop_caches, ino_of, list_names, mode_of, opened, read_file, write_file
from ..refusals import refused
from ..table import Dir, File, Identity, Layer, Link, Symlink, Whiteout, behaviour

BOUND: tuple[Identity, ...] = ("ordinary",)
"""The identities without a capability to override modes."""

CONTENT = b"0123456789" * 1000
CLOSED: Layer = {
    "d": Dir(mode=0o555),
    "d/s": Dir(mode=0o555),
    "d/s/f": File(CONTENT, mode=0o444, xattrs={"user.k": b"v"}),
    "d/s/g": File(b"g", mode=0o644),
    "d/s/l": Symlink("f"),
    "d/x": File(b"x", mode=0o555),
}
LINKED: Layer = {
    "a": File(CONTENT, mode=0o444),
    "b": Link("a"),
    "d": Dir(mode=0o555),
    "d/c": Link("a"),
}
ALL_READ = acl(4, 4, 4)
ALL_SEARCH = acl(5, 5, 5)


def _open_all(root: str) -> None:
    """chmod -R u+rwX, top down."""
    os.chmod(root, mode_of(root) | 0o700)
    for above, directories, files in os.walk(root):
        for name in directories:
            path = os.path.join(above, name)
            os.chmod(path, mode_of(path) | 0o700)
        for name in files:
            path = os.path.join(above, name)
            if not os.path.islink(path):
                os.chmod(path, mode_of(path) | 0o600)


# Files


@behaviour(lower={"f": File(CONTENT, mode=0o444)}, identities=BOUND)
def check_a_file_to_read_only_takes_a_new_mode() -> None:
    os.chmod("f", 0o644)
    assert (mode_of("f"), read_file("f")) == (0o644, CONTENT)
    write_file("f", b"new")
    assert read_file("f") == b"new"


@behaviour(lower={"f": File(CONTENT, mode=0o444)}, identities=BOUND)
def check_a_file_to_read_only_takes_times_and_a_name_and_an_acl() -> None:
    os.utime("f", ns=(10**18, 10**18 + 1))
    os.rename("f", "g")
    os.link("g", "h")
    os.setxattr("g", ACCESS, ALL_READ)
    with refused(errno.EACCES):
        os.setxattr("g", "user.k", b"v")
    with refused(errno.EACCES):
        os.open("g", os.O_WRONLY)
    assert (mode_of("g"), read_file("h")) == (0o444, CONTENT)
    assert os.stat("h").st_mtime_ns == 10**18 + 1
    os.unlink("g")
    assert list_names() == ["h"]


@behaviour(identities=BOUND)
def check_a_new_file_to_read_only_is_written_by_its_maker_then_moved_into_place() -> None:
    with opened("tmp", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o444) as fd:
        os.write(fd, CONTENT)
        os.fchmod(fd, 0o400)
        os.fsync(fd)
        assert os.pread(fd, 10, 0) == CONTENT[:10]
    os.link("tmp", "object")
    os.unlink("tmp")
    with opened("again", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o444) as fd:
        os.write(fd, b"again")
    os.rename("again", "object")
    assert (read_file("object"), mode_of("object")) == (b"again", 0o444)


@behaviour(lower={"f": File(CONTENT)}, remount=True, identities=BOUND)
def check_a_file_closed_to_all_is_as_it_was_once_it_is_opened_again() -> Iterator[None]:
    os.chmod("f", 0)
    write_file("new", b"new")
    os.chmod("new", 0)
    for name in ("f", "new"):
        with refused(errno.EACCES):
            os.open(name, os.O_RDONLY)
    number = ino_of("f")
    yield
    assert (mode_of("f"), mode_of("new")) == (0, 0)
    assert ino_of("f") == number
    assert os.stat("f").st_size == len(CONTENT)
    for name in ("f", "new"):
        with refused(errno.EACCES):
            os.open(name, os.O_RDONLY)
        os.chmod(name, 0o400)
    assert (read_file("f"), read_file("new")) == (CONTENT, b"new")


@behaviour(lower={"f": File(CONTENT, mode=0)}, identities=BOUND)
def check_a_lower_file_closed_to_all_is_opened_by_a_new_mode() -> None:
    with refused(errno.EACCES):
        os.open("f", os.O_RDONLY)
    os.chmod("f", 0o600)
    assert read_file("f") == CONTENT
    write_file("f", b"new")
    assert read_file("f") == b"new"


@behaviour(
    lower={name: File(CONTENT, mode=0) for name in ("f", "g", "h", "i", "j")}, identities=BOUND
)
def check_a_lower_file_closed_to_all_takes_times_and_names_and_goes() -> None:
    os.utime("f", ns=(10**18, 10**18 + 1))
    os.rename("g", "k")
    os.link("h", "l")
    os.unlink("i")
    write_file("new", b"new")
    os.rename("new", "j")
    assert list_names() == ["f", "h", "j", "k", "l"]
    for name in ("f", "h", "k", "l"):
        assert (mode_of(name), os.stat(name).st_size) == (0, len(CONTENT))
        with refused(errno.EACCES):
            os.open(name, os.O_RDONLY)
    os.chmod("k", 0o400)
    assert read_file("k") == CONTENT
    assert read_file("j") == b"new"


@behaviour(lower={"f": File(CONTENT), "g": File(CONTENT)}, identities=BOUND)
def check_an_open_file_goes_on_after_it_was_closed_to_all() -> None:
    write_file("new", CONTENT)
    for name in ("f", "new"):
        with opened(name, os.O_RDWR) as fd:
            os.chmod(name, 0)
            os.pwrite(fd, b"abc", 5)
            os.fsync(fd)
            assert os.pread(fd, 10, 0) == b"01234abc89"
            os.ftruncate(fd, 8)
            os.utime(fd, ns=(10**18, 10**18 + 1))
            assert (os.fstat(fd).st_mode & 0o777, os.fstat(fd).st_size) == (0, 8)
            os.fchmod(fd, 0o400)
        assert read_file(name) == b"01234abc"
    with opened("g", os.O_RDONLY) as fd:
        os.chmod("g", 0)
        drop_caches()
        assert os.pread(fd, 10, 0) == CONTENT[:10]
        os.fchmod(fd, 0o600)
        write_file("g", b"new")
        assert os.pread(fd, 10, 0) == b"new"


@behaviour(lower={"f": File(CONTENT, mode=0o200)}, identities=BOUND)
def check_a_file_to_write_only_is_written_to() -> None:
    write_file("new", CONTENT)
    os.chmod("new", 0o200)
    for name in ("f", "new"):
        with refused(errno.EACCES):
            os.open(name, os.O_RDONLY)
        with opened(name, os.O_WRONLY) as fd:
            os.pwrite(fd, b"abc", 5)
        with opened(name, os.O_WRONLY | os.O_APPEND) as fd:
            os.write(fd, b"end")
        os.truncate(name, len(CONTENT) + 2)
        assert mode_of(name) == 0o200
        os.chmod(name, 0o600)
        assert read_file(name) == CONTENT[:5] + b"abc" + CONTENT[8:] + b"en"


@behaviour(lower={"f": File(CONTENT, mode=0o200)}, identities=BOUND)
def check_a_file_to_write_only_is_emptied() -> None:
    write_file("f", b"new")
    assert mode_of("f") == 0o200
    os.chmod("f", 0o400)
    assert read_file("f") == b"new"


@behaviour(lower={"f": File(CONTENT, mode=0o4555)}, identities=BOUND)
def check_a_program_to_run_only_keeps_its_set_user_id_bit_through_a_rename() -> None:
    os.rename("f", "g")
    os.link("g", "h")
    assert mode_of("h") == 0o4555


@behaviour(lower=LINKED, identities=BOUND)
def check_hard_links_to_read_only_stay_one_file() -> None:
    os.chmod("a", 0o400)
    os.link("b", "e")
    os.unlink("b")
    assert (mode_of("d/c"), os.stat("a").st_nlink) == (0o400, 3)
    assert ino_of("a") == ino_of("d/c") == ino_of("e")
    with refused(errno.EACCES):
        os.unlink("d/c")
    os.rename("e", "f")
    os.chmod("d/c", 0o600)
    write_file("a", b"new")
    assert read_file("d/c") == read_file("f") == b"new"


@behaviour(lower=LINKED, remount=True, identities=BOUND)
def check_hard_links_to_read_only_stay_one_file_through_a_remount() -> Iterator[None]:
    os.chmod("a", 0o000)
    os.link("b", "e")
    yield
    assert ino_of("a") == ino_of("b") == ino_of("d/c") == ino_of("e")
    assert os.stat("b").st_nlink == 4
    os.unlink("a")
    os.chmod("b", 0o600)
    assert (read_file("d/c"), os.stat("e").st_nlink) == (CONTENT, 3)
    write_file("e", b"new")
    assert read_file("b") == read_file("d/c") == b"new"


@behaviour(lower={"w": File(), "v": Dir(), "v/f": File(), "q": File()}, identities=BOUND)
def check_closed_files_are_made_where_others_were_removed() -> None:
    os.unlink("w")
    os.unlink("v/f")
    os.rmdir("v")
    os.unlink("q")
    os.close(os.open("w", os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0))
    os.mkdir("v", 0o555)
    os.mkfifo("q", 0)
    assert [mode_of(name) for name in ("w", "v", "q")] == [0, 0o555, 0]
    assert list_names("v") == []
    os.rename("v", "u")
    os.rename("u", "v")
    os.rmdir("v")
    os.mkdir("v", 0)
    os.rmdir("v")
    assert list_names() == ["q", "w"]


# Directories


@behaviour(lower=CLOSED, identities=BOUND)
def check_a_tree_to_read_only_is_read_and_refuses_changes() -> None:
    assert list_names("d") == ["s", "x"]
    assert list_names("d/s") == ["f", "g", "l"]
    assert read_file("d/s/l") == CONTENT
    for call in (
        lambda: os.unlink("d/s/f"),
        lambda: os.rmdir("d/s"),
        lambda: os.mkdir("d/new"),
        lambda: os.rename("d/s/f", "d/f"),
        lambda: os.rename("d/s", "s"),
        lambda: os.open("d/new", os.O_CREAT | os.O_WRONLY),
        lambda: os.open("d/s/f", os.O_WRONLY),
        lambda: os.link("d/s/f", "d/s/new"),
        lambda: os.setxattr("d", "user.k", b"v"),
    ):
        with refused(errno.EACCES):
            call()
    assert list_names("d") == ["s", "x"]


@behaviour(lower=CLOSED, remount=True, identities=BOUND)
def check_files_change_within_directories_to_read_only() -> Iterator[None]:
    before = {name: os.stat(name) for name in ("d", "d/s")}
    write_file("d/s/g", b"new")
    os.chmod("d/s/f", 0o400)
    os.utime("d/s/l", ns=(10**18, 10**18 + 1), follow_symlinks=False)
    os.utime("d/s", ns=(10**18, 10**18 + 1))
    os.chmod("d/x", 0o755)
    yield
    assert (mode_of("d"), mode_of("d/s")) == (0o555, 0o555)
    assert ino_of("d/s") == before["d/s"].st_ino
    assert os.stat("d").st_mtime_ns == before["d"].st_mtime_ns
    assert os.stat("d/s").st_mtime_ns == 10**18 + 1
    assert os.lstat("d/s/l").st_mtime_ns == 10**18 + 1
    assert (read_file("d/s/g"), read_file("d/s/f"), mode_of("d/s/f")) == (b"new", CONTENT, 0o400)
    assert mode_of("d/x") == 0o755
    assert os.getxattr("d/s/f", "user.k") == b"v"
    with refused(errno.EACCES):
        os.unlink("d/s/g")


@behaviour(lower=CLOSED, identities=BOUND)
def check_a_tree_to_read_only_is_opened_and_removed() -> None:
    _open_all("d")
    assert (mode_of("d/s"), mode_of("d/s/f")) == (0o755, 0o644)
    shutil.rmtree("d")
    assert list_names() == []


@behaviour(lower=CLOSED, identities=BOUND)
def check_a_tree_to_read_only_is_copied_and_the_copy_is_moved_and_removed() -> None:
    shutil.copytree("d", "copy", symlinks=True)
    assert [mode_of(name) for name in ("copy", "copy/s", "copy/s/f")] == [0o555, 0o555, 0o444]
    os.rename("copy", "moved")
    assert read_file("moved/s/f") == CONTENT
    _open_all("moved")
    shutil.rmtree("moved")
    assert list_names() == ["d"]


@behaviour(lower=CLOSED, identities=BOUND)
def check_a_directory_to_read_only_is_renamed_where_it_is() -> None:
    os.rename("d", "e")
    assert list_names("e") == ["s", "x"]
    assert mode_of("e") == 0o555
    os.mkdir("new", 0o555)
    os.rename("new", "newer")
    os.mkdir("into")
    with refused(errno.EACCES):
        os.rename("newer", "into/n")
    os.rename("newer", "d")
    assert (mode_of("d"), list_names("d")) == (0o555, [])
    syscalls.renameat2(b"d", b"e", syscalls.RENAME_EXCHANGE)
    assert (list_names("d"), list_names("e")) == (["s", "x"], [])
    os.rmdir("e")
    assert list_names() == ["d", "into"]


@behaviour(lower={"d": Dir(), "d/s": Dir(mode=0o555), "d/s/f": File()}, identities=BOUND)
def check_a_directory_to_read_only_is_replaced_once_it_is_empty() -> None:
    os.mkdir("new", 0o711)
    with refused(errno.ENOTEMPTY):
        os.rename("new", "d/s")
    os.chmod("d/s", 0o700)
    os.unlink("d/s/f")
    os.chmod("d/s", 0)
    os.rename("new", "d/s")
    assert (mode_of("d/s"), list_names("d/s")) == (0o711, [])
    os.mkdir("other", 0o500)
    os.mkdir("other2", 0)
    os.rename("other", "other2")
    assert mode_of("other2") == 0o500


@behaviour(
    lower={"o": Dir(), "o/f": File(), "c": Dir(mode=0), "e": Dir(mode=0o111)}, identities=BOUND
)
def check_empty_directories_that_are_not_listed_are_removed() -> None:
    for mode in (0, 0o111, 0o333, 0o444, 0o200):
        os.mkdir("new")
        os.mkdir("new/in")
        os.chmod("new/in", mode)
        os.rmdir("new/in")
        os.rmdir("new")
    os.unlink("o/f")
    os.chmod("o", 0o111)
    os.rmdir("o")
    os.rmdir("c")
    os.rmdir("e")
    assert list_names() == []


@behaviour(lower={"d": Dir(mode=0o333), "d/f": File(b"x")}, identities=BOUND)
def check_a_directory_to_write_only_takes_files_and_gives_them_back() -> None:
    with refused(errno.EACCES):
        os.listdir("d")
    with refused(errno.ENOTEMPTY):
        os.rmdir("d")
    write_file("d/new", b"new")
    assert (read_file("d/f"), read_file("d/new")) == (b"x", b"new")
    os.unlink("d/f")
    os.rename("d/new", "d/newer")
    os.unlink("d/newer")
    assert mode_of("d") == 0o333
    os.rmdir("d")
    assert list_names() == []


@behaviour(lower={"d": Dir(mode=0o111), "d/s": Dir(), "d/s/f": File(b"x")}, identities=BOUND)
def check_a_directory_to_pass_only_is_passed() -> None:
    write_file("d/s/f", b"new")
    os.mkdir("d/s/new")
    assert list_names("d/s") == ["f", "new"]
    with refused(errno.EACCES):
        os.mkdir("d/new")
    os.chmod("d", 0o755)
    assert list_names("d") == ["s"]
    assert read_file("d/s/f") == b"new"


@behaviour(
    lower={"d": Dir(mode=0o644)} | {f"d/{number}": File() for number in range(300)},
    identities=BOUND,
)
def check_a_directory_that_is_not_passed_is_listed() -> None:
    os.mkdir("n")
    for number in range(300):
        write_file(f"n/{number}", b"")
    os.chmod("n", 0o444)
    for name in ("d", "n"):
        assert len(list_names(name)) == 300
        assert all(entry.is_file(follow_symlinks=False) for entry in os.scandir(name))
        with refused(errno.EACCES):
            os.stat(f"{name}/1")
        os.chmod(name, 0o744)
        assert os.stat(f"{name}/1").st_size == 0


@behaviour(
    lower={"d": Dir(mode=0), "d/f": File(CONTENT, mode=0o400), "d/s": Dir(mode=0o600)},
    identities=BOUND,
)
def check_a_lower_directory_closed_to_all_is_opened_by_a_new_mode() -> None:
    with refused(errno.EACCES):
        os.stat("d/f")
    os.chmod("d", 0o755)
    assert list_names("d") == ["f", "s"]
    assert read_file("d/f") == CONTENT
    os.chmod("d/f", 0o600)
    write_file("d/f", b"new")
    assert read_file("d/f") == b"new"
    os.rmdir("d/s")
    os.unlink("d/f")
    os.rmdir("d")
    assert list_names() == []


@behaviour(lower={"d": Dir(), "d/f": File(CONTENT), "d/s": Dir()}, identities=BOUND)
def check_what_is_open_in_a_directory_goes_on_after_that_was_closed_to_all() -> None:
    os.mkdir("n")
    write_file("n/f", CONTENT)
    os.mkdir("n/s")
    for name in ("d", "n"):
        with (
            opened(f"{name}/f", os.O_RDWR) as file,
            opened(name, os.O_RDONLY) as directory,
            opened(f"{name}/s", os.O_RDONLY) as inner,
        ):
            os.chmod(name, 0)
            drop_caches()
            os.pwrite(file, b"abc", 5)
            os.fchmod(file, 0o640)
            os.setxattr(file, "user.k", b"v")
            os.ftruncate(file, 8)
            os.utime(file, ns=(10**18, 10**18 + 1))
            assert os.pread(file, 10, 0) == b"01234abc"
            assert os.fstat(file).st_mode & 0o777 == 0o640
            os.fchmod(inner, 0o500)
            assert os.fstat(inner).st_mode & 0o777 == 0o500
            assert os.fstat(directory).st_mode & 0o777 == 0
            assert sorted(os.listdir(directory)) == ["f", "s"]
            with refused(errno.EACCES):
                os.stat(f"{name}/f")
            os.fchmod(directory, 0o700)
        assert read_file(f"{name}/f") == b"01234abc"
        assert os.stat(f"{name}/f").st_mtime_ns == 10**18 + 1
        assert mode_of(f"{name}/s") == 0o500


@behaviour(lower={"d": Dir(), "d/f": File(), "e": Dir()}, remount=True, identities=BOUND)
def check_a_closed_directory_shows_what_it_did_through_a_remount() -> Iterator[None]:
    os.unlink("d/f")
    os.rmdir("d")
    os.mkdir("d")
    write_file("d/new", b"new")
    for name in ("d", "e"):
        os.chmod(name, 0)
    yield
    assert (mode_of("d"), mode_of("e")) == (0, 0)
    with refused(errno.ENOTEMPTY):
        os.rmdir("d")
    os.rmdir("e")
    os.chmod("d", 0o700)
    assert list_names("d") == ["new"]


@behaviour({"d": Dir(mode=0o555), "w": Whiteout()}, {"d": Dir(), "d/f": File(b"x"), "w": File()},
           identities=BOUND)  # fmt: skip
def check_a_merged_directory_to_read_only_takes_changes_of_its_files_and_an_acl() -> None:
    write_file("d/f", b"new")
    assert (mode_of("d"), read_file("d/f")) == (0o555, b"new")
    os.setxattr("d", DEFAULT, ALL_SEARCH)
    assert os.getxattr("d", DEFAULT) == ALL_SEARCH
    with refused(errno.EACCES):
        os.unlink("d/f")
    os.rename("d", "w")
    assert read_file("w/f") == b"new"
