"""What a data plane or a cache of the kernel may get wrong without an error: bytes that are lost, old or another's."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from overlaykit.fuse.spec import MountOptions

from ..crash.disks import PLENTY, memory, put_upper_on
from ..overlay.inside import as_ordinary_user, as_root
from ..overlay.stack import Stack
from ..overlay.view import refused
from ..posix import syscalls
from ..posix.files import opened, read_file
from ..posix.table import File
from .mounted import Mounted, mounted

pytestmark = [pytest.mark.usefixtures("sandbox")]

OLD: Final = b"old" * 100_000
NEW: Final = b"new"
DELAY: Final = 5000
"""Microseconds."""


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
    """Readers read all the time while two programs copy up and write, and the caches are dropped."""
    files = [f"d/{number}" for number in range(20)]
    lower = stack.add({name: File(OLD) for name in files})
    with mounted(stack) as mount:
        for name in files:
            read_while_written(mount, name)
    for name in files:
        assert read_file(os.path.join(lower, name)) == OLD


@as_root
def test_readers_never_see_old_bytes_while_the_daemon_is_slow(stack: Stack) -> None:
    """As above, where the daemon stops for a while at each read, and as it copies, syncs and publishes a file.

    The files lie in a directory of a lower and in a merged one, and are copied up together with it, or after it.
    """
    files = [f"{place}/{number}" for place in "dm" for number in range(2)]
    lower = stack.add({name: File(OLD) for name in files})
    stack.add({"m/above": File(b"x")})
    steps = ("copy_file_range", "fsync", "sync_file_range", "renameat2", "pread64")
    with mounted(stack) as mount, delayed(mount, *steps):
        for name in files:
            read_while_written(mount, name)
    for name in files:
        assert read_file(os.path.join(lower, name)) == OLD


@contextlib.contextmanager
def delayed(mount: Mounted, *calls: str) -> Iterator[None]:
    """Have these system calls of the daemon wait before and after what they do."""
    command = ["strace", "-f", "-o", "/dev/null", "-p", str(mount.process.pid)]
    command.append(f"--trace={','.join(calls)}")
    command += [f"--inject={one}:delay_enter={DELAY}:delay_exit={DELAY}" for one in calls]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        assert "attached" in tracer.stderr.readline()
        try:
            yield
        finally:
            tracer.terminate()


def read_while_written(mount: Mounted, name: str) -> None:
    """Write `NEW` at the end of a file with `OLD`, while others read it, by descriptors and by its name, and write.

    Once the write has returned, each read must find it. Before, one may find some of its bytes: the kernel copies from
    a page of its cache while another program's write fills it.
    """
    path = mount.path(name)
    at = len(OLD) - len(NEW)
    written, begun = threading.Event(), threading.Barrier(5)
    wrong: list[tuple[str, bytes]] = []

    def read(kind: str, found: Callable[[], bytes]) -> None:
        begun.wait()
        was_written = False
        while not was_written:
            was_written = written.is_set()
            seen = found()
            bytes_of_both = zip(seen, NEW, OLD[at:], strict=True)
            if seen != NEW and (
                was_written or any(one not in both for one, *both in bytes_of_both)
            ):
                wrong.append((kind, seen))

    def by_descriptor(fd: int) -> bytes:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return os.pread(fd, len(NEW), at)

    def by_name() -> bytes:
        syscalls.mount(b"none", os.fsencode(mount.target), None, syscalls.MS_REMOUNT)
        with opened(path, os.O_RDONLY) as fd:
            return by_descriptor(fd)

    def write(position: int) -> None:
        with opened(path, os.O_RDWR) as fd:
            os.pwrite(fd, NEW, position)
            os.fsync(fd)  # a page that is not written yet stays in the kernel's cache

    def write_begin() -> None:
        begun.wait()
        write(0)

    with opened(path, os.O_RDONLY) as first, opened(path, os.O_RDONLY) as second:
        readers = [
            threading.Thread(target=read, args=("first", functools.partial(by_descriptor, first))),
            threading.Thread(
                target=read, args=("second", functools.partial(by_descriptor, second))
            ),
            threading.Thread(target=read, args=("name", by_name)),
            threading.Thread(target=write_begin),
        ]
        for reader in readers:
            reader.start()
        begun.wait()
        write(at)
        written.set()
        for reader in readers:
            reader.join()
    assert wrong == []
    assert read_file(path) == NEW + OLD[len(NEW) : at] + NEW


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


@pytest.mark.parametrize("case", ["lowers", "in upper", "dirsync"])
def test_a_name_that_was_missing_shows_once_python_makes_it(stack: Stack, case: str) -> None:
    """The kernel keeps that a name is missing: in a lower's directory, in one of several, in one granted for changes.

    The plane knows all names of the second one, and of the first one once some were missed. "in upper": the directories
    have been copied up before, and their names were handed over again. "dirsync": no directory is granted for changes.
    """
    options = MountOptions(userxattr=stack.unprivileged, dirsync=case == "dirsync")
    stack.add(
        {f"{name}/{number}": File(b"f") for name in ("lower", "merged") for number in range(9)}
    )
    stack.add({"merged/g": File(b"g")})
    with mounted(stack, options=options) as mount:
        os.mkdir(mount.path("made"))
        for directory in ("lower", "merged", "made"):
            if case == "in upper":
                os.mkfifo(mount.path(f"{directory}/before"))
                for number in range(9):
                    os.path.exists(mount.path(f"{directory}/{number}"))
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
            with opened(mount.path(directory), os.O_RDONLY):  # it is not forgotten
                mount.forget()
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


@as_ordinary_user
@pytest.mark.parametrize("directory", ["lower", "new"])
@pytest.mark.parametrize("plane", [True, False])
def test_a_file_with_lost_bytes_takes_no_place_of_a_whole_one(
    stack: Stack, directory: str, plane: bool
) -> None:
    """As `sed -i` on a full disk, which does not look at the result of chown(2)."""
    stack.add({"lower/f": File(OLD)})
    disk = os.path.join(stack.directory, "disk")
    with memory(disk, b"size=4m") as small:
        put_upper_on(stack, disk)
        options = MountOptions(userxattr=True, data_plane=plane)
        with mounted(stack, options=options) as mount:
            if directory == "new":
                os.mkdir(mount.path("new"))
                with open(mount.path("new/f"), "wb") as file:
                    file.write(OLD)
            whole, part = (mount.path(f"{directory}/{name}") for name in ("f", "part"))

            def write(content: bytes) -> int:
                fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
                os.write(fd, content)
                return fd

            with open(part, "wb"):
                pass
            small.leave("pages", 1)
            fd = write(b"x" * 100_000)
            with refused(errno.ENOSPC):
                os.fchown(fd, -1, os.getgid())
            os.close(fd)
            with refused(errno.ENOSPC):
                os.rename(part, whole)
            assert read_file(whole) == OLD
            fd = write(b"x" * 100_000)
            with refused(errno.ENOSPC):
                os.fchmod(fd, 0o600)
            os.close(fd)
            with refused(errno.ENOSPC):
                os.link(part, mount.path(f"{directory}/other"))
            small.leave("pages", PLENTY)
            os.close(write(NEW))  # empty before
            os.rename(part, whole)
            assert read_file(whole) == NEW
