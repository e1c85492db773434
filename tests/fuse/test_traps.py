"""What a data plane or a cache of the kernel may get wrong without an error: bytes that are lost, old or another's."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable

import pytest

from ..crash.disks import memory, put_upper_on
from ..overlay.inside import as_ordinary_user
from ..overlay.stack import Stack
from ..overlay.view import refused
from ..posix import syscalls
from ..posix.table import File
from .mounted import mounted

pytestmark = [pytest.mark.usefixtures("sandbox")]


@pytest.mark.parametrize("made", [False, True])
def test_a_file_that_was_emptied_at_open_has_only_the_shorter_content(
    stack: Stack, made: bool
) -> None:
    """`made`: by the data plane, in the upper; else it is a lower's."""
    stack.add({"d/f": File(b"long content" * 1000), "d/g": File(b"")})
    name = "d/new" if made else "d/f"
    with mounted(stack) as mount:
        path = mount.path(name)
        with open(mount.path("d/first"), "w"):
            pass
        if made:
            with open(path, "wb") as file:
                file.write(b"long content" * 1000)
        with open(path, "rb") as reader:
            assert len(reader.read()) == 12_000
            with open(path, "wb") as file:
                file.write(b"short")
            assert os.pread(reader.fileno(), 100, 0) == b"short"
        mount.forget()
        with open(path, "rb") as file:
            assert file.read() == b"short"
    with mounted(stack) as mount, open(mount.path(name), "rb") as file:
        assert file.read() == b"short"


def test_readers_of_a_lower_never_see_old_bytes_after_a_write_has_returned(stack: Stack) -> None:
    """Two readers read all the time while a third program copies up and writes, and the caches are dropped."""
    size, files = 300_000, 20
    lower = stack.add({f"d/{number}": File(b"old" * (size // 3)) for number in range(files)})
    with mounted(stack) as mount:
        for number in range(files):
            path = mount.path(f"d/{number}")
            written, opened = threading.Event(), threading.Barrier(3)
            wrong: list[bytes] = []

            def read(
                path: str,
                written: threading.Event,
                opened: threading.Barrier,
                wrong: list[bytes],
            ) -> None:
                fd = os.open(path, os.O_RDONLY)
                opened.wait()
                was_written = False
                while not was_written:
                    was_written = written.is_set()
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                    found = os.pread(fd, 3, size - 3)
                    if found != b"new" and (was_written or found != b"old"):
                        wrong.append(found)
                os.close(fd)

            arguments = (path, written, opened, wrong)
            readers = [threading.Thread(target=read, args=arguments) for _ in range(2)]
            for reader in readers:
                reader.start()
            opened.wait()
            fd = os.open(path, os.O_RDWR)
            os.pwrite(fd, b"new", size - 3)
            os.fsync(fd)  # a page that is not written yet stays in the kernel's cache
            written.set()
            for reader in readers:
                reader.join()
            os.close(fd)
            assert wrong == []
    for number in range(files):
        with open(os.path.join(lower, f"d/{number}"), "rb") as file:
            assert file.read() == b"old" * (size // 3)


def test_inode_numbers_that_are_used_again_show_no_other_file(stack: Stack) -> None:
    """Names are made, removed and forgotten at random: each shows what was written to it."""
    stack.add({"d/lower": File(b"lower")})
    with mounted(stack) as mount:
        ended = threading.Event()

        def forget() -> None:
            while not ended.is_set():
                syscalls.mount(b"none", os.fsencode(mount.target), None, syscalls.MS_REMOUNT)

        def work(own: int, wrong: list[str]) -> None:
            directory = mount.path(f"d/{own}")
            os.mkdir(directory)
            content: dict[str, bytes] = {}
            for number in range(600):
                name = str(number * 7 % 13)
                path = os.path.join(directory, name)
                if name in content and number % 3:
                    with open(path, "rb") as file:
                        if file.read() != content[name]:
                            wrong.append(path)
                    os.unlink(path)
                    del content[name]
                else:
                    content[name] = b"%d of %d" % (number, own)
                    with open(f"{path}.new", "wb") as file:
                        file.write(content[name])
                    os.rename(f"{path}.new", path)
            if sorted(os.listdir(directory)) != sorted(content):
                wrong.append(directory)

        wrong: list[str] = []
        workers = [threading.Thread(target=work, args=(own, wrong)) for own in range(3)]
        forgetting = threading.Thread(target=forget)
        for thread in (*workers, forgetting):
            thread.start()
        for thread in workers:
            thread.join()
        ended.set()
        forgetting.join()
        assert wrong == []
        held = mount.forget()
        assert (held["nodes"], held["nlookup"], held["open_files"]) == (1, 1, 0)


def test_a_name_that_was_missing_shows_once_python_makes_it(stack: Stack) -> None:
    """The kernel keeps that a name is missing: in a lower's directory, in one of several, in one granted for changes.

    The plane knows all names of the second one, and of the first one once some were missed.
    """
    stack.add({"lower/f": File(b"f"), "merged/f": File(b"f")})
    stack.add({"merged/g": File(b"g")})
    with mounted(stack) as mount:
        os.mkdir(mount.path("made"))
        for directory in ("lower", "merged", "made"):
            os.listdir(mount.path(directory))
            source = mount.path(f"{directory}/source")
            names = [mount.path(f"{directory}/{name}") for name in ("link", "fifo", "moved", "dir")]
            for name in names:
                with refused(errno.ENOENT):
                    os.stat(name)
            with open(source, "wb") as file:
                file.write(b"source")
            os.link(source, names[0])
            os.mkfifo(names[1])
            os.rename(source, names[2])
            os.mkdir(names[3])
            for name in names:
                os.stat(name)
            kept = os.open(
                mount.path(directory), os.O_RDONLY
            )  # the directory itself is not forgotten
            mount.forget()
            os.close(kept)
            for name in names:
                os.stat(name)
            with refused(errno.ENOENT):
                os.stat(source)
            os.unlink(names[0])
            with refused(errno.ENOENT):
                os.stat(names[0])


@as_ordinary_user
@pytest.mark.parametrize("ends", [os.fsync, os.close])
def test_a_failed_writeback_reaches_the_program(stack: Stack, ends: Callable[[int], None]) -> None:
    """Of a file that the data plane has made, on a disk that is full."""
    stack.add({})
    disk = os.path.join(stack.directory, "disk")
    with memory(disk, b"size=4m") as small:
        put_upper_on(stack, disk)
        with mounted(stack) as mount:
            os.mkdir(mount.path("d"))
            with open(mount.path("d/first"), "w"):
                pass
            fd = os.open(mount.path("d/f"), os.O_RDWR | os.O_CREAT)
            small.leave("pages", 1)
            os.write(fd, b"x" * 100_000)
            with refused(errno.ENOSPC):
                ends(fd)
            if ends is not os.close:
                os.close(fd)
