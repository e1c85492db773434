"""Files that both sides have, looked at by two processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from overlaykit.changes import read
from overlaykit.changes.in_both import DATA, SEEN, TAKEN, Frame, Helper, InBoth, look_backwards
from overlaykit.changes.opening import open_directory
from overlaykit.changes.read import Comparison
from overlaykit.changes.sides import prefix_of_new

LARGE = b"x" * (1 << 18) + b"y"


def _replace(path: Path) -> None:
    path.unlink()
    path.symlink_to("x")


def _write(path: Path, data: bytes) -> None:
    """Write a file, and leave its time."""
    path.write_bytes(data)
    os.utime(path, ns=(5, 5))


CHANGES: dict[str, Callable[[Path], object]] = {
    "equal": lambda _: None,
    "longer": lambda path: _write(path, b"longer"),
    "touched": lambda path: os.utime(path, ns=(5, 6)),
    "mode": lambda path: path.chmod(0o640),
    "attribute": lambda path: os.setxattr(path, "user.a", b"new"),
    "marked": lambda path: os.setxattr(path, prefix_of_new() + b"origin", b""),
    "data": lambda path: _write(path, b"other"),
    "large": lambda path: _write(path, LARGE[:-1] + b"z"),
    "linked": lambda path: os.link(path, path.with_name("second")),
    "symlink": _replace,
}
EXPECTED = {
    "longer": {"content", "size"},
    "mode": {"mode"},
    "attribute": {"xattrs"},
    "data": {"content"},
    "large": {"content"},
    "second": set(),
    "symlink": set(),
}


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    """A lower and an upper, each of two directories with a file for each change."""
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    for directory in ("a", "b"):
        for root in (lower, upper):
            (root / directory).mkdir(parents=True)
            for name in CHANGES:
                _write(root / directory / name, LARGE if name == "large" else b"bytes")
        for name, change in CHANGES.items():
            change(upper / directory / name)
    return lower, upper


def listed(trees: tuple[Path, Path], *, times: bool, helper: bool) -> list[tuple[object, ...]]:
    lower, upper = (open_directory(str(one)) for one in trees)
    found: list[tuple[object, ...]] = []
    with Comparison.of_upper(upper, [lower]) as comparison:
        for change in comparison.changes(times=times, helper=helper):
            versions = tuple(
                one and (one.mode, one.size, one.uid, one.gid, one.stat.st_mtime_ns, one.inode)
                for one in (change.old, change.new)
            )
            others = change.old_path, change.xattrs, change.link, change.opaque, change.kept
            found.append((change.path, change.kind, change.what, versions, *others))
    return found


@pytest.mark.parametrize("times", [False, True])
@pytest.mark.parametrize("end", ["ended", "killed"])
def test_a_second_process_lists_the_same(
    trees: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, end: str, *, times: bool
) -> None:
    alone = listed(trees, times=times, helper=False)
    children = []

    class Noted(Helper):
        def __init__(self, pairs: Sequence[object], look: Callable[[InBoth], int]) -> None:
            super().__init__(pairs, look)
            children.append(self.child)
            if end == "killed":
                os.kill(self.child, signal.SIGKILL)
            os.waitid(os.P_PID, self.child, os.WEXITED | os.WNOWAIT)

    monkeypatch.setattr(read, "_MANY", 0)
    monkeypatch.setattr(read, "Helper", Noted)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert listed(trees, times=times, helper=True) == alone
    with pytest.raises(ChildProcessError):
        os.waitpid(children[0], 0)
    if not times:
        assert {path: what for path, _, what, *_ in alone} == {
            f"{directory}/{name}".encode(): what
            for directory in ("a", "b")
            for name, what in EXPECTED.items()
        }


def test_two_processes_meet() -> None:
    frame = Frame(None, None, b"", b"", [], None)
    st = os.stat("/")
    pairs = [InBoth(frame, b"%d" % number, st, st) if number % 2 else None for number in range(10)]
    codes = bytearray(10)
    codes[3] = TAKEN
    look_backwards(pairs, lambda pair: SEEN | (DATA if pair.path == b"7" else 0), codes)
    assert list(codes) == [0, 0, 0, TAKEN, 0, SEEN, 0, SEEN | DATA, 0, SEEN]
