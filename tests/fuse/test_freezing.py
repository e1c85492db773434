"""A running mount's upper is frozen as a layer: programs see no change, and nothing is written to it any more."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import select
import stat
from typing import NoReturn

from overlaykit.fuse import control
from overlaykit.overlay import freezing

from ..overlay.stack import Stack
from ..posix.table import File, Layer, Symlink
from .mounted import Mounted, mounted


def freeze(mount: Mounted, stack: Stack, name: str) -> str:
    """Freeze the upper, and return the path of the frozen one."""
    frozen = os.path.join(stack.directory, name)
    os.mkdir(frozen)
    fd = os.open(mount.target, os.O_RDONLY)
    try:
        syncfs(fd)
    finally:
        os.close(fd)
    places = freezing.open_places(stack.upper, stack.work, frozen)
    try:
        request = control.Freeze(frozen, places.upper, places.work)
        descriptors = (places.above_upper, places.above_work, places.frozen)
        with control.Connection(mount.control_path, 60.0) as connection:
            answer = connection.ask(request, control.Stacked, descriptors)
    finally:
        freezing.close_places(places)
    assert answer.layers[0] == os.path.join(frozen, "upper")
    return answer.layers[0]


def syncfs(fd: int) -> None:
    import ctypes

    assert ctypes.CDLL(None, use_errno=True).syncfs(fd) == 0


def digest(path: str) -> str:
    """Of all that a layer holds."""
    whole = hashlib.sha256()
    for above, directories, files in os.walk(path):
        directories.sort()
        for name in sorted([*directories, *files, "."]):
            at = os.path.join(above, name)
            st = os.lstat(at)
            attributes = [
                (one, os.getxattr(at, one, follow_symlinks=False))
                for one in sorted(os.listxattr(at, follow_symlinks=False))
            ]
            said = (
                os.path.relpath(at, path),
                st.st_mode,
                st.st_uid,
                st.st_gid,
                st.st_mtime_ns,
                st.st_rdev,
                attributes,
            )
            whole.update(repr(said).encode())
            if stat.S_ISREG(st.st_mode):
                with open(at, "rb") as file:
                    whole.update(file.read())
            elif stat.S_ISLNK(st.st_mode):
                whole.update(os.fsencode(os.readlink(at)))
    return whole.hexdigest()


def seen(target: str) -> dict[str, tuple[object, ...]]:
    """What programs see, with the inode numbers."""
    found: dict[str, tuple[object, ...]] = {}
    for above, directories, files in os.walk(target):
        for name in [*directories, *files, "."]:
            at = os.path.join(above, name)
            st = os.lstat(at)
            content: object = None
            if stat.S_ISREG(st.st_mode):
                with open(at, "rb") as file:
                    content = file.read()
            elif stat.S_ISLNK(st.st_mode):
                content = os.readlink(at)
            found[os.path.relpath(at, target)] = (
                st.st_ino,
                st.st_mode,
                st.st_nlink,
                st.st_uid,
                st.st_size,
                st.st_mtime_ns,
                content,
            )
    return found


def fill(mount: Mounted) -> None:
    for name in ("new", "d/new", "d/low"):
        with open(mount.path(name), "ab") as file:
            file.write(name.encode())
    os.mkdir(mount.path("made"))
    with open(mount.path("made/file"), "wb") as file:
        file.write(b"made")
    os.unlink(mount.path("gone"))
    os.rename(mount.path("moved"), mount.path("there"))
    os.link(mount.path("new"), mount.path("made/link"))
    os.symlink("new", mount.path("symlink"))


LOWER: Layer = {
    "d/low": File(b"low"),
    "d/other": File(b"other"),
    "gone": File(b"gone"),
    "moved/in": File(b"in"),
    "target": Symlink("d"),
}


def test_programs_see_no_change_and_the_frozen_layer_has_none(stack: Stack) -> None:
    stack.add(LOWER)
    with mounted(stack) as mount:
        fill(mount)
        before = seen(mount.target)
        layer = freeze(mount, stack, "one")
        frozen = digest(layer)
        assert seen(mount.target) == before
        mount.forget()
        assert seen(mount.target) == before
        assert os.listdir(stack.upper) == []
        for name in ("new", "d/low", "d/other", "made/file", "there/in"):
            with open(mount.path(name), "ab") as file:
                file.write(b"more")
            with open(mount.path(name), "rb") as file:
                assert file.read().endswith(b"more")
        os.unlink(mount.path("symlink"))
        os.rename(mount.path("made"), mount.path("d/made"))
        os.rename(mount.path("there"), mount.path("back"))
        os.chmod(mount.path("d"), 0o700)
        with open(mount.path("made again"), "wb") as file:
            file.write(b"x")
        now = seen(mount.target)
        assert now["made again"]
        assert "symlink" not in now
        for name in before.keys() & now.keys():
            assert now[name][0] == before[name][0]
        second = freeze(mount, stack, "two")
        assert seen(mount.target) == now
        mount.forget()
        assert seen(mount.target) == now
        assert digest(layer) == frozen
        assert os.path.exists(os.path.join(second, "made again"))


def test_open_files_go_on_by_copy_up(stack: Stack) -> None:
    stack.add(LOWER)
    with mounted(stack) as mount, contextlib.ExitStack() as opening:
        fill(mount)
        names = ("new", "d/low", "d/other", "made/file")
        files = [
            opening.enter_context(open(mount.path(name), "r+b", buffering=0)) for name in names
        ]
        nameless = opening.enter_context(open(mount.path("nameless"), "w+b", buffering=0))
        os.unlink(mount.path("nameless"))
        for file in files:
            file.seek(0, os.SEEK_END)
            file.write(b"1")
        layer = freeze(mount, stack, "one")
        frozen = digest(layer)
        for file, name in zip(files, names, strict=True):
            file.write(b"2")
            os.fsync(file.fileno())
            with open(mount.path(name), "rb") as again:
                assert again.read().endswith(b"12")
            file.truncate(3)
            file.close()
            assert os.stat(mount.path(name)).st_size == 3
        nameless.write(b"alive")
        os.fsync(nameless.fileno())
        nameless.seek(0)
        assert nameless.read() == b"alive"
        nameless.close()
        assert digest(layer) == frozen
        assert os.path.getsize(os.path.join(stack.upper, "new")) == 3


def test_hard_links_of_a_lower_stay_one_file(stack: Stack) -> None:
    lower = stack.add({"a": File(b"old"), "c": File(b"c")})
    os.link(os.path.join(lower, "a"), os.path.join(lower, "b"))
    with mounted(stack) as mount:
        with open(mount.path("a"), "wb") as file:
            file.write(b"first")
        number = os.stat(mount.path("a")).st_ino
        for name, text in (("one", b"second"), ("two", b"third"), ("three", b"fourth")):
            layer = freeze(mount, stack, name)
            frozen = digest(layer)
            mount.forget()
            for link in ("b", "a"):
                st = os.stat(mount.path(link))
                assert (st.st_ino, st.st_nlink) == (number, 2)
            with open(mount.path("a"), "rb") as one, open(mount.path("b"), "rb") as other:
                assert one.read() == other.read()
            with open(mount.path("b"), "wb") as file:
                file.write(text)
            with open(mount.path("a"), "rb") as file:
                assert file.read() == text
            assert digest(layer) == frozen
        os.unlink(mount.path("a"))
        assert os.stat(mount.path("b")).st_nlink == 1
        with open(mount.path("b"), "rb") as file:
            assert file.read() == b"fourth"


FREEZES = 100 if "OVERLAYKIT_PROOFS" in os.environ else 10


def test_writers_that_never_stop_lose_nothing_and_no_frozen_layer_changes(stack: Stack) -> None:
    stack.add({f"d{number % 3}/f{number}": File(b"") for number in range(20)})
    with mounted(stack) as mount:
        stop, stopped = os.pipe()
        writers: list[int] = []
        for number in range(2):
            writers.append(os.fork())
            if writers[-1] == 0:
                os.close(stopped)
                _write_until(stop, mount, number)
        layers = [freeze(mount, stack, f"at{number}") for number in range(FREEZES)]
        digests = [digest(layer) for layer in layers[:-1]]
        layers.append(freeze(mount, stack, "last"))
        assert [digest(layer) for layer in layers[: len(digests)]] == digests
        os.close(stop)
        os.close(stopped)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(writer, 0)[1]) for writer in writers]
        assert statuses == [0, 0]


def _write_until(stop: int, mount: Mounted, number: int) -> NoReturn:
    """Append to files, and read back all that was written, until the other end of a pipe is closed."""
    status = 1
    try:
        chance = random.Random(number)
        sizes = {f"d{one % 3}/f{one}": 0 for one in range(number, 20, 2)}
        held = os.open(mount.path(f"held{number}"), os.O_RDWR | os.O_CREAT)
        written = 0
        while not select.select([stop], [], [], 0)[0]:
            name = chance.choice([*sizes])
            with open(mount.path(name), "ab") as file:
                file.write(b"12345678")
            sizes[name] += 8
            written += os.write(held, b"abcd")
            with open(mount.path(name), "rb") as file:
                assert file.read() == b"12345678" * (sizes[name] // 8)
            if written % 40 == 0:
                made = mount.path(f"d{number}/made")
                os.mkdir(made)
                os.rename(made, mount.path(f"d{number}/other"))
                os.rmdir(mount.path(f"d{number}/other"))
        assert os.pread(held, written + 1, 0) == b"abcd" * (written // 4)
        status = 0
    finally:
        os._exit(status)
