"""What an upper changes of its lowers, on uppers that real mounts have written."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys

from overlaykit.changes.opening import open_directory
from overlaykit.changes.read import Comparison

from ..overlay.view import refused
from ..posix.table import Dir, File, Symlink
from .workspace import Workspace

OLD = 10**18
"""A time in 2001, in nanoseconds since the epoch."""


def test_added_changed_and_deleted_files_are_listed(workspace: Workspace) -> None:
    workspace.add(
        {
            "d": Dir(),
            "d/a": File(b"a"),
            "d/b": File(b"b"),
            "d/c": File(b"c"),
            "gone": Dir(),
            "gone/x": File(b"x"),
        }
    )
    with workspace.mounted():
        write("d/a", b"more")
        os.unlink("d/b")
        write("d/new", b"new")
        shutil.rmtree("gone")
        os.mkdir("made")
    assert workspace.listed() == [
        "changed d/a: content size",
        "deleted d/b",
        "added d/new",
        "deleted gone",
        "added made",
    ]


def test_a_file_that_was_touched_but_is_equal_is_no_change(workspace: Workspace) -> None:
    workspace.add({"a": File(b"a", mtime_ns=OLD), "b": File(b"b", mtime_ns=OLD)})
    with workspace.mounted():
        os.utime("a")
        write("b", b"b")
    assert workspace.listed() == []
    assert [change.path for change in workspace.changes(times=True)] == [b"a", b"b"]


def test_a_changed_file_costs_few_calls(workspace: Workspace) -> None:
    """Of Python's functions and of system calls: 36 on Linux 6.18, 69 before most were looked at as `in_both` does."""

    def calls_of(count: int) -> int:
        counted = 0

        def count_one(_frame: object, event: str, _argument: object) -> None:
            nonlocal counted
            counted += event in ("call", "c_call")

        names = [f"{count}/{number}" for number in range(count)]
        for root, text in ((workspace.lowers[0], b"old"), (workspace.upper, b"new")):
            os.makedirs(os.path.join(root, str(count)))
            for name in names:
                write(os.path.join(root, name), text)
        upper, lower = map(open_directory, (workspace.upper, workspace.lowers[0]))
        with Comparison.of_upper(upper, [lower]) as comparison:
            sys.setprofile(count_one)
            try:
                found = list(comparison.changes(b"%d" % count))
            finally:
                sys.setprofile(None)
        assert len([change for change in found if change.kind == "changed"]) == count
        shutil.rmtree(os.path.join(workspace.upper, str(count)))
        return counted

    workspace.add({})
    few, many = calls_of(10), calls_of(60)
    assert (many - few) / 50 < 45


def test_contents_that_differ_are_seen_though_size_and_times_are_as_before(
    workspace: Workspace,
) -> None:
    workspace.add({"a": File(b"one", mtime_ns=OLD)})
    with workspace.mounted():
        write("a", b"two")
        os.utime("a", ns=(OLD, OLD))
    assert workspace.listed() == ["changed a: content"]


def test_a_file_whose_data_are_in_a_layer_below_is_read_there(workspace: Workspace) -> None:
    """Also a small one with attributes that take a block of the disk."""
    workspace.add({"a": File(b"")})
    workspace.add({"a": File(b"x" * 100)})
    held = os.path.join(workspace.lowers[0], "a")
    os.truncate(held, 100)
    prefix = "user" if workspace.unprivileged else "trusted"
    os.setxattr(held, f"{prefix}.overlay.metacopy", b"")
    os.setxattr(held, "user.large", b"y" * 300)
    os.mkdir(workspace.upper)
    write(os.path.join(workspace.upper, "a"), b"x" * 100)
    os.chmod(os.path.join(workspace.upper, "a"), 0o600)
    upper, *lowers = map(open_directory, (workspace.upper, *workspace.lowers))
    with Comparison.of_upper(upper, lowers) as comparison:
        if workspace.unprivileged:  # such a mark is not followed, and zeros are not shown
            with refused(errno.EIO):
                list(comparison.changes())
            return
        (change,) = comparison.changes()
    assert {"mode", "content"} & change.what == {"mode"}


def test_a_file_of_another_type_replaces(workspace: Workspace) -> None:
    workspace.add({"a": File(b"a"), "d": Dir(), "d/x": File(b"x"), "l": Symlink("a")})
    with workspace.mounted():
        os.unlink("a")
        os.mkdir("a")
        write("a/in", b"in")
        shutil.rmtree("d")
        os.symlink("a", "d")
        os.unlink("l")
        os.symlink("d", "l")
    assert workspace.listed() == ["replaced a", "added a/in", "replaced d", "changed l: content"]


def test_a_directory_made_again_lists_what_it_does_not_hold_any_more(workspace: Workspace) -> None:
    workspace.add(
        {"d": Dir(), "d/a": File(b"a"), "d/b": File(b"b"), "d/e": Dir(), "d/e/f": File(b"f")}
    )
    with workspace.mounted():
        shutil.rmtree("d")
        os.mkdir("d")
        write("d/a", b"other")
        write("d/c", b"c")
    assert workspace.listed() == [
        "changed d/a: content size",
        "deleted d/b",
        "added d/c",
        "deleted d/e",
    ]


def test_nothing_is_read_that_did_not_change(workspace: Workspace) -> None:
    quiet = {f"quiet{number}/quiet-file": File(b"quiet") for number in range(50)}
    beside = {f"busy/quiet{number}": File(b"quiet") for number in range(50)}
    lower = workspace.add({**quiet, "busy": Dir(), "busy/a": File(b"a"), **beside})
    with workspace.mounted():
        write("busy/a", b"b")
    trace = os.path.join(os.path.dirname(workspace.upper), "trace")
    calls = "trace=file,getdents64,openat2,llistxattr,lgetxattr"
    command = [sys.executable, "-m", "overlaykit", "diff", workspace.upper, "-l", lower]
    done = subprocess.run(
        ["strace", "-f", "-y", "-o", trace, "-e", calls, *command],
        env=os.environ
        | {"HOME": os.path.dirname(trace), "XDG_RUNTIME_DIR": os.path.dirname(trace)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "M  /busy/a  (content)\n1 changed\n"
    with open(trace, encoding="utf-8") as file:
        lines = file.readlines()
    assert [line for line in lines if "busy" in line]
    assert not [line for line in lines if "quiet" in line]
    # strace does not show which names a listing holds.
    assert not [line for line in lines if "getdents64" in line and lower in line]


def write(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
