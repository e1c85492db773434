"""Times: nanoseconds, what changes them, access times."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator

from ..files import drop_caches, opened, read_file, wait_for_clock_tick, write_file
from ..processes import ALICE, BOB, run_as_user
from ..refusals import refused
from ..table import ROOT_ONLY, Dir, Fifo, File, Instead, Symlink, behaviour

LONG_AGO = 1_000_000_000_123_456_789


@behaviour(lower={"f": File(b"x"), "d": Dir()})
def check_times_are_kept_to_the_nanosecond() -> None:
    for name in ("f", "d"):
        os.utime(name, ns=(LONG_AGO, LONG_AGO + 1))
        status = os.stat(name)
        assert (status.st_atime_ns, status.st_mtime_ns) == (LONG_AGO, LONG_AGO + 1)
    assert read_file("f") == b"x"


@behaviour(lower={"f": File(b"x")}, remount=True)
def check_times_are_kept_over_a_remount() -> Iterator[None]:
    os.utime("f", ns=(LONG_AGO, LONG_AGO + 1))
    yield
    assert os.stat("f").st_mtime_ns == LONG_AGO + 1


@behaviour(lower={"f": File(b"x", mtime_ns=LONG_AGO)})
def check_copy_up_for_a_mode_keeps_the_modification_time() -> None:
    os.chmod("f", 0o600)
    assert os.stat("f").st_mtime_ns == LONG_AGO


@behaviour(lower={"f": File(b"x", mtime_ns=LONG_AGO), "d": Dir()})
def check_a_rename_keeps_the_modification_time() -> None:
    os.rename("f", "d/f")
    assert os.stat("d/f").st_mtime_ns == LONG_AGO


@behaviour(lower={"f": File(b"x", mtime_ns=LONG_AGO)})
def check_opening_for_writing_without_a_write_keeps_the_modification_time() -> None:
    with opened("f", os.O_RDWR):
        pass
    assert os.stat("f").st_mtime_ns == LONG_AGO


@behaviour(lower={"f": File(b"x", mtime_ns=LONG_AGO)})
def check_a_write_sets_the_modification_time() -> None:
    with opened("f", os.O_WRONLY) as fd:
        os.write(fd, b"y")
        assert os.fstat(fd).st_mtime_ns > LONG_AGO
    assert os.stat("f").st_mtime_ns > LONG_AGO


@behaviour(lower={"f": File(b"x", mtime_ns=LONG_AGO)})
def check_truncation_sets_the_modification_time() -> None:
    os.truncate("f", 0)
    assert os.stat("f").st_mtime_ns > LONG_AGO


@behaviour(lower={"f": File(b"x")})
def check_times_set_after_a_write_stay_when_the_file_is_closed() -> None:
    with opened("f", os.O_WRONLY) as fd:
        os.write(fd, b"y")
        os.utime(fd, ns=(LONG_AGO, LONG_AGO))
    assert os.stat("f").st_mtime_ns == LONG_AGO


@behaviour(lower={"f": File(b"x")})
def check_a_change_of_mode_sets_the_change_time() -> None:
    before = os.stat("f").st_ctime_ns
    os.chmod("f", 0o600)
    assert os.stat("f").st_ctime_ns > before


@behaviour(lower={"f": File(b"x"), "d": Dir(), "l": Symlink("f"), "p": Fifo()})
def check_a_change_of_owner_that_changes_none_sets_the_change_time() -> None:
    for name in ("f", "d", "l", "p"):
        for _ in ("of the lower", "of the upper"):
            before = os.lstat(name).st_ctime_ns
            wait_for_clock_tick()
            os.chown(name, -1, -1, follow_symlinks=False)
            assert os.lstat(name).st_ctime_ns > before, name


@behaviour(lower={"f": File(b"x", mtime_ns=LONG_AGO)})
def check_utime_can_set_one_time_and_leave_the_other() -> None:
    os.utime("f")
    status = os.stat("f")
    assert status.st_mtime_ns > LONG_AGO
    assert abs(status.st_atime_ns - status.st_mtime_ns) < 10**9


@behaviour(lower={"f": File(b"x")})
def check_times_before_1970_and_after_2038_are_kept() -> None:
    for seconds in (-1_000_000, 2**31 + 5):
        os.utime("f", ns=(seconds * 10**9, seconds * 10**9))
        assert os.stat("f").st_mtime == seconds


@behaviour(lower={"f": File(b"x", mtime_ns=LONG_AGO)})
def check_reading_without_access_time_leaves_it() -> None:
    with opened("f", os.O_RDONLY | os.O_NOATIME) as fd:
        os.read(fd, 1)
    assert os.stat("f").st_atime_ns == LONG_AGO


def _reads_as_the_disk_is_mounted() -> None:
    before = time.time_ns() - 10**9
    read_file("f")
    access = os.stat("f").st_atime_ns
    assert access == LONG_AGO or access > before


@behaviour(
    lower={"f": File(b"x", mtime_ns=LONG_AGO), "d": Dir(mtime_ns=LONG_AGO), "d/g": File()},
    differs={
        "plain": Instead("only an overlay leaves a lower as it is", _reads_as_the_disk_is_mounted)
    },
)
def check_reading_a_lower_leaves_its_access_time() -> None:
    read_file("f")
    os.listdir("d")
    assert os.stat("f").st_atime_ns == LONG_AGO
    assert os.stat("d").st_atime_ns == LONG_AGO


@behaviour(lower={"f": File(b"x", mtime_ns=LONG_AGO)})
def check_reading_a_changed_file_sets_the_present_access_time_or_none() -> None:
    os.chmod("f", 0o600)
    _reads_as_the_disk_is_mounted()
    assert os.stat("f").st_mtime_ns == LONG_AGO


@behaviour(lower={"f": File(b"x", mtime_ns=LONG_AGO)})
def check_reading_a_changed_file_without_access_time_leaves_it() -> None:
    os.chmod("f", 0o600)
    drop_caches()
    with opened("f", os.O_RDONLY | os.O_NOATIME) as fd:
        os.read(fd, 1)
    assert os.stat("f").st_atime_ns == LONG_AGO


@behaviour(lower={"f": File(b"x", uid=ALICE, mode=0o644)}, identities=ROOT_ONLY)
def check_only_the_owner_reads_without_access_time() -> None:
    def refuses() -> None:
        with refused(errno.EPERM):
            os.open("f", os.O_RDONLY | os.O_NOATIME)

    run_as_user(BOB, refuses)
    run_as_user(ALICE, lambda: os.close(os.open("f", os.O_RDONLY | os.O_NOATIME)))


@behaviour(lower={"f": File(uid=ALICE, mode=0o666)}, identities=ROOT_ONLY)
def check_others_may_touch_a_writable_file_but_not_set_its_times() -> None:
    def act() -> None:
        os.utime("f")
        with refused(errno.EPERM):
            os.utime("f", ns=(LONG_AGO, LONG_AGO))

    run_as_user(BOB, act)


@behaviour(lower={"f": File(uid=ALICE, mode=0o644)}, identities=ROOT_ONLY)
def check_others_may_not_touch_a_file_they_cannot_write() -> None:
    def act() -> None:
        with refused(errno.EACCES):
            os.utime("f")

    run_as_user(BOB, act)


@behaviour(lower={"link": Symlink("missing")})
def check_utime_refuses_a_dangling_symlink() -> None:
    with refused(errno.ENOENT):
        os.utime("link")


@behaviour(lower={"d": Dir(mtime_ns=LONG_AGO), "d/f": File(), "e": Dir(mtime_ns=LONG_AGO)})
def check_a_rename_sets_the_times_of_both_directories() -> None:
    os.rename("d/f", "e/f")
    assert os.stat("d").st_mtime_ns > LONG_AGO
    assert os.stat("e").st_mtime_ns > LONG_AGO


@behaviour()
def check_a_new_file_has_the_present_time() -> None:
    write_file("f", b"")
    status = os.stat("f")
    directory = os.stat(".")
    assert status.st_mtime_ns == status.st_ctime_ns
    assert abs(directory.st_mtime_ns - status.st_mtime_ns) < 10**9
