"""What a machine has written, read from its disk without the kernel."""

from __future__ import annotations

import fcntl
import os
import pathlib
import random
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator

import pytest

from overlaykit.errors import Error
from overlaykit.machine import disk, ext4, jbd2, qcow2
from overlaykit.views import machine as machines
from overlaykit.views import machine_disk

SIZE = 64 << 20
LONG = "x" * 200
SPARSE = 1 << 32

_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

pytestmark = pytest.mark.skipif(
    shutil.which("debugfs", path=_PATH) is None or os.geteuid() != 0,
    reason="takes e2fsprogs, and an upper of root's",
)


def made(path: pathlib.Path, source: pathlib.Path, *commands: str) -> str:
    """A disk with the files of a directory, after commands of debugfs(8)."""
    raw, image = path / "raw", path / "disk"
    with open(raw, "wb") as file:
        file.truncate(SIZE)
    options = ("-q", "-F", "-b", "4096", "-O", "^resize_inode", "-J", "size=4")
    _tool("mkfs.ext4", *options, "-d", os.fspath(source), os.fspath(raw))
    if commands:
        _tool("debugfs", "-w", "-f", "-", os.fspath(raw), given="\n".join(commands))
    with open(raw, "rb") as file, open(image, "w+b") as result:
        disk._write(result.fileno(), SIZE, file.fileno())
    raw.unlink()
    return os.fspath(image)


def _tool(name: str, *arguments: str, given: str = "") -> None:
    program = shutil.which(name, path=_PATH)
    assert program is not None
    done = subprocess.run(
        [program, *arguments], input=given, text=True, capture_output=True, check=True
    )
    assert "rror" not in done.stderr + done.stdout, done


@pytest.fixture
def written(tmp_path: pathlib.Path) -> pathlib.Path:
    """A directory as a machine's disk has it."""
    top = tmp_path / "written"
    upper = top / "upper"
    (upper / "dir" / "opaque").mkdir(parents=True)
    (upper / "many").mkdir()
    for number in range(200):
        (upper / "many" / f"file {number}").touch()
    (upper / "dir" / "file").write_bytes(b"content\n")
    os.chown(upper / "dir" / "file", 12, 70000)
    os.chmod(upper / "dir" / "file", 0o4751)
    os.link(upper / "dir" / "file", upper / "hard")
    os.symlink("short", upper / "link")
    os.symlink(LONG, upper / "long")
    os.mkfifo(upper / "fifo")
    os.mknod(upper / "gone", stat.S_IFCHR, 0)
    os.mknod(upper / "device", stat.S_IFBLK | 0o640, os.makedev(300, 70000))
    with open(upper / "sparse", "wb") as file:
        file.write(b"begin")
        file.truncate(SPARSE)
    os.setxattr(upper / "dir" / "opaque", "trusted.overlay.opaque", b"y")
    os.setxattr(upper / "dir" / "opaque", "trusted.overlay.origin", b"of the guest")
    os.setxattr(upper / "dir", "trusted.overlay.redirect", b"/old")
    os.setxattr(upper / "dir" / "file", "user.small", b"value")
    os.setxattr(upper / "dir" / "file", "user.large", b"v" * 1000)
    return top


def shown(upper: str) -> dict[str, object]:
    """What is in a directory, by path."""
    found: dict[str, object] = {}
    for place, directories, files in os.walk(upper):
        for name in (*directories, *files):
            path = os.path.join(place, name)
            st = os.lstat(path)
            content: object = b""
            if stat.S_ISLNK(st.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(st.st_mode):
                with open(path, "rb") as file:
                    content = file.read(4096)
            xattrs = {
                one: os.getxattr(path, one, follow_symlinks=False)
                for one in os.listxattr(path, follow_symlinks=False)
            }
            size = 0 if stat.S_ISDIR(st.st_mode) else st.st_size
            owner = st.st_uid, st.st_gid
            mtime = int(st.st_mtime)
            found[os.path.relpath(path, upper)] = (
                *(st.st_mode, owner, size, mtime, st.st_rdev),
                *(content, xattrs, 0 if stat.S_ISDIR(st.st_mode) else st.st_nlink),
            )
    return found


def test_all_that_a_machine_has_written_is_copied(
    tmp_path: pathlib.Path, written: pathlib.Path
) -> None:
    image = made(tmp_path, written)
    os.removexattr(written / "upper" / "dir" / "opaque", "trusted.overlay.origin")
    with machine_disk.of_file(image) as opened:
        with machine_disk.copied(opened, image) as copy:
            assert copy.left_out == 0
            assert shown(copy.path) == shown(os.fspath(written / "upper"))
            assert os.stat(os.path.join(copy.path, "sparse")).st_blocks < 100
        with machine_disk.copied(opened, image, contents=False) as bare:
            assert os.stat(os.path.join(bare.path, "dir", "file")).st_size == 8
            assert os.stat(os.path.join(bare.path, "dir", "file")).st_blocks == 8  # the attributes
    assert not os.path.lexists(copy.path)
    assert not os.path.lexists(bare.path)


def test_what_is_in_the_journal_alone_is_read(
    tmp_path: pathlib.Path, written: pathlib.Path
) -> None:
    (tmp_path / "empty").mkdir()
    image = made(tmp_path, tmp_path / "empty")
    with open(image, "rb") as file:
        files = ext4.FileSystem(qcow2.Image(file.fileno(), image))
        assert [name for name, _ in files.entries(files.inode(ext4.ROOT))] == [b"lost+found"]
        ((_, block, _),) = files._extents(files.inode(ext4.ROOT))
        content = bytearray(files._block(block))
    at = content.index(b"lost+found")
    content[at : at + 10] = b"lost+fouND"
    (tmp_path / "block").write_bytes(content)
    write = f"jw -b {block} {tmp_path}/block"
    for options, commands, name in (
        ("", (write,), b"lost+fouND"),
        ("-c", (write,), b"lost+fouND"),
        ("-v 3", (write,), b"lost+fouND"),
        ("-v 3", (write, f"jw -r {block}"), b"lost+found"),
    ):
        image = made(tmp_path, tmp_path / "empty", f"jo {options}", *commands, "jc")
        with open(image, "rb") as file:
            files = ext4.FileSystem(qcow2.Image(file.fileno(), image))
            assert [one for one, _ in files.entries(files.inode(ext4.ROOT))] == [name], options


def test_a_disk_that_no_machine_has_used_is_an_empty_upper(tmp_path: pathlib.Path) -> None:
    path = os.fspath(tmp_path / "disk")
    with open(path, "xb"):
        pass
    disk.create(path, SIZE, journal=True)
    with machine_disk.of_file(path) as opened, machine_disk.copied(opened, path) as copy:
        assert os.listdir(copy.path) == []


def test_a_disk_that_a_machine_uses_is_not_read(tmp_path: pathlib.Path) -> None:
    path = os.fspath(tmp_path / "disk")
    with open(path, "xb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        used = machine_disk.of_file(path)
        with pytest.raises(machines.DiskInUse):
            used.__enter__()


def damages(image: str, seed: int, count: int) -> Iterator[bytes]:
    """The bytes of a disk, each time with some others where it holds data."""
    with open(image, "rb") as file:
        good = file.read()
    places = [at for at in range(0, len(good), 64) if good[at : at + 64].count(0) < 64]
    chosen = random.Random(seed)
    for _ in range(count):
        bad = bytearray(good)
        for _ in range(chosen.choice((1, 2, 8))):
            at = chosen.choice(places) + chosen.randrange(64)
            value = chosen.choice((0, 1, 0x7F, 0x80, 0xFF, chosen.randrange(256)))
            for inside in range(chosen.choice((1, 1, 2, 4))):
                bad[min(at + inside, len(bad) - 1)] = value
        yield bytes(bad)


def read_all(path: str) -> None:
    """Read what `copied` reads of a disk, but for its files' contents of hostile sizes."""
    with open(path, "rb") as file:
        files = ext4.FileSystem(qcow2.Image(file.fileno(), path))
        left, seen = [ext4.ROOT], set()
        while left:
            number = left.pop()
            if number in seen:
                continue
            seen.add(number)
            inode = files.inode(number)
            if stat.S_ISDIR(inode.mode):
                left += [one for _, one in files.entries(inode)]
            elif stat.S_ISLNK(inode.mode):
                files.target(inode)
            else:
                for _, content in files.data(inode):
                    assert len(content) <= 1 << 16


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.long)])
def test_a_damaged_disk_is_read_or_refused(
    tmp_path: pathlib.Path, written: pathlib.Path, count: int
) -> None:
    image = made(tmp_path, written, "jo", f"jw -b 20 {sys.executable}", "jc")
    bad = tmp_path / "bad"
    refused = 0
    for number, content in enumerate(damages(image, 7, count)):
        bad.write_bytes(content)
        try:
            read_all(os.fspath(bad))
        except Error:
            refused += 1
        except Exception as error:
            raise AssertionError(f"damage {number}") from error
    assert 0 < refused < count


def test_a_journal_of_nonsense_is_refused() -> None:
    with pytest.raises(jbd2.Unknown):
        jbd2.overlaid(lambda _: bytes(4096), 10)
