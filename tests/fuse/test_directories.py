"""Wide directories: each name is listed once, despite concurrent changes."""

from __future__ import annotations

import errno
import itertools
import os
import stat

from ..overlay.inside import as_root
from ..overlay.stack import Stack
from ..overlay.view import refused
from ..posix import syscalls
from ..posix.table import Dir, Entry, Fifo, File, Link, Symlink
from .listed import kind_listed, wrongly_listed
from .mounted import mounted

NAMES = 100_000


def test_a_wide_listing_gives_the_kinds_and_numbers_that_stat_gives(stack: Stack) -> None:
    kinds: list[Entry] = [File(b"x"), Symlink("f0"), Fifo(), Dir(), Link("f0")]
    stack.add({f"f{number}": kinds[number % 5] for number in range(600)} | {"d/f": File()})
    stack.add({f"g{number}": kinds[number % 4] for number in range(600)})
    with mounted(stack) as mount:
        assert wrongly_listed(mount.target) == []
        os.mkdir(mount.path("new"))
        for number in range(0, 100, 5):
            with open(mount.path(f"f{number}"), "ab") as file:
                file.write(b"y")
            os.rename(mount.path(f"f{number}"), mount.path(f"new/moved{number}"))
            os.unlink(mount.path(f"g{number * 4}"))
        for number in range(300):
            with open(mount.path(f"new/{number}"), "x"):
                pass
            os.symlink("x", mount.path(f"d/{number}"))
        for path in ("", "new", "d"):
            assert wrongly_listed(mount.path(path)) == []
    for _ in range(2):
        with mounted(stack) as mount:
            for path in ("", "new", "d"):
                assert wrongly_listed(mount.path(path)) == []


def test_a_wide_listing_shows_changes_of_names_since_it_began(stack: Stack) -> None:
    stack.add({"d": Dir()})
    names = [f"{number}" for number in range(600)]
    with mounted(stack) as mount:
        for name in names:
            with open(mount.path(f"d/{name}"), "x"):
                pass
        mount.forget()
        with os.scandir(mount.path("d")) as entries:
            first = next(entries).name
            for name in names:
                os.unlink(mount.path(f"d/{name}"))
            for name in names[::2]:
                os.mkdir(mount.path(f"d/{name}"))
            mount.forget()
            later = [(entry.name, kind_listed(entry), entry.inode()) for entry in entries]
        buffered = {name for name, kind, _ in later if kind == stat.S_IFREG}
        assert len(buffered) < 256, "more than what had been read before"
        for name, kind, inode in later:
            if name != first and name not in buffered:
                st = os.lstat(mount.path(f"d/{name}"))
                assert (kind, inode) == (stat.S_IFMT(st.st_mode), st.st_ino)


@as_root
def test_a_wide_listing_has_the_inode_numbers_of_mounts_on_files_of_an_upper(
    stack: Stack,
) -> None:
    stack.add({})
    with mounted(stack) as mount:
        for number in range(300):
            with open(mount.path(str(number)), "x"):
                pass
    covered = os.fsencode(os.path.join(stack.upper, "7"))
    syscalls.mount(os.fsencode(os.path.join(stack.upper, "8")), covered, None, syscalls.MS_BIND)
    with mounted(stack) as mount:
        assert wrongly_listed(mount.target) == []
    syscalls.umount2(covered)


@as_root
def test_a_hundred_thousand_names_are_listed_once_while_others_come_and_go(stack: Stack) -> None:
    lower = stack.add({})
    # On a disk their creation takes long.
    syscalls.mount(b"names", os.fsencode(lower), b"tmpfs", 0)
    at = os.open(lower, os.O_RDONLY)
    for number in range(NAMES):
        os.mknod(f"{number}", stat.S_IFREG | 0o644, dir_fd=at)
    os.close(at)
    with mounted(stack) as mount:
        seen = []
        with os.scandir(mount.target) as entries:
            for count, entry in enumerate(entries):
                seen.append(entry.name)
                if count % 10_000 == 0:
                    os.unlink(mount.path(f"{NAMES - 1 - count // 10_000}"))
                    with open(mount.path(f"new{count}"), "w"):
                        pass
        assert len(seen) == len(set(seen))
        stayed = {str(number) for number in range(NAMES - 10)}
        assert stayed <= set(seen)
    syscalls.umount2(os.fsencode(lower))


def test_readers_at_different_places_each_meet_every_name_once(stack: Stack) -> None:
    names = {f"{number:04}-{'x' * 200}" for number in range(2000)}  # many requests
    stack.add({name: File() for name in names})
    with mounted(stack) as mount:
        changed = 0
        readers = [os.scandir(mount.target) for _ in range(3)]
        seen: list[list[str]] = [[] for _ in readers]
        for turn in range(2000):
            for number, reader in enumerate(readers):
                if turn % (number + 1) == 0:
                    seen[number] += [entry.name for entry in itertools.islice(reader, 1)]
            if turn % 100 == 50:
                changed += 1
                with open(mount.path(f"new{turn}"), "w"):
                    pass
                os.unlink(mount.path(sorted(names)[-changed]))
                # Starts a new listing.
                os.listdir(mount.target)
        for number, reader in enumerate(readers):
            seen[number] += [entry.name for entry in reader]
            assert len(seen[number]) == len(set(seen[number]))
            assert set(sorted(names)[:-changed]) <= set(seen[number])


def test_a_directory_that_was_read_is_read_again_without_a_request(stack: Stack) -> None:
    stack.add({f"d{number}/f": File() for number in range(50)})
    with mounted(stack) as mount:
        before = list(os.walk(mount.target))
        # The first reading has moved the access times, which the kernel requests once.
        list(os.walk(mount.target))
        with mount.requests() as requests:
            for _ in range(3):
                assert list(os.walk(mount.target)) == before
        assert not requests
        with open(mount.path("d7/new"), "w"):
            pass
        os.unlink(mount.path("d8/f"))
        assert sorted(os.listdir(mount.path("d7"))) == ["f", "new"]
        assert os.listdir(mount.path("d8")) == []


def test_a_removed_directory_that_is_still_open_is_empty(stack: Stack) -> None:
    stack.add({"d": Dir(), "other/f": File()})
    with mounted(stack) as mount:
        fd = os.open(mount.path("d"), os.O_RDONLY)
        os.rmdir(mount.path("d"))
        assert os.listdir(fd) == []
        os.fsync(fd)
        os.close(fd)
        mount.await_held(open_files=0)


def test_a_name_that_cannot_be_looked_up_is_listed_with_all_others(stack: Stack) -> None:
    stack.add({name: File() for name in "abc"})
    with mounted(stack) as mount:
        os.mkdir(mount.path("broken"))
    os.setxattr(os.path.join(stack.upper, "broken"), stack.marker("redirect"), b"no/path")
    with mounted(stack) as mount:
        assert sorted(os.listdir(mount.target)) == ["a", "b", "broken", "c"]
        with refused(errno.EIO):
            os.stat(mount.path("broken"))
        assert os.stat(mount.path("c")).st_size == 0
