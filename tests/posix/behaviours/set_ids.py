"""Set-ID bits and file capabilities: what a write, a truncation and a change of owner clear, and what they keep."""

from __future__ import annotations

import errno
import functools
import mmap
import os
import subprocess
from collections.abc import Callable, Iterator

from ..files import mode_of, opened, read_file
from ..processes import ALICE, BOB, run_as_user
from ..refusals import unless_refused
from ..table import PRIVILEGED, ROOT_ONLY, Dir, File, behaviour
from .xattrs import CAPABILITY

BOTH = 0o6777
PROGRAM = File(read_file("/usr/bin/id"), mode=BOTH, uid=ALICE, gid=ALICE)
TRUSTED = {"security.capability": CAPABILITY}


def append(path: str, times: int = 1) -> None:
    with opened(path, os.O_WRONLY | os.O_APPEND) as fd:
        for _ in range(times):
            os.write(fd, b"\n")


def _overwrite(path: str) -> None:
    with opened(path, os.O_RDWR) as fd:
        os.pwrite(fd, b"y", 0)


def _write_directly(path: str) -> None:
    fd = unless_refused(errno.EINVAL, lambda: os.open(path, os.O_WRONLY | os.O_DIRECT))
    if fd is None:
        append(path)
        return
    with mmap.mmap(-1, 4096) as page:
        os.write(fd, page)
    os.close(fd)


def _truncate_open(path: str) -> None:
    with opened(path, os.O_RDWR) as fd:
        os.ftruncate(fd, 1)


def _open_truncated(path: str) -> None:
    with opened(path, os.O_WRONLY | os.O_TRUNC):
        pass


CHANGES: dict[str, Callable[[str], None]] = {
    "append": append,
    "overwrite": _overwrite,
    "direct": _write_directly,
    "truncate": functools.partial(os.truncate, length=1),
    "extend": functools.partial(os.truncate, length=10_000),
    "ftruncate": _truncate_open,
    "O_TRUNC": _open_truncated,
}
"""Each takes the path of a file."""

EACH = {name: File(b"x" * 5000, mode=BOTH, uid=ALICE, gid=ALICE) for name in CHANGES}
EACH_TRUSTED = {
    name: File(b"x" * 5000, mode=BOTH, uid=ALICE, gid=ALICE, xattrs=TRUSTED) for name in CHANGES
}


def _change_all() -> None:
    for name, change in CHANGES.items():
        change(name)


def _is_trusted(path: str | int) -> bool:
    return "security.capability" in os.listxattr(path)


def _effective_ids() -> str:
    """The ids that the program `f` runs with."""
    shown = subprocess.run(["./f"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return " ".join(word for word in shown.split() if word.startswith(("euid", "egid")))


@behaviour(lower={"f": PROGRAM}, identities=ROOT_ONLY)
def check_a_program_that_another_user_has_written_to_runs_without_its_owners_rights() -> None:
    def run() -> None:
        # The kernel goes by the mode that it has cached: no stat in between.
        assert _effective_ids() == f"euid={ALICE} egid={ALICE}"
        append("f")
        assert _effective_ids() == ""

    run_as_user(BOB, run)
    assert mode_of("f") == 0o777


@behaviour(lower=EACH, identities=ROOT_ONLY, remount=True)
def check_every_change_by_another_user_clears_the_set_id_bits_on_disk() -> Iterator[None]:
    run_as_user(BOB, _change_all)
    for _ in range(2):
        assert {name: oct(mode_of(name)) for name in CHANGES} == dict.fromkeys(CHANGES, "0o777")
        yield


@behaviour(lower=EACH, identities=ROOT_ONLY, remount=True)
def check_changes_by_root_keep_the_set_id_bits() -> Iterator[None]:
    _change_all()
    for name in CHANGES:
        append(name, 3)
    for _ in range(2):
        assert {name: oct(mode_of(name)) for name in CHANGES} == dict.fromkeys(CHANGES, oct(BOTH))
        yield


@behaviour(lower=EACH_TRUSTED, identities=ROOT_ONLY, remount=True)
def check_changes_by_root_clear_the_capability_and_keep_the_set_id_bits() -> Iterator[None]:
    _change_all()
    for _ in range(2):
        assert not [name for name in CHANGES if _is_trusted(name)]
        assert {name: oct(mode_of(name)) for name in CHANGES} == dict.fromkeys(CHANGES, oct(BOTH))
        yield


@behaviour(lower=EACH_TRUSTED, identities=ROOT_ONLY, remount=True)
def check_every_change_by_another_user_clears_the_capability() -> Iterator[None]:
    run_as_user(BOB, _change_all)
    for _ in range(2):
        assert not [name for name in CHANGES if _is_trusted(name)]
        yield


@behaviour(lower={"f": File(b"x", mode=0o777, uid=ALICE, gid=ALICE)}, identities=ROOT_ONLY)
def check_rights_that_a_program_gets_between_two_writes_go_with_the_second() -> None:
    def write(fd: int) -> None:
        run_as_user(BOB, lambda: os.write(fd, b"y"))

    with opened("f", os.O_RDWR) as fd:
        write(fd)
        os.setxattr("f", "security.capability", CAPABILITY)
        write(fd)
        assert not _is_trusted(fd)
        os.chmod("f", BOTH)
        write(fd)
        write(fd)
        assert mode_of("f") == 0o777
        os.chmod("f", 0o4777)
        write(fd)
        assert mode_of("f") == 0o777
    assert read_file("f") == b"yyyyy"


@behaviour(lower={"d": Dir(mode=0o777)}, identities=ROOT_ONLY)
def check_a_new_program_keeps_its_set_id_bits_until_another_user_writes_to_it() -> None:
    def make() -> None:
        with opened("d/f", os.O_WRONLY | os.O_CREAT, 0o777) as fd:
            os.write(fd, b"x")
            os.fchmod(fd, 0o6777)
        assert mode_of("d/f") == 0o6777

    run_as_user(ALICE, make)
    append("d/f")
    assert mode_of("d/f") == 0o6777
    run_as_user(BOB, lambda: append("d/f"))
    assert mode_of("d/f") == 0o777


@behaviour(
    lower={
        "f": File(b"x", mode=0o6767, uid=ALICE, gid=ALICE),
        "g": File(b"x", mode=0o2767, uid=ALICE, gid=ALICE),
    },
    identities=ROOT_ONLY,
)
def check_a_write_from_the_group_keeps_a_set_group_id_bit_that_runs_no_program() -> None:
    for name in ("f", "g"):
        run_as_user(BOB, functools.partial(append, name), groups=[ALICE])
        assert mode_of(name) == 0o2767


@behaviour(lower={"f": File(b"x" * 100), "d": Dir()}, remount=True)
def check_what_is_written_through_a_mapping_keeps_the_set_id_bits() -> Iterator[None]:
    for path in ("f", "d/new"):
        with opened(path, os.O_RDWR | os.O_CREAT) as fd:
            os.write(fd, b"x" * 100)
            with mmap.mmap(fd, 100) as memory:
                os.chmod(path, BOTH)
                memory[0] = ord("y")
                os.fsync(fd)
                memory[1] = ord("z")
    for _ in range(2):
        assert [(mode_of(path), read_file(path)[:3]) for path in ("f", "d/new")] == [
            (BOTH, b"yzx")
        ] * 2
        yield


@behaviour(lower={"f": File(b"x" * 100), "d": Dir()}, identities=PRIVILEGED, remount=True)
def check_a_capability_stays_that_a_program_gets_after_it_was_written() -> Iterator[None]:
    """As tar(1) sets it, before it closes the file."""
    for path in ("f", "d/new", "d/mapped"):
        with opened(path, os.O_RDWR | os.O_CREAT) as fd:
            os.write(fd, b"y" * 100)
            os.setxattr(fd, "security.capability", CAPABILITY)
            if path == "d/mapped":
                with mmap.mmap(fd, 100) as memory:
                    memory[0] = ord("z")
    for _ in range(2):
        assert [_is_trusted(path) for path in ("f", "d/new", "d/mapped")] == [True] * 3
        assert read_file("f") + read_file("d/mapped")[:2] == b"y" * 100 + b"zy"
        yield
