"""The data plane behind a mount: what it answers, and what crosses to Python."""

from __future__ import annotations

import os

import pytest

from ..overlay.inside import as_ordinary_user
from ..overlay.stack import Stack
from ..posix.table import Dir, File, Symlink
from .mounted import mounted

pytestmark = [pytest.mark.usefixtures("sandbox"), as_ordinary_user]

FILES = 50


def test_reading_a_plain_lower_reaches_no_python(stack: Stack) -> None:
    stack.add(
        {
            **{f"d/e/{number}": File(b"%d" % number) for number in range(FILES)},
            "d/s": Symlink("e/1"),
        }
    )
    with mounted(stack) as mount:
        os.stat(mount.path("d/e"))
        before = mount.counted()
        for number in range(FILES):
            path = mount.path(f"d/e/{number}")
            assert os.stat(path).st_size == len(str(number))
            with open(path) as file:
                assert file.read() == str(number)
        assert len(os.listdir(mount.path("d/e"))) == FILES
        assert os.readlink(mount.path("d/s")) == "e/1"
        assert not os.path.exists(mount.path("d/e/missing"))
        after = mount.counted()
        assert after.requests == before.requests
        assert after.answered >= before.answered + 3 * FILES


def test_readers_of_a_lowers_file_read_what_is_written_after_its_copy_up(stack: Stack) -> None:
    lower = stack.add({"d/f": File(b"lower" * 10_000)})
    with mounted(stack) as mount:
        path = mount.path("d/f")
        with open(path, "rb") as first, open(path, "rb") as second:
            assert first.read(5) == b"lower"
            with open(path, "r+b") as writer:
                writer.write(b"upper")
                writer.flush()
                os.fsync(writer.fileno())
            for reader in (first, second):
                os.posix_fadvise(reader.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                assert os.pread(reader.fileno(), 10, 0) == b"upperlower"
                assert os.fstat(reader.fileno()).st_size == 50_000
    with open(os.path.join(lower, "d/f"), "rb") as file:
        assert file.read() == b"lower" * 10_000


def test_names_of_a_changed_directory_keep_their_inode_numbers(stack: Stack) -> None:
    stack.add({f"d/{number}": File(b"x") for number in range(FILES)} | {"d/sub/f": File(b"x")})
    with mounted(stack) as mount:
        names = [*map(str, range(FILES)), "sub", "sub/f"]
        before = {name: os.stat(mount.path(f"d/{name}")).st_ino for name in names}
        with open(mount.path("d/new"), "w"):
            pass
        os.rename(mount.path("d/sub"), mount.path("d/moved"))
        before["moved"], before["moved/f"] = before.pop("sub"), before.pop("sub/f")
        for _ in range(2):
            found = {name: os.stat(mount.path(f"d/{name}")).st_ino for name in before}
            assert found == before
            listed = {entry.name: entry.inode() for entry in os.scandir(mount.path("d"))}
            assert listed | before == before | {
                "new": listed["new"],
                "moved/f": before["moved/f"],
            }


def test_what_is_removed_while_it_is_open_stays_readable(stack: Stack) -> None:
    stack.add({"d/f": File(b"content"), "d/g": File(b"other"), "empty": Dir()})
    with mounted(stack) as mount, open(mount.path("d/f"), "rb") as one:
        with open(mount.path("d/g"), "rb") as other:
            os.unlink(mount.path("d/f"))
            os.rename(mount.path("d/g"), mount.path("d/f"))
            assert one.read() == b"content"
            assert other.read() == b"other"
        directory = os.open(mount.path("empty"), os.O_RDONLY)
        os.listdir(directory)
        os.rmdir(mount.path("empty"))
        assert os.listdir(directory) == []
        assert os.fstat(directory).st_nlink == 0
        os.close(directory)
