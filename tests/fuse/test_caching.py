"""The kernel caches replies: it sends no request twice."""

from __future__ import annotations

import os

from ..overlay.inside import as_root
from ..overlay.stack import Stack
from ..posix import syscalls
from ..posix.files import read_file
from ..posix.table import File, Symlink
from .mounted import Mounted, mounted


def test_a_warm_stat_costs_no_request(stack: Stack) -> None:
    stack.add({"d/f": File(b"x")})
    with mounted(stack) as mount:
        os.stat(mount.path("d/f"))
        with mount.requests() as requests:
            for _ in range(100):
                os.stat(mount.path("d/f"))
        assert requests == {}


def test_a_missing_name_is_looked_up_once(stack: Stack) -> None:
    stack.add({"d/f": File()})
    with mounted(stack) as mount:
        assert not os.path.exists(mount.path("d/missing"))
        with mount.requests() as requests:
            for _ in range(100):
                assert not os.path.exists(mount.path("d/missing"))
        assert requests == {}
        with open(mount.path("d/missing"), "w"):
            pass
        assert os.path.exists(mount.path("d/missing"))


def test_a_warm_read_of_an_open_file_costs_no_request(stack: Stack) -> None:
    stack.add({"f": File(b"x" * 100_000)})
    with mounted(stack) as mount, open(mount.path("f"), "rb", buffering=0) as file:
        assert len(file.read(100_000)) == 100_000
        with mount.requests() as requests:
            for _ in range(100):
                file.seek(0)
                assert len(file.read(100_000)) == 100_000
        assert requests == {}


def test_a_file_opened_again_is_not_read_again(stack: Stack) -> None:
    stack.add({"f": File(b"x" * 100_000)})
    with mounted(stack) as mount:
        for _ in range(2):
            with mount.requests() as requests, open(mount.path("f"), "rb") as file:
                assert len(file.read()) == 100_000
        assert requests["read"] == 0


def test_a_long_listing_costs_no_request_for_each_name(stack: Stack) -> None:
    stack.add({f"d/{number}": File() for number in range(200)})
    with mounted(stack) as mount:
        with mount.requests() as requests:
            listed = os.listdir(mount.path("d"))
            assert len([os.stat(mount.path(f"d/{name}")) for name in listed]) == 200
        assert requests["lookup"] <= 1  # of the directory
        assert requests["getattr"] <= 1
        assert requests["readdir"] < 50


@as_root
def test_root_reads_a_long_file_in_requests_of_a_megabyte(stack: Stack) -> None:
    stack.add({"f": File(size=8 << 20)})
    with mounted(stack) as mount:
        with mount.requests() as requests, open(mount.path("f"), "rb", buffering=0) as file:
            while file.read(1 << 16):
                pass
        assert requests["read"] < 16  # 64 with the kernel's setting
        device = os.stat(mount.target).st_dev
        bdi = f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}"
        assert read_file(f"{bdi}/max_ratio") == b"10\n"


@as_root
def test_a_mount_works_where_the_settings_of_its_device_are_out_of_reach(stack: Stack) -> None:
    stack.add({"f": File(b"x")})
    syscalls.mount(b"none", b"/sys", b"tmpfs", syscalls.MS_RDONLY)
    with mounted(stack) as mount:
        assert read_file(mount.path("f")) == b"x"


def test_a_wide_directory_is_listed_without_attributes(stack: Stack) -> None:
    stack.add({str(number): File() for number in range(1000)})
    with mounted(stack) as mount:
        before = _all_requests(mount)
        assert len(os.listdir(mount.target)) == 1000
        assert _all_requests(mount) - before < 50
        assert mount.counted().held["nodes"] == 1
        before = _all_requests(mount)
        os.stat(mount.path("7"))
        assert _all_requests(mount) - before == 1


def test_a_program_that_stats_each_name_of_a_wide_directory_soon_gets_attributes_with_names(
    stack: Stack,
) -> None:
    stack.add({str(number): File() for number in range(2000)})
    with mounted(stack) as mount:
        before = _all_requests(mount)
        with os.scandir(mount.target) as entries:
            assert len([entry.stat() for entry in entries]) == 2000
        assert _all_requests(mount) - before < 600


def _all_requests(mount: Mounted) -> int:
    """How many requests Python and the data plane have answered."""
    counted = mount.counted()
    return sum(counted.requests.values()) + counted.answered


def test_many_small_writes_are_few_requests(stack: Stack) -> None:
    stack.add({})
    with mounted(stack) as mount:
        with (
            mount.requests() as requests,
            open(mount.path("f"), "wb", buffering=0) as file,
        ):
            for _ in range(1000):
                file.write(b"x" * 10)
            file.flush()
            os.fsync(file.fileno())
        assert requests["write"] < 50  # the kernel may begin to write back at any time
        assert requests["getattr"] <= 1
    assert os.stat(os.path.join(stack.upper, "f")).st_size == 10_000


def test_writes_cost_no_request_each(stack: Stack) -> None:
    """The kernel asks once whether there is a capability to clear (FUSE_HANDLE_KILLPRIV_V2)."""
    stack.add({"f": File(b"x")})
    with (
        mounted(stack) as mount,
        open(mount.path("f"), "r+b", buffering=0) as file,
        mount.requests() as requests,
    ):
        for _ in range(10):
            file.write(b"y")
    assert requests["getxattr"] <= 1  # or native code answers it
    assert requests["setattr"] == 0


def test_a_symlink_is_followed_without_requests(stack: Stack) -> None:
    stack.add({"s": Symlink("f"), "f": File(b"x")})
    with mounted(stack) as mount:
        os.stat(mount.path("s"))
        with mount.requests() as requests:
            os.stat(mount.path("s"))
        assert requests["lookup"] == 0
        assert requests["getattr"] == 0


def test_a_new_file_is_stated_without_a_request(stack: Stack) -> None:
    stack.add({})
    with mounted(stack) as mount:
        with open(mount.path("f"), "wb") as file:
            file.write(b"x")
        os.stat(mount.path("f"))
        mount.await_held(open_files=0)
        with mount.requests() as requests:
            assert os.stat(mount.path("f")).st_size == 1
        assert requests == {}


def test_what_was_remembered_is_right_after_every_change(stack: Stack) -> None:
    stack.add({"a": File(b"a", mode=0o600), "d/b": File(b"b")})
    with mounted(stack) as mount:
        os.listdir(mount.path("d"))
        os.stat(mount.path("a"))
        os.rename(mount.path("a"), mount.path("d/c"))
        assert sorted(os.listdir(mount.path("d"))) == ["b", "c"]
        assert not os.path.exists(mount.path("a"))
        os.chmod(mount.path("d/c"), 0o640)
        os.link(mount.path("d/c"), mount.path("d/e"))
        for name in ("d/c", "d/e"):
            st = os.stat(mount.path(name))
            assert (st.st_mode & 0o777, st.st_nlink) == (0o640, 2)
        os.unlink(mount.path("d/c"))
        assert os.stat(mount.path("d/e")).st_nlink == 1
        with open(mount.path("d/b"), "ab") as file:
            file.write(b"!")
        assert os.stat(mount.path("d/b")).st_size == 2


def test_truncating_at_open_is_a_request_of_its_own(stack: Stack) -> None:
    """With FUSE_ATOMIC_O_TRUNC the kernel truncates its cache again later, and loses writes of other programs."""
    stack.add({"f": File(b"x" * 10)})
    with mounted(stack) as mount:
        os.close(os.open(mount.path("f"), os.O_WRONLY | os.O_TRUNC))
        measured = mount.counted()
        by_all = [
            one["setattr"].count for one in (measured.python, measured.native) if "setattr" in one
        ]
        assert sum(by_all) == 1
        assert os.stat(mount.path("f")).st_size == 0
    assert os.stat(os.path.join(stack.upper, "f")).st_size == 0
