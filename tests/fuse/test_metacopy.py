"""A mount with metacopy=on: what a change of metadata costs, and what programs read before and after it."""

from __future__ import annotations

import mmap
import os
import threading

from overlaykit.fuse.spec import MountOptions

from ..overlay.inside import as_root
from ..overlay.stack import Stack
from ..posix.table import Dir, File
from .mounted import Mounted, mounted

pytestmark = as_root

ON = MountOptions(metacopy=True)
DATA = b"0123456789abcdef" * (4 << 16)


def written(mount: Mounted) -> int:
    """Bytes that the daemon has written by write(2) and copy_file_range(2) (proc_pid_io(5))."""
    with open(f"/proc/{mount.process.pid}/io", "rb") as file:
        fields = dict(line.split(b": ") for line in file.read().splitlines())
    return int(fields[b"wchar"])


def blocks_below(root: str) -> int:
    """The blocks of all files below a directory."""
    return sum(
        os.lstat(os.path.join(path, name)).st_blocks
        for path, _, names in os.walk(root)
        for name in names
    )


def test_an_owner_change_of_a_thousand_files_writes_no_data(stack: Stack) -> None:
    count, size, filled = 1000, 1 << 20, 16 << 10
    lower = stack.add({"d": Dir()})
    for number in range(count):
        with open(f"{lower}/d/f{number}", "wb") as file:
            file.write(b"x" * filled)
            file.truncate(size)
    with mounted(stack, options=ON) as mount:
        before = written(mount)
        for number in range(count):
            os.chown(mount.path(f"d/f{number}"), 12, 34)
        assert written(mount) - before < count * filled // 8
        st = os.stat(mount.path("d/f7"))
        assert (st.st_uid, st.st_size) == (12, size)
        assert st.st_blocks == os.stat(f"{lower}/d/f7").st_blocks
        with open(mount.path("d/f7"), "rb") as file:
            assert file.read(filled + 1) == b"x" * filled + b"\0"
    os.sync()
    assert blocks_below(stack.upper) * 512 <= count * 4096


def test_descriptors_and_mappings_of_before_show_what_is_written_after(stack: Stack) -> None:
    stack.add({"f": File(DATA), "d": Dir()})
    with mounted(stack, options=ON) as mount:
        with open(mount.path("f"), "rb") as reader:
            mapped = mmap.mmap(reader.fileno(), 0, access=mmap.ACCESS_READ)
            os.chmod(mount.path("f"), 0o600)
            os.rename(mount.path("f"), mount.path("d/g"))
            os.link(mount.path("d/g"), mount.path("h"))
            assert reader.read(16) == DATA[:16]
            with open(mount.path("h"), "r+b") as writer:
                writer.write(b"new")
            assert os.pread(reader.fileno(), 5, 0) == mapped[:5] == b"new34"
            mapped.close()
        mount.forget()
        for name in ("d/g", "h"):
            with open(mount.path(name), "rb") as file:
                assert file.read() == b"new" + DATA[3:]
    with mounted(stack, options=ON) as mount, open(mount.path("h"), "rb") as file:
        assert file.read() == b"new" + DATA[3:]


def test_changes_of_names_while_the_data_are_copied_lose_nothing(stack: Stack) -> None:
    """The copy runs in a thread of the daemon: other requests are answered meanwhile."""
    stack.add({f"f{number}": File(DATA) for number in range(4)} | {"d": Dir()})
    with mounted(stack, options=ON) as mount:
        for number in range(4):
            os.chmod(mount.path(f"f{number}"), 0o600)

        def write(number: int) -> None:
            fd = os.open(mount.path(f"f{number}"), os.O_RDWR)
            os.pwrite(fd, b"new", 0)
            os.fsync(fd)
            os.close(fd)

        writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        opened = [os.open(mount.path(f"f{number}"), os.O_RDONLY) for number in range(4)]
        for writer in writers:
            writer.start()
        for number in range(4):
            # The writer may not have opened it yet: a name that stays.
            os.link(mount.path(f"f{number}"), mount.path(f"d/g{number}"))
            os.chown(mount.path(f"d/g{number}"), 12, 34)
        for writer in writers:
            writer.join()
        for number in range(4):
            os.unlink(mount.path(f"f{number}"))
            with open(opened[number], "rb") as file:
                assert file.read() == b"new" + DATA[3:]
    with mounted(stack, options=ON) as mount:
        for number in range(4):
            assert os.stat(mount.path(f"d/g{number}")).st_uid == 12
            with open(mount.path(f"d/g{number}"), "rb") as file:
                assert file.read() == b"new" + DATA[3:]


def test_a_copy_program_finds_data_by_the_blocks(stack: Stack) -> None:
    """Programs take a file with fewer blocks than bytes for one with holes."""
    lower = stack.add({"f": File(DATA)})
    with mounted(stack, options=ON) as mount:
        os.chmod(mount.path("f"), 0o600)
        shown = os.stat(mount.path("f")).st_blocks
        assert shown == os.stat(f"{lower}/f").st_blocks
        mount.forget()
        assert os.stat(mount.path("f")).st_blocks == shown
        with os.scandir(mount.target) as entries:
            assert next(entry for entry in entries if entry.name == "f").stat().st_blocks == shown
