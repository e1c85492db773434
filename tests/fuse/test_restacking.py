"""Layers come and go under running programs: the next open shows the new stack, open files keep what they had."""

from __future__ import annotations

import fcntl
import os
import select
from typing import NoReturn

import pytest

from overlaykit.fuse import control

from ..overlay.stack import Stack
from ..overlay.view import refused
from ..posix import syscalls
from ..posix.table import File, Layer, Symlink, Whiteout
from .mounted import Mounted, mounted, only_with_open

PRESENT = (0,)


def have(mount: Mounted, lowers: tuple[int, ...], *paths: str) -> control.Stacked:
    """Let the mount have other lowers, of which `paths` are new."""
    descriptors = []
    try:
        for path in paths:
            for _ in range(2):
                descriptors.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY))
            fcntl.flock(descriptors[-1], fcntl.LOCK_SH)
        request = control.Layers(lowers, tuple(paths), alone=True)
        with control.Connection(mount.control_path, 60.0) as connection:
            return connection.ask(request, control.Stacked, descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def layer(stack: Stack, content: Layer) -> str:
    """A layer that the mount does not have at its start."""
    path = stack.add(content)
    stack.lowers.remove(path)
    os.rename(path, path + ".new")
    return path + ".new"


def test_the_next_open_shows_the_new_stack_and_open_files_what_they_had(stack: Stack) -> None:
    stack.add(
        {
            "bin/tool": File(b"old tool"),
            "bin/other": File(b"other"),
            "bin/link": Symlink("tool"),
            "lib/deep/file": File(b"deep"),
            "gone/in": File(b"in"),
            "hidden": File(b"hidden"),
        }
    )
    new = layer(
        stack,
        {
            "bin/tool": File(b"new tool!"),
            "bin/added": File(b"added"),
            "lib/deep/more": File(b"more"),
            "gone": Whiteout(),
            "hidden": Whiteout(),
            "fresh/file": File(b"fresh"),
        },
    )
    with mounted(stack) as mount:
        path = mount.path
        with open(path("own"), "wb") as file:
            file.write(b"own")
        os.chmod(path("bin"), 0o755)
        number = os.stat(path("bin")).st_ino, os.stat(path("bin/other")).st_ino
        deep = os.open(path("lib/deep"), os.O_RDONLY)
        gone = os.open(path("gone"), os.O_RDONLY)
        assert not os.path.exists(path("bin/added"))
        assert not os.path.exists(path("fresh"))
        with open(path("bin/tool"), "rb") as tool, open(path("hidden"), "rb") as hidden:
            assert have(mount, (-1, 0), new).layers == (new, stack.lowers[0])
            assert read(path("bin/tool")) == read(path("bin/link")) == b"new tool!"
            assert read(path("bin/added")) == b"added"
            assert read(path("fresh/file")) == b"fresh"
            assert not os.path.exists(path("gone"))
            assert not os.path.exists(path("hidden"))
            assert sorted(os.listdir(deep)) == ["file", "more"]
            assert sorted(os.listdir(path("bin"))) == ["added", "link", "other", "tool"]
            assert os.listdir(gone) == []
            assert tool.read() == b"old tool"
            assert hidden.read() == b"hidden"
            assert os.fstat(tool.fileno()).st_size == len(b"old tool")
            now = os.stat(path("bin")).st_ino, os.stat(path("bin/other")).st_ino
            assert now == number
            assert os.stat(path("lib/deep")).st_ino == os.fstat(deep).st_ino
        with open(path("bin/tool"), "rb") as tool:
            assert have(mount, (1,)).layers == tuple(stack.lowers)
            assert read(path("bin/tool")) == b"old tool"
            assert tool.read() == b"new tool!"
        assert not os.path.exists(path("bin/added"))
        assert not os.path.exists(path("fresh"))
        assert read(path("gone/in")) == b"in"
        assert read(path("hidden")) == b"hidden"
        assert read(path("own")) == b"own"
        with open(path("bin/tool"), "ab") as file:
            file.write(b"+")
        assert have(mount, (-1, 0), new)
        assert read(path("bin/tool")) == b"old tool+"
        assert have(mount, (0,))
        assert not os.path.exists(path("bin/tool")) or read(path("bin/tool")) == b"old tool+"
        os.close(deep)
        os.close(gone)
        have(mount, (-1,), stack.lowers[0])


def test_a_list_that_the_kernel_keeps_is_dropped(stack: Stack) -> None:
    """The kernel knows none of the names of a long list, and the times of the directory are the upper's, which stay."""
    below = [f"name-{number}" for number in range(1000)]
    stack.add({f"d/{name}": File(b"") for name in below})
    new = layer(stack, {"d/added": File(b"added")})
    with mounted(stack) as mount:
        os.chmod(mount.path("d"), 0o700)
        have(mount, (-1, *PRESENT), new)
        assert sorted(os.listdir(mount.path("d"))) == ["added", *sorted(below)]
        have(mount, (1,))
        assert sorted(os.listdir(mount.path("d"))) == sorted(below)


def test_a_mount_on_a_directory_and_a_working_directory_stay(stack: Stack) -> None:
    stack.add({"usr/bin/tool": File(b"old"), "proc/x": File(b"x")})
    new = layer(stack, {"usr/bin/tool": File(b"new"), "proc/y": File(b"y")})
    with mounted(stack) as mount:
        before = os.getcwd()
        syscalls.mount(b"none", os.fsencode(mount.path("proc")), b"tmpfs", 0)
        try:
            os.chdir(mount.path("usr/bin"))
            with open(mount.path("proc/mark"), "wb"):
                pass
            have(mount, (-1, 0), new)
            assert os.listdir(mount.path("proc")) == ["mark"]
            assert read("tool") == b"new"
            assert os.getcwd() == mount.path("usr/bin")
            have(mount, (1,))
            assert read("tool") == b"old"
            assert os.listdir(mount.path("proc")) == ["mark"]
        finally:
            os.chdir(before)
            syscalls.umount2(os.fsencode(mount.path("proc")))


@only_with_open  # the daemon does not know what else is open
def test_what_was_opened_for_writing_is_kept_under_its_name(stack: Stack) -> None:
    large = b"x" * (2 << 20)
    stack.add({"large": File(large)})
    new = layer(stack, {"large": File(b"another")})
    with mounted(stack) as mount:
        with open(mount.path("large"), "r+b", buffering=0) as file:
            have(mount, (-1, 0), new)
            file.write(b"written")
        assert read(mount.path("large")) == b"written" + large[7:]


@pytest.mark.parametrize("lowers", [(), (0, 0), (1,), (-1, 0)])
def test_a_stack_that_cannot_be_is_refused(stack: Stack, lowers: tuple[int, ...]) -> None:
    stack.add({"file": File(b"x")})
    with mounted(stack) as mount:
        with refused(22):
            have(mount, lowers)
        assert read(mount.path("file")) == b"x"


TIMES, SECONDS = (1000, 600) if "OVERLAYKIT_PROOFS" in os.environ else (20, 60)
"""The last one: the longest time of a test."""


def test_layers_come_and_go_many_times_under_readers_and_leave_nothing(stack: Stack) -> None:
    """No reader meets an error or half a file, and the daemon keeps no descriptor and no memory of the layers."""
    names = [f"d{number % 7}/file{number}" for number in range(60)]
    stack.add({name: File(b"old" * 99) for name in names} | {"d0/always": File(b"x")})
    new = layer(stack, {name: File(b"new" * 99) for name in names[::2]} | {"d1/more": File(b"y")})
    with mounted(stack) as mount:
        stop, stopped = os.pipe()
        readers: list[int] = []
        for _ in range(2):
            readers.append(os.fork())
            if readers[-1] == 0:
                os.close(stopped)
                _read_until(stop, [mount.path(name) for name in names])
        held: list[tuple[int, int]] = []
        for time in range(TIMES):
            have(mount, (-1, 0), new)
            assert read(mount.path(names[0])) == b"new" * 99
            have(mount, (1,))
            assert read(mount.path(names[0])) == b"old" * 99
            if time in (TIMES // 2, TIMES - 1):
                nodes = mount.forget()["nodes"]
                held.append((_descriptors(mount), nodes))
        os.close(stop)
        os.close(stopped)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]) for reader in readers]
        assert statuses == [0, 0]
        assert held[1][0] <= held[0][0] + 64
        assert held[1][1] <= held[0][1] + 2 * len(names)


def _read_until(stop: int, paths: list[str]) -> NoReturn:
    """Read the files again and again until the other end of a pipe is closed."""
    status = 1
    try:
        while not select.select([stop], [], [], 0)[0]:
            for path in paths:
                assert read(path) in (b"old" * 99, b"new" * 99)
            os.listdir(os.path.dirname(paths[0]))
        status = 0
    finally:
        os._exit(status)


def _descriptors(mount: Mounted) -> int:
    return len(os.listdir(f"/proc/{mount.process.pid}/fd"))
