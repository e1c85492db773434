"""A daemon that is killed: another one takes over, and programs notice a pause."""

from __future__ import annotations

import contextlib
import os
import random
import stat
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from ..overlay.seen import Seen, looked_at
from ..overlay.stack import Stack
from ..posix.table import Dir, File, Link
from . import kill_load
from .inotify import next_name, watched
from .mounted import Mounted, spec_of, started
from .restarts import kill_daemon


@contextlib.contextmanager
def kept(stack: Stack, **more: Any) -> Iterator[Mounted]:
    """A mount whose daemon is killed. At the end each descriptor, node and lookup is given back."""
    with started(spec_of(stack, restart=True, **more), stack.directory) as mount:
        yield mount
        assert mount.process.is_alive()
        mount.unmount()


def test_open_files_stay_open(stack: Stack) -> None:
    stack.add({"lower": File(b"lower"), "d": Dir(), "d/copied": File(b"old")})
    with kept(stack) as mount:
        os.mkdir(mount.path("made"))
        with contextlib.ExitStack() as files:
            lower = files.enter_context(open(mount.path("lower"), "rb", buffering=0))
            copied = files.enter_context(open(mount.path("d/copied"), "r+b", buffering=0))
            made = files.enter_context(open(mount.path("made/file"), "w+b", buffering=0))
            later = files.enter_context(open(mount.path("d/later"), "w+b", buffering=0))
            made.write(b"one ")
            for _ in range(3):
                kill_daemon(mount)
                os.posix_fadvise(lower.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                assert os.pread(lower.fileno(), 10, 0) == b"lower"
                copied.write(b"n")
                made.write(b"two ")
                later.write(b"three ")
                for file in (copied, made, later):
                    os.fsync(file.fileno())
            assert os.pread(copied.fileno(), 10, 0) == b"nnn"
        kill_daemon(mount)
        for name, content in {
            "d/copied": b"nnn",
            "made/file": b"one two two two ",
            "d/later": b"three three three ",
        }.items():
            with open(mount.path(name), "rb") as again:
                assert again.read() == content
        mount.forget()
        mount.await_held(open_files=0)


def test_a_file_without_a_name_keeps_its_content(stack: Stack) -> None:
    stack.add({"lower": File(b"lower"), "d": Dir(), "d/copied": File(b"old"), "e": Dir()})
    with kept(stack) as mount:
        os.mkdir(mount.path("made"))
        names = ("lower", "d/copied", "made/file", "e/new")
        with contextlib.ExitStack() as files:
            opened = []
            for name in names:
                flags = os.O_RDONLY if name == "lower" else os.O_RDWR | os.O_CREAT
                opened.append(os.open(mount.path(name), flags))
                files.callback(os.close, opened[-1])
                if name != "lower":
                    os.write(opened[-1], b"content")
                os.unlink(mount.path(name))
            for _ in range(2):
                kill_daemon(mount)
                for name, fd in zip(names, opened, strict=True):
                    expected = b"lower" if name == "lower" else b"content"
                    os.fsync(fd)
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                    assert os.pread(fd, 10, 0) == expected
                    assert os.fstat(fd).st_nlink == 0
                    assert not os.path.lexists(mount.path(name))
            for name in names:
                with open(mount.path(name), "wb") as file:
                    file.write(b"another")
            kill_daemon(mount)
            for fd in opened[1:]:
                os.pwrite(fd, b"C", 0)
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                assert os.pread(fd, 10, 0) == b"Content"
        for name in names:
            with open(mount.path(name), "rb") as file:
                assert file.read() == b"another"
        mount.forget()
        mount.await_held(open_files=0)


def test_a_file_without_a_name_keeps_its_content_under_another_mode(stack: Stack) -> None:
    stack.add({"lower": File(b"lower")})
    with kept(stack) as mount, open(mount.path("lower"), "rb", buffering=0) as file:
        os.unlink(mount.path("lower"))
        os.fchmod(file.fileno(), 0o604)
        kill_daemon(mount)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert file.read() == b"lower"
        file.close()
        mount.forget()


def test_a_removed_file_of_a_lower_is_found_in_it(stack: Stack) -> None:
    """A program has its inode, which it has not opened."""
    lower = stack.add({f"d/{name}": File(b"lower", 0o640) for name in "efg"})
    with kept(stack) as mount:
        os.unlink(mount.path("d/e"))
        fds = [os.open(mount.path(f"d/{name}"), os.O_PATH) for name in "fg"]
        for name in "fg":
            os.unlink(mount.path(f"d/{name}"))
        os.chmod(f"/proc/self/fd/{fds[1]}", 0o604)  # now it is Python's
        for _ in range(2):
            kill_daemon(mount)
            for fd, mode in zip(fds, (0o640, 0o604), strict=True):
                with open(f"/proc/self/fd/{fd}", "rb") as file:
                    assert file.read() == b"lower"
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                st = os.fstat(fd)
                assert (stat.S_IMODE(st.st_mode), st.st_nlink) == (mode, 0)
            assert os.listdir(mount.path("d")) == []
        for fd in fds:
            os.close(fd)
        mount.forget()
    assert {stat.S_IMODE(os.stat(os.path.join(lower, f"d/{name}")).st_mode) for name in "fg"} == {
        0o640
    }


def test_a_copied_file_goes_back_and_forth(stack: Stack) -> None:
    stack.add({f"d/{name}": File(b"old") for name in "abc"})
    with kept(stack) as mount:
        with contextlib.ExitStack() as files:
            opened = {}
            for name in "abc":
                opened[name] = files.enter_context(
                    open(mount.path(f"d/{name}"), "r+b", buffering=0)
                )
            number = os.fstat(opened["a"].fileno()).st_ino
            os.rename(mount.path("d/b"), mount.path("d/moved"))
            os.rename(mount.path("d/c"), mount.path("d/removed"))
            os.unlink(mount.path("d/removed"))
            for turn in range(3):
                kill_daemon(mount)
                os.utime(mount.path("d/a"), ns=(turn, turn))
                for file in opened.values():
                    file.write(b"n")
                    os.fsync(file.fileno())
                    if turn == 1:
                        os.setxattr(file.fileno(), "user.mine", b"value")
                assert os.stat(mount.path("d/a")).st_ino == number
                with open(mount.path("d/moved"), "r+b", buffering=0) as again:
                    again.write(b"N")
                os.rename(mount.path("d/a"), mount.path("d/other"))
                os.rename(mount.path("d/other"), mount.path("d/a"))
            for name, content in {"a": b"nnn", "b": b"Nnn", "c": b"nnn"}.items():
                assert os.pread(opened[name].fileno(), 10, 0) == content
            assert os.fstat(opened["c"].fileno()).st_nlink == 0
        assert sorted(os.listdir(mount.path("d"))) == ["a", "moved"]
        mount.forget()
        mount.await_held(open_files=0)


def test_a_copied_file_with_two_names_stays_one(stack: Stack) -> None:
    stack.add({"d/f": File(b"old"), "e": Dir()})
    with kept(stack) as mount:
        with open(mount.path("d/f"), "r+b", buffering=0) as file:
            file.write(b"one ")
            os.link(mount.path("d/f"), mount.path("e/other"))
            kill_daemon(mount)
            os.rename(mount.path("e/other"), mount.path("e/moved"))
            file.write(b"two")
            os.fsync(file.fileno())
            assert os.fstat(file.fileno()).st_nlink == 2
        mount.forget()
        assert os.path.samefile(mount.path("d/f"), mount.path("e/moved"))
        with open(mount.path("e/moved"), "rb") as again:
            assert again.read() == b"one two"


@pytest.mark.parametrize("name", ["d/copied", "made"])
def test_a_file_that_lost_one_of_two_names_is_found_under_the_other(
    stack: Stack, name: str
) -> None:
    stack.add({"d/copied": File(b"old"), "e": Dir()})
    with kept(stack) as mount:
        path, other = mount.path(name), mount.path("e/other")
        with open(path, "w+b", buffering=0) as file:
            file.write(b"one ")
            os.link(path, other)
            kill_daemon(mount)
            os.fsync(file.fileno())
            os.unlink(path)
            kill_daemon(mount)
            mount.forget()
            file.write(b"two")
            os.fsync(file.fileno())
            assert os.path.samestat(os.stat(other), os.fstat(file.fileno()))
            with open(other, "rb") as again:
                assert again.read() == b"one two"


def test_a_lowers_file_with_several_names_stays_one_though_no_daemon_knows_them(
    stack: Stack,
) -> None:
    stack.add({"a": File(b"old"), "b": Link("a"), "c": Link("a"), "d": Link("a")})
    with kept(stack) as mount, open(mount.path("a"), "r+b", buffering=0) as file:
        number = os.fstat(file.fileno()).st_ino
        file.write(b"one ")
        os.rename(mount.path("b"), mount.path("e"))
        for name in ("a", "c"):
            kill_daemon(mount)
            os.unlink(mount.path(name))
        kill_daemon(mount)
        os.fchmod(file.fileno(), 0o640)
        file.write(b"two")
        os.fsync(file.fileno())
        for name in ("d", "e"):
            st = os.stat(mount.path(name))
            assert (st.st_ino, st.st_nlink, stat.S_IMODE(st.st_mode)) == (number, 2, 0o640)
            with open(mount.path(name), "rb") as again:
                assert again.read() == b"one two"
        os.unlink(mount.path("d"))
        os.unlink(mount.path("e"))
        assert os.fstat(file.fileno()).st_nlink == 0
        file.close()
        mount.forget()
        mount.await_held(open_files=0)
        assert os.listdir(os.path.join(stack.work, "index")) == []


def test_the_working_directory_stays(stack: Stack) -> None:
    stack.add({"d": Dir(), "d/e": Dir(), "d/e/f": File(b"x")})
    with kept(stack) as mount:
        os.mkdir(mount.path("made"))
        here = os.getcwd()
        try:
            for name, below in (("d/e", ["f"]), ("made", [])):
                os.chdir(mount.path(name))
                kill_daemon(mount)
                assert os.listdir(".") == below
                with open("new", "wb"):
                    pass
                os.rename("new", "renamed")
                kill_daemon(mount)
                assert sorted(os.listdir(".")) == sorted([*below, "renamed"])
                os.unlink("renamed")
            os.chdir(mount.path("made"))
            os.rmdir(mount.path("made"))
            kill_daemon(mount)
            assert os.stat(".").st_nlink == 0
            assert os.listdir(".") == []
        finally:
            os.chdir(here)


def test_inode_numbers_and_modes_stay(stack: Stack) -> None:
    stack.add({"d": Dir(), "d/f": File(b"x"), "d/g": File(b"y")})
    with kept(stack) as mount:
        os.chmod(mount.path("d/f"), 0o640)
        os.rename(mount.path("d"), mount.path("moved"))
        os.mkdir(mount.path("made"))
        os.link(mount.path("moved/g"), mount.path("made/g"))
        names = ("moved", "moved/f", "moved/g", "made", "made/g")

        def seen() -> list[tuple[int, int, int]]:
            found = [os.stat(mount.path(name)) for name in names]
            return [(st.st_ino, stat.S_IMODE(st.st_mode), st.st_nlink) for st in found]

        before = seen()
        kill_daemon(mount)
        assert seen() == before
        mount.forget()
        assert seen() == before


def test_watches_stay(stack: Stack) -> None:
    stack.add({"d": Dir(), "d/f": File(b"x")})
    with kept(stack) as mount, watched(mount.path("d")) as events:
        kill_daemon(mount)
        with open(mount.path("d/new"), "wb"):
            pass
        assert next_name(events) == "new"


CLIENTS, KILLS, SECONDS = (8, 200, 900) if "OVERLAYKIT_PROOFS" in os.environ else (4, 15, 60)
"""The last one: the longest time of a test."""

_MOST_STEPS_BETWEEN = 60


def test_programs_at_work_see_no_error(stack: Stack) -> None:
    lower = stack.add({})
    kill_load.fill(lower, CLIENTS)
    chance = random.Random(KILLS)
    with kept(stack) as mount:
        stepping, taken = os.pipe()
        working, end = os.pipe()
        os.set_blocking(working, False)
        clients = []
        for number in range(CLIENTS):
            client = os.fork()
            if client == 0:
                os.close(end)
                _work(mount.target, number, working, taken)
            clients.append(client)
        os.close(taken)
        for _ in range(KILLS):
            for _ in range(chance.randint(1, _MOST_STEPS_BETWEEN)):
                assert os.read(stepping, 1), "the clients have ended"
            kill_daemon(mount)
        os.close(end)
        while os.read(stepping, 1 << 16):
            pass
        statuses = [os.waitpid(client, 0)[1] for client in clients]
        with open(mount.log_path, encoding="utf-8") as log:
            said = [line.split(": ", 1)[-1] for line in log]
        assert said == ["the daemon was ended by signal 9\n"] * KILLS
        assert statuses == [0] * CLIENTS
        seen = _undated(mount.target)
    with kept(stack) as mount:
        assert _undated(mount.target) == seen
    if not stack.unprivileged:  # without redirects there
        with stack.mounted_by_the_kernel() as target:
            assert _undated(target) == seen


def _work(target: str, number: int, working: int, taken: int) -> None:
    """A client, in a child: it works until no one has the other end of `working` open."""

    def took() -> bool:
        os.write(taken, b".")
        try:
            return bool(os.read(working, 1))
        except BlockingIOError:
            return True

    status = 1
    try:
        kill_load.run(target, number, took)
        status = 0
    except BaseException:
        traceback.print_exc(file=sys.stderr)
    finally:
        os._exit(status)


def _undated(root: str) -> dict[str, Seen]:
    return {path: seen._replace(mtime_ns=0) for path, seen in looked_at(root).items()}
