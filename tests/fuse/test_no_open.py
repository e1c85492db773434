"""The option `no_open`: programs open files without a request, and still read and write the files they opened."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import resource
import stat
import subprocess
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from overlaykit.fuse import control, no_open
from overlaykit.fuse.spec import LayerSpec, MountOptions, MountSpec

from ..crash.disks import image, memory, put_upper_on
from ..overlay.inside import as_bound_user, as_ordinary_user, as_root
from ..overlay.stack import Stack
from ..overlay.view import refused
from ..posix import syscalls
from ..posix.files import opened, read_file, wait_for_clock_tick, write_file
from ..posix.table import Dir, File
from ..processes import open_files
from .mounted import DATA_PLANE, Mounted, mounted

OLD: Final = b"old content " * 1000
PLACES: Final = ("lower", "merged", "made", "upper")
"""Where a file lies: in a lower's directory that the plane reads, in one that Python merges, made by the plane in the
upper, and in the upper already when it is mounted."""

CREATES: Final = 100_000 if "OVERLAYKIT_PROOFS" in os.environ else 3000


def _limits_memory() -> bool:
    with open("/proc/self/cgroup") as file:
        return ":memory:" in file.read()


@contextlib.contextmanager
def without_open(stack: Stack) -> Iterator[Mounted]:
    options = MountOptions(userxattr=stack.unprivileged, metacopy=stack.metacopy, no_open="on")
    with mounted(stack, options=options) as mount:
        yield mount


def counts(mount: Mounted, *kinds: str) -> int:
    """How many requests of these kinds have come, for Python and for the plane."""
    answer = control.ask(mount.control_path, control.Stats(), control.Measured)
    both = (answer.python, answer.native)
    return sum(group[kind].count for group in both for kind in kinds if kind in group)


def add_file(stack: Stack, place: str) -> str:
    """Prepare a file with `OLD` at a place. Returns its path in the mount."""
    stack.add({"l/f": File(OLD), "l/other": File(b"other"), "u/below": Dir()})
    stack.add({"m/f": File(OLD), "m/other": File(b"other")})
    stack.add({"m/above": File(b"x")})
    if place == "upper":
        os.makedirs(os.path.join(stack.upper, "u"))
        write_file(os.path.join(stack.upper, "u/f"), OLD)
        write_file(os.path.join(stack.upper, "u/other"), b"other")
    return {"lower": "l/f", "merged": "m/f", "made": "u/new/f", "upper": "u/f"}[place]


def make_file(mount: Mounted, place: str) -> None:
    if place == "made":
        os.mkdir(mount.path("u/new"))
        write_file(mount.path("u/new/f"), OLD)
        write_file(mount.path("u/new/other"), b"other")


def replaced(path: str) -> None:
    os.rename(os.path.join(os.path.dirname(path), "other"), path)


def removed(path: str) -> None:
    os.unlink(path)


def removed_and_made_again(path: str) -> None:
    os.unlink(path)
    # The disk gives the inode's number again if it is free.
    write_file(path, b"new")


def after(act: Callable[[str], None]) -> bytes | None:
    """What is under the name after `act`."""
    if act is removed:
        return None
    return b"other" if act is replaced else b"new"


def uncached(fd: int, size: int = 1 << 20) -> bytes:
    """The content of a file as the daemon has it."""
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return os.pread(fd, size, 0)


def read_plainly(path: str) -> bytes:
    """Read a file without fstat(2), whose count of blocks the kernel asks for again after each close(2)."""
    with opened(path, os.O_RDONLY) as fd:
        return os.read(fd, len(OLD))


@pytest.mark.parametrize("place", PLACES)
def test_opening_and_closing_sends_no_request(stack: Stack, place: str) -> None:
    name = add_file(stack, place)
    with without_open(stack) as mount:
        make_file(mount, place)
        path = mount.path(name)
        for _ in range(2):  # the first open asks whether to ask
            assert read_plainly(path) == OLD
        before = mount.counted()
        for _ in range(50):
            assert read_plainly(path) == OLD
        after = mount.counted()
        assert after.requests == before.requests
        assert after.answered == before.answered
        for number in range(20):
            write_file(mount.path(f"u/{number}"), b"x")
        sent = counts(mount, "open", "release", "flush")
        for number in range(20, 70):
            write_file(mount.path(f"u/{number}"), b"x")
        assert counts(mount, "open", "release", "flush") == sent


@pytest.mark.parametrize("content", [b"short", b""])
@pytest.mark.parametrize("place", PLACES)
def test_opening_with_o_trunc_truncates(stack: Stack, place: str, content: bytes) -> None:
    name = add_file(stack, place)
    with without_open(stack) as mount:
        make_file(mount, place)
        for _ in range(2):
            write_file(mount.path("u/before"), OLD)
            with open(mount.path(name), "wb") as file:
                file.write(content)
        assert os.stat(mount.path(name)).st_size == len(content)
    with without_open(stack) as mount:
        assert read_file(mount.path(name)) == content
        assert read_file(mount.path("u/before")) == OLD


@pytest.mark.parametrize("is_read_before", [False, True])
@pytest.mark.parametrize("act", [removed, replaced, removed_and_made_again])
@pytest.mark.parametrize("place", PLACES)
def test_a_file_that_is_open_stays_when_its_name_goes(
    stack: Stack, place: str, act: Callable[[str], None], is_read_before: bool
) -> None:
    name = add_file(stack, place)
    with without_open(stack) as mount:
        make_file(mount, place)
        path = mount.path(name)
        writer = os.open(path, os.O_RDWR)
        reader = os.open(path, os.O_RDONLY)
        mount.forget()  # the pages that were just written
        if is_read_before:
            assert os.pread(reader, 1 << 20, 0) == OLD
            os.posix_fadvise(reader, 0, 0, os.POSIX_FADV_DONTNEED)
        act(path)
        assert os.fstat(reader).st_nlink == 0
        assert os.fstat(reader).st_size == len(OLD)
        assert uncached(reader) == OLD
        os.pwrite(writer, b"NEW", 0)
        os.ftruncate(writer, len(OLD) - 1)
        assert uncached(writer) == (b"NEW" + OLD[3:])[:-1]
        assert uncached(reader) == (b"NEW" + OLD[3:])[:-1]
        expected = after(act)
        assert os.path.exists(path) == (expected is not None)
        if expected is not None:
            assert read_file(path) == expected
        os.close(writer)
        os.close(reader)
    with without_open(stack) as mount:
        assert os.path.exists(mount.path(name)) == (expected is not None)
        if expected is not None:
            assert read_file(mount.path(name)) == expected
    for lower in stack.lowers:
        for name in ("l/f", "m/f"):
            below = os.path.join(lower, name)
            assert not os.path.exists(below) or read_file(below) == OLD


@pytest.mark.parametrize("place", PLACES)
def test_a_file_that_is_open_is_found_where_its_directory_was_moved(
    stack: Stack, place: str
) -> None:
    stack.metacopy = False
    name = add_file(stack, place)
    with without_open(stack) as mount:
        make_file(mount, place)
        fd = os.open(mount.path(name), os.O_RDWR)
        mount.forget()
        directory, _, base = name.rpartition("/")
        os.rename(mount.path(directory), mount.path("moved"))
        os.mkdir(mount.path(directory))
        write_file(mount.path(name), b"another")
        assert uncached(fd) == OLD
        os.pwrite(fd, b"NEW", 0)
        assert uncached(fd) == b"NEW" + OLD[3:]
        os.close(fd)
        assert read_file(mount.path(f"moved/{base}")) == b"NEW" + OLD[3:]
        assert read_file(mount.path(name)) == b"another"


@pytest.mark.parametrize("place", PLACES)
def test_programs_with_one_file_open_see_the_copy_that_the_first_write_makes(
    stack: Stack, place: str
) -> None:
    name = add_file(stack, place)
    with without_open(stack) as mount:
        make_file(mount, place)
        path = mount.path(name)
        readers = [os.open(path, os.O_RDONLY) for _ in range(2)]
        writers = [os.open(path, os.O_WRONLY | os.O_APPEND) for _ in range(2)]
        assert os.pread(readers[0], 3, 0) == b"old"
        for number in range(10):
            os.write(writers[number % 2], b"%d" % number)
            os.fsync(writers[number % 2])
        for reader in readers:
            assert uncached(reader) == OLD + b"0123456789"
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
            mapped[:3] = b"MAP"
            mapped.flush()
        assert uncached(readers[1]) == b"MAP" + OLD[3:] + b"0123456789"
        for fd in (*readers, *writers):
            os.close(fd)
    upper = os.path.join(stack.upper, name)
    assert read_file(upper) == b"MAP" + OLD[3:] + b"0123456789"


@pytest.mark.parametrize("place", PLACES)
def test_direct_writes_and_cached_ones_meet_in_one_file(stack: Stack, place: str) -> None:
    name = add_file(stack, place)
    with without_open(stack) as mount:
        make_file(mount, place)
        block = mmap.mmap(-1, 4096)
        block.write(b"D" * 4096)
        fd = os.open(mount.path(name), os.O_RDWR | os.O_DIRECT)
        cached = os.open(mount.path(name), os.O_RDWR)
        os.pwrite(cached, b"C" * 8192, 0)
        assert os.pwritev(fd, [block], 4096) == 4096
        assert uncached(cached, 8192) == b"C" * 4096 + b"D" * 4096
        os.close(fd)
        os.close(cached)


@pytest.mark.parametrize("size", [10_000, 2 << 20])
@pytest.mark.parametrize("end", ["fsync", "close"])
def test_a_copy_up_without_room_is_reported_by_fsync_and_by_close(
    stack: Stack, end: str, size: int
) -> None:
    lower = stack.add({"d/f": File(b"x" * size), "d/small": File(b"s")})
    disk = os.path.join(stack.directory, "disk")
    with memory(disk, b"size=4m") as small:
        put_upper_on(stack, disk)
        with without_open(stack) as mount:
            os.chmod(mount.path("d"), 0o700)
            small.leave("pages", 1)
            fd = os.open(mount.path("d/f"), os.O_RDWR)
            os.write(fd, b"lost")
            with refused(errno.ENOSPC):
                os.fsync(fd) if end == "fsync" else os.close(fd)
            with contextlib.suppress(OSError):
                os.close(fd)
            mount.forget()
            assert read_file(mount.path("d/f")) == b"x" * size
            assert os.listdir(os.path.join(stack.work, "work")) == []
            with refused(errno.ENOSPC):
                os.truncate(mount.path("d/f"), size - 1)
    assert read_file(os.path.join(lower, "d/f")) == b"x" * size


@as_ordinary_user
def test_a_file_that_its_user_may_not_read_below_is_not_read(stack: Stack) -> None:
    stack.lowers.append("/etc")
    options = MountOptions(userxattr=True, no_open="on")
    with mounted(stack, squash_unmapped=True, options=options) as mount:
        with opened(mount.path("shadow"), os.O_RDWR) as fd, refused(errno.EACCES):
            os.read(fd, 1)
        with refused(errno.EACCES), opened(mount.path("shadow"), os.O_WRONLY | os.O_APPEND) as fd:
            os.write(fd, b"x")
            os.fsync(fd)


def descriptors(mount: Mounted) -> int:
    return len(os.listdir(f"/proc/{mount.process.pid}/fd"))


@as_root
def test_many_files_are_made_with_few_descriptors(stack: Stack) -> None:
    disk = os.path.join(stack.directory, "disk")
    with memory(disk, b"size=1g"):  # some disks take minutes to remove so many files
        put_upper_on(stack, disk)
        make_many_files(stack)


def make_many_files(stack: Stack) -> None:
    stack.add({"d": Dir()})
    limit = 300
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    with without_open(stack) as mount:
        os.mkdir(mount.path("d/new"))
        kept = [os.open(mount.path(f"d/new/kept{n}"), os.O_RDWR | os.O_CREAT) for n in range(100)]
        for number, fd in enumerate(kept):
            os.write(fd, b"%d" % number)
            if number % 2:
                os.unlink(mount.path(f"d/new/kept{number}"))
            elif number % 4:
                write_file(mount.path("d/new/other"), b"other")
                replaced(mount.path(f"d/new/kept{number}"))
        most = 0
        for number in range(CREATES):
            write_file(mount.path(f"d/new/{number}"), b"%d" % number)
            if number % 100 == 0:
                most = max(most, descriptors(mount))
        assert most < limit - 50  # they do not grow until none is left
        for number, fd in enumerate(kept):
            assert uncached(fd) == b"%d" % number
            os.pwrite(fd, b"again", 0)
            assert uncached(fd)[:5] == b"again"
            os.close(fd)
        for number in range(0, CREATES, 7):
            assert read_file(mount.path(f"d/new/{number}")) == b"%d" % number
        mount.forget()
        mount.await_held(nodes=1, open_files=0)
    assert len(os.listdir(os.path.join(stack.upper, "d/new"))) == CREATES + 50


@as_root
def test_an_error_of_the_disk_reaches_a_sync_also_after_the_descriptor_was_closed(
    stack: Stack,
) -> None:
    """The data are in the disk's cache when the plane closes the file for others, and have no room on the disk."""
    stack.add({"d": Dir()})
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))
    under = os.path.join(stack.directory, "under")
    with (
        memory(under) as below,
        image(under, "mkfs.ext4", "-q", "-O^has_journal", megabytes=16) as (stored, disk),
    ):
        put_upper_on(stack, disk)
        with without_open(stack) as mount:
            os.mkdir(mount.path("d/new"))
            with opened(mount.path("d/new/f"), os.O_RDWR | os.O_CREAT) as fd:
                os.write(fd, b"x" * 600_000)
                mount.forget()  # the kernel has written it then
                for number in range(400):
                    write_file(mount.path(f"d/new/{number}"), b"x")
                    mount.forget() if number % 100 == 99 else None
                files = open_files(mount.process.pid)
                assert not any(file.endswith("/d/new/f") for file in files)
                # Without the plane, the daemon syncs what it closes: nothing is lost then. With it the disk may have
                # written the data by itself, if the machine was busy for so long.
                is_on_disk = read_file(stored).count(b"x" * 4096) >= 600_000 // 4096
                assert is_on_disk or DATA_PLANE
                below.leave("pages", 0)
                with opened(disk, os.O_RDONLY) as root, contextlib.suppress(OSError):
                    syscalls.syncfs(root)
                with contextlib.nullcontext() if is_on_disk else refused(errno.EIO, errno.ENOSPC):
                    os.fsync(fd)
                below.leave("pages", 4096)


@as_root
def test_what_was_forgotten_leaves_no_descriptor(stack: Stack) -> None:
    stack.add({f"d/{number}": File(b"lower") for number in range(100)})
    stack.add({f"d/{number}x": File(b"lower") for number in range(100)})
    with without_open(stack) as mount:
        before = descriptors(mount)
        for number in range(100):
            assert read_file(mount.path(f"d/{number}")) == b"lower"
            write_file(mount.path(f"d/{number}x"), b"upper")
            write_file(mount.path(f"d/{number}y"), b"made")
        assert descriptors(mount) > before + 50
        mount.forget()
        mount.await_held(nodes=1)
        assert descriptors(mount) <= before + 10  # directories are kept


def test_a_copied_file_keeps_its_inode_number_and_change_time_once_it_was_forgotten(
    stack: Stack,
) -> None:
    """Its handle in the plane goes with it: no RELEASE comes, and a node with handles keeps the number."""
    stack.add({"f": File(b"lower")})
    with without_open(stack) as mount:
        with opened(mount.path("f"), os.O_RDWR) as fd:
            assert os.read(fd, 9) == b"lower"
            os.pwrite(fd, b"upper", 0)
            before = os.fstat(fd)
        wait_for_clock_tick()
        mount.forget()
        after = os.stat(mount.path("f"))
        assert (after.st_ino, after.st_ctime_ns) == (before.st_ino, before.st_ctime_ns)


@as_bound_user
def test_a_file_whose_mode_denies_all_is_written_to_by_its_open_descriptor(stack: Stack) -> None:
    stack.add({"d": Dir()})
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))
    with without_open(stack) as mount:
        os.mkdir(mount.path("d/new"))
        fd = os.open(mount.path("d/new/f"), os.O_RDWR | os.O_CREAT, 0o600)
        os.fchmod(fd, 0)
        for number in range(300):  # its descriptor is closed for these
            write_file(mount.path(f"d/new/{number}"), b"x")
        os.write(fd, b"content")
        assert uncached(fd) == b"content"
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0
        os.close(fd)
        subprocess.run(["fusermount3", "-u", mount.target], check=True)
        assert mount.process.wait()
    os.chmod(os.path.join(stack.upper, "d/new/f"), 0o600)
    assert read_file(os.path.join(stack.upper, "d/new/f")) == b"content"


@pytest.mark.parametrize("place", PLACES)
def test_times_that_are_set_stay_as_they_were_set(stack: Stack, place: str) -> None:
    name = add_file(stack, place)
    with without_open(stack) as mount:
        make_file(mount, place)
        path = mount.path(name)
        fd = os.open(path, os.O_RDWR)
        os.pwrite(fd, b"written", 0)
        os.utime(path, ns=(10**18, 10**18))
        os.close(fd)
        assert os.stat(path).st_mtime_ns == 10**18
        wait_for_clock_tick()
        fd = os.open(path, os.O_RDWR)
        os.pwrite(fd, b"later", 0)
        os.close(fd)
        later = os.stat(path).st_mtime_ns
        assert later > 10**18
        write_file(mount.path("u/copy"), b"x" * 100_000)
        os.utime(mount.path("u/copy"), ns=(10**18, 10**18))
    assert os.stat(os.path.join(stack.upper, name)).st_mtime_ns == later
    assert os.stat(os.path.join(stack.upper, "u/copy")).st_mtime_ns == 10**18


@as_ordinary_user
def test_a_sync_reaches_the_disk_also_after_the_descriptor_was_closed(stack: Stack) -> None:
    stack.add({"d": Dir()})
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))
    with without_open(stack) as mount:
        os.mkdir(mount.path("d/new"))
        with open(mount.path("d/new/f"), "xb", buffering=0) as file:
            file.write(b"content")
            for number in range(300):
                write_file(mount.path(f"d/new/{number}"), b"x")
            os.fsync(file.fileno())
            assert read_file(os.path.join(stack.upper, "d/new/f")) == b"content"
        assert mount.counted().requests["fsync"] == 1


@pytest.mark.skipif(not _limits_memory(), reason="needs a memory cgroup of version 1")
@as_root
def test_programs_that_are_short_of_memory_read_on(stack: Stack) -> None:
    """A kernel that lets go of an inode while the daemon reads it for the program waits for itself."""
    files, size = 400, 256 << 10
    content = {number: b"%3d" % number * (size // 3) for number in range(files)}
    stack.add({f"d/{number}": File(data) for number, data in content.items()})
    with memory_limit(stack, 64 << 20) as group, without_open(stack) as mount:
        readers = []
        for first in range(4):
            pid = os.fork()
            if pid == 0:
                names = [(first * 100 + number * 7) % files for number in range(2 * files)]
                found = all(read_file(mount.path(f"d/{name}")) == content[name] for name in names)
                os._exit(0 if found else 1)
            readers.append(pid)
        assert [os.waitpid(pid, 0)[1] for pid in readers] == [0] * 4
        with open(f"{group}/memory.failcnt") as file:
            assert int(file.read()) > 0, "memory was never short"


@contextlib.contextmanager
def memory_limit(stack: Stack, size: int) -> Iterator[str]:
    """Limit the memory of this process and those that it starts. Yields: the control group's directory."""
    top = os.path.join(stack.directory, "cgroup")
    os.mkdir(top)
    syscalls.mount(b"cgroup", os.fsencode(top), b"cgroup", 0, b"memory")
    with open("/proc/self/cgroup") as file:
        before = next(line.split(":")[2].strip() for line in file if ":memory:" in line)
    group = os.path.join(top, f"overlaykit-test-{os.getpid()}")
    os.mkdir(group)
    try:
        write_file(f"{group}/memory.limit_in_bytes", b"%d" % size)
        write_file(f"{group}/cgroup.procs", b"0")
        yield group
    finally:
        write_file(f"{top}{before}/cgroup.procs", b"0")
        os.rmdir(group)
        syscalls.umount2(os.fsencode(top))


@pytest.mark.parametrize(
    ("release", "is_mended"),
    [
        ("6.18.44-fc-v595", True),
        ("6.18.3", True),
        ("6.18.2", False),
        ("6.18.0-rc1", False),
        ("6.12.64-1-amd64", True),
        ("6.12.63", False),
        ("6.13.9", False),
        ("6.1.0-40-amd64", False),
        ("6.19.0", True),
        ("7.0", True),
        ("unknown", False),
    ],
)
def test_kernels_that_may_wait_for_themselves_are_left_out(release: str, is_mended: bool) -> None:
    spec = MountSpec(source="x", layers=(), options=MountOptions(no_open="on"))
    assert (no_open.obstacle(spec, release) == "") == is_mended


def test_a_live_host_and_a_limit_are_told_of_each_open() -> None:
    options = MountOptions(no_open="on")
    for spec in (
        MountSpec(
            source="x", layers=(LayerSpec(path="/", recursive=True, live=True),), options=options
        ),
        MountSpec(source="x", layers=(), options=options.replace(limit=1 << 20)),
        MountSpec(source="x", layers=(), options=options.replace(data="passthrough")),
    ):
        assert not no_open.is_on(spec)
        (note,) = no_open.notes(spec)
        assert note.startswith("no_open=on: without effect here: ")


def test_auto_keeps_what_depends_on_an_open() -> None:
    options = MountOptions(no_open="auto")
    spec = MountSpec(source="x", layers=(LayerSpec(path="/a"),), options=options)
    host = LayerSpec(path="/", recursive=True, live=True)
    assert no_open.is_on(spec)
    for other in (
        spec.replace(layers=(host,)),
        spec.replace(restart=True),
        spec.replace(options=options.replace(timeout=1.0)),
        spec.replace(options=options.replace(by_project=True)),
        spec.replace(options=options.replace(limit=1 << 20)),
        spec.replace(options=options.replace(data="passthrough")),
    ):
        assert not no_open.is_on(other)
        assert no_open.notes(other) == ()
