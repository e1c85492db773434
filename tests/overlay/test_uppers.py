"""Uppers on file systems that lack features: deleted files stay deleted in every form, or the mount is refused."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import subprocess
from collections.abc import Iterator
from typing import Final

import pytest

from overlaykit import mountinfo
from overlaykit.overlay.disk import Form, Unfit, probe
from overlaykit.overlay.explain import explain
from overlaykit.overlay.stack import MergeOptions

from ..crash.disks import put_upper_on
from ..posix import syscalls
from ..posix.disks import Disk, mount_disk, unmount_disk
from ..posix.layers import write_layer
from ..posix.table import Dir, File, Layer, Symlink
from .inside import as_root
from .seen import look_through
from .stack import Stack
from .view import View, refused

FORMS: Final[tuple[Form, ...]] = ("device", "xattr", "aufs")
LOWER: Final[Layer] = {
    "file": File(b"file"),
    "moved": File(b"moved"),
    "onto": File(b"onto"),
    "replaced": File(b"replaced"),
    "symlink": Symlink("file"),
    "tree/a": File(b"a"),
    "tree/b/c": File(b"c"),
    "gone/x": File(b"x"),
    "again/y": File(b"y"),
    "empty": Dir(),
    "kept/z": File(b"z"),
}


MADE: Final[dict[bytes, Disk]] = {
    b"overlay": "overlay",
    b"fuse-overlayfs": "fuse-overlayfs",
    b"bindfs": "bindfs",
}


@contextlib.contextmanager
def upper_on(stack: Stack, kind: bytes) -> Iterator[None]:
    """Put the stack's upper and work directory on a new file system."""
    path = os.path.join(stack.directory, "disk")
    base = os.fsencode(stack.directory)
    if disk := MADE.get(kind):
        mount_disk(disk, base, unprivileged=stack.unprivileged)
    else:
        os.mkdir(path)
        syscalls.mount(b"disk", os.fsencode(path), kind, 0)
    put_upper_on(stack, path)
    try:
        yield
    finally:
        unmount_disk("overlay", base)


def options(stack: Stack, form: Form | None) -> MergeOptions:
    return MergeOptions(userxattr=stack.unprivileged, whiteout=form)


def change_everything(view: View) -> None:
    """Make each change that hides a name of the lower."""
    view.unlink("file")
    view.unlink("symlink")
    view.rename("moved", "elsewhere")
    view.rename("onto", "replaced")
    view.rename("tree", "branch")
    view.unlink("gone/x")
    view.rmdir("gone")
    view.unlink("again/y")
    view.rmdir("again")
    view.mkdir("again")
    view.rmdir("empty")
    view.create("empty", b"a file now")
    view.mkdir("new")
    view.rename("new", "file")
    view.unlink("kept/z")
    view.create("kept/z", b"once more")


def change_again(view: View) -> None:
    """Make each change at a whiteout, or at a name that was hidden before."""
    view.mkdir("gone")
    view.create("gone/new")
    view.unlink("kept/z")
    view.unlink("empty")
    view.mkdir("empty")
    view.rmdir("again")
    view.rmdir("file")
    view.create("file", b"back")
    view.rename("branch", "tree")
    view.rename("elsewhere", "moved")
    view.symlink("file", "symlink")
    view.link("file", "link")
    view.mkdir("target")
    view.rename("kept", "target")


AGAIN: Final = {"gone", "empty", "file", "link", "moved", "replaced", "symlink", "target"}


@pytest.mark.parametrize("written", FORMS)
@pytest.mark.parametrize("form", FORMS)
def test_a_name_hidden_by_one_form_of_whiteout_stays_hidden_under_another(
    stack: Stack, written: Form, form: Form
) -> None:
    stack.add(LOWER)
    # The kernel does not follow a user's redirects.
    is_the_kernels = written == "device" and not stack.unprivileged
    with stack.open(options=options(stack, written), as_kernel=is_the_kernels) as view:
        change_everything(view)
        seen = look_through(view)
    assert view_of(stack, form) == seen
    with stack.open(options=options(stack, form), as_kernel=False) as view:
        change_again(view)
        assert set(view.names()) == AGAIN | {"tree"}
        assert view.names("gone") == ["new"]
        assert view.names("target") == view.names("empty") == []
        seen = look_through(view)
    for other in FORMS:
        assert view_of(stack, other) == seen


def view_of(stack: Stack, form: Form | None) -> object:
    with stack.bare(options=options(stack, form)) as view:
        return look_through(view)


def test_a_deleted_file_stays_deleted_on_an_upper_that_lies_on_an_overlay(stack: Stack) -> None:
    stack.add(LOWER)
    with upper_on(stack, b"overlay"):
        with stack.open(as_kernel=False) as view:
            change_everything(view)
            seen = look_through(view)
        # A copy of the upper on another disk shows the same: above a lower, and to the kernel as one of its lowers.
        there = os.path.join(stack.directory, "copy")
        subprocess.run(["cp", "-a", stack.upper, there], check=True)
        stack.upper, stack.work = there, os.path.join(stack.directory, "work")
        assert view_of(stack, None) == seen
        stack.lowers.insert(0, there)
        with stack.bare(writable=False) as view:
            assert look_through(view) == seen


def test_the_kernel_reads_whiteout_files_in_its_lowers(stack: Stack) -> None:
    lower = stack.add(LOWER)
    with stack.open(options=options(stack, "xattr"), as_kernel=False) as view:
        change_everything(view)
        seen = look_through(view)
        names = {path: sorted(view.names(path)) for path in ("", "branch", "kept", "again", "file")}
    stack.lowers = [stack.upper, lower]
    with stack.mounted_by_the_kernel(writable=False) as target:
        if stack.unprivileged:  # the kernel does not follow a user's redirects
            names = {path: names[path] for path in ("kept", "again", "file")}
        for path, listed in names.items():
            assert sorted(os.listdir(os.path.join(target, path))) == listed
    assert seen


def test_a_directory_of_a_lower_of_the_overlay_below_can_be_removed(stack: Stack) -> None:
    """As in an upper within a container's root: the overlay below does not rename its lower's directories (EXDEV)."""
    stack.add({"d/f": File(), "d/e/g": File(), "plain": File()})
    base = stack.directory
    image = os.path.join(base, "disk.lower")
    with upper_on(stack, b"overlay"):
        unmount_disk("overlay", os.fsencode(base))
        write_layer({"upper/d/e": Dir(), "upper/own": Dir()}, image, xattr_prefix=stack.prefix)
        data = f"lowerdir={image},upperdir={base}/disk.upper,workdir={base}/disk.work"
        if stack.unprivileged:
            data += ",userxattr"
        syscalls.mount(b"disk", os.fsencode(base) + b"/disk", b"overlay", 0, data.encode())
        with stack.open(as_kernel=False) as view:
            view.rmdir("own")
            view.unlink("d/e/g")
            view.rmdir("d/e")
            assert view.names("d") == ["f"]
            view.mkdir("d/e")
            assert view.names("d/e") == []
            with refused(errno.EXDEV):
                view.rename("d", "other")
            assert sorted(view.names()) == ["d", "plain"]


def test_a_disk_without_attributes_is_refused_unless_whiteouts_are_aufs(stack: Stack) -> None:
    stack.add(LOWER)
    with upper_on(stack, b"ramfs"):
        with pytest.raises(Unfit) as raised, stack.bare():
            pass
        assert "no extended attributes" in str(raised.value)
        with stack.bare(options=options(stack, "aufs")) as view:
            with refused(errno.EXDEV):
                view.rename("tree", "branch")
            view.unlink("tree/a")
            view.unlink("tree/b/c")
            view.rmdir("tree/b")
            view.rmdir("tree")
            view.mkdir("tree")
            view.mkdir("branch")
            change_everything_but_directories(view)
            seen = look_through(view)
        assert view_of(stack, "aufs") == seen


def change_everything_but_directories(view: View) -> None:
    view.unlink("file")
    view.rename("moved", "elsewhere")
    view.rename("onto", "replaced")
    view.rename("branch", "tree")
    view.unlink("gone/x")
    view.rmdir("gone")
    view.mkdir("gone")
    assert view.names("gone") == view.names("tree") == []
    assert not view.exists("moved")


@as_root
def test_a_form_of_whiteouts_that_the_disk_lacks_is_refused(stack: Stack) -> None:
    stack.add({})
    with upper_on(stack, b"overlay"):
        with pytest.raises(Unfit) as raised, stack.bare(options=options(stack, "device")):
            pass
        assert "whiteout devices" in str(raised.value)


def test_the_probe_leaves_nothing_behind(stack: Stack) -> None:
    os.mkdir(stack.upper)
    found = probe(os.fsencode(stack.upper), user=stack.unprivileged)
    assert found.form(None) == "device"
    assert found.form("xattr") == "xattr"
    assert os.listdir(stack.upper) == []
    with pytest.raises(Unfit, match="case"):
        found.replace(folds_case=True).form(None)


def test_markers_of_an_overlay_within_the_view_are_not_the_views(stack: Stack) -> None:
    stack.add({"d/below": File()})
    names = [stack.marker("opaque"), "user.fuseoverlayfs.opaque", "user.overlay.opaque"]
    with stack.open(as_kernel=False) as view:
        for name in names:
            view.setxattr("d", name, b"y")
        assert sorted(view.xattrs("d")) == sorted(set(names))
    with stack.open(as_kernel=False) as view:
        assert view.names("d") == ["below"]


def test_an_overlay_within_the_view_keeps_its_markers_through_copy_up(stack: Stack) -> None:
    stack.add({"d/below": File()})
    with stack.open(as_kernel=False) as view:
        view.setxattr("d", stack.marker("opaque"), b"y")
    os.rename(stack.upper, os.path.join(stack.directory, "lower"))
    stack.lowers.insert(0, os.path.join(stack.directory, "lower"))
    with stack.open(as_kernel=False) as view:
        assert view.xattrs("d") == {stack.marker("opaque"): b"y"}
        view.create("d/new")
        assert view.xattrs("d") == {stack.marker("opaque"): b"y"}


def test_reading_continues_when_the_disk_becomes_read_only(stack: Stack) -> None:
    stack.add({"f": File(b"x"), "g": File(b"y")})
    with upper_on(stack, b"tmpfs"), stack.bare() as view:
        view.write("f", b"z")
        view.unlink("g")
        disk = os.fsencode(os.path.join(stack.directory, "disk"))
        syscalls.mount(b"disk", disk, None, syscalls.MS_REMOUNT | syscalls.MS_RDONLY)
        with refused(errno.EROFS):
            view.unlink("f")
        with refused(errno.EROFS):
            view.create("g")
        assert view.names() == ["f"]
        assert view.read("f") == b"z"


def test_a_copy_to_memory_waits_for_no_sync(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it outlives a crash. On a loaded machine the call alone may take long enough to seem a slow disk."""
    stack.add({"f": File(b"x"), "g": File(b"y" * (1 << 20))})
    with upper_on(stack, b"tmpfs"), stack.bare() as view, monkeypatch.context() as patched:
        patched.setattr(os, "fsync", None)
        for name in "fg":
            view.filesystem.copyup.file(view.file(name))
            assert view.file(name).has_upper
        assert not view.filesystem.copyup.syncs
    with stack.bare() as view:
        assert view.filesystem.copyup.syncs == (
            not probe(os.fsencode(stack.directory), user=False).is_memory
        )


def test_a_name_too_long_for_an_aufs_whiteout_cannot_be_removed(stack: Stack) -> None:
    longest = "n" * 255
    stack.add({longest: File(), "d/f": File()})
    with stack.open(options=options(stack, "aufs"), as_kernel=False) as view:
        with refused(errno.ENAMETOOLONG):
            view.unlink(longest)
        with refused(errno.ENAMETOOLONG):
            view.rename(longest, "short")
        assert sorted(view.names()) == ["d", longest]


def test_a_disk_without_any_form_of_markers_is_refused(stack: Stack) -> None:
    stack.add(LOWER)
    with upper_on(stack, b"fuse-overlayfs"):
        for form in (None, *FORMS):
            with pytest.raises(Unfit) as raised, stack.bare(options=options(stack, form)):
                pass
            assert raised.value.remedy == "put it on another file system"


@pytest.mark.parametrize("disk", [b"tmpfs", b"overlay"])
def test_files_deleted_by_fuse_overlayfs_stay_deleted(stack: Stack, disk: bytes) -> None:
    """It makes devices on a tmpfs and files `.wh.NAME` on an overlay, and marks opaque directories in three ways."""
    stack.add(LOWER)
    with upper_on(stack, disk):
        with fuse_overlayfs(stack) as target:
            for command in (
                "rm file symlink gone/x again/y kept/z tree/a",
                "mv moved elsewhere",
                "mv onto replaced",
                "rmdir gone again empty",
                "mkdir again file",
                "mv tree branch",
                "rm -r branch/b",
                "mkdir branch/b",
                "touch empty kept/z",
            ):
                subprocess.run(command.split(), cwd=target, check=True)
            seen = listed(target)
        if disk == b"overlay" and not stack.unprivileged:
            assert os.path.exists(os.path.join(stack.upper, ".wh.moved"))
        with stack.open(as_kernel=False) as view:
            assert set(look_through(view)) - {""} == seen
            view.rmdir("again")
            view.mkdir("moved")
            view.mkdir("gone")
            view.create("gone/new")
            view.rename("branch/b", "tree")
            view.unlink("replaced")
            shown = set(look_through(view)) - {""}
        assert shown == seen - {"again", "branch/b", "replaced"} | {
            "moved",
            "gone",
            "gone/new",
            "tree",
        }
        if disk == b"tmpfs":  # it does not read whiteouts of the attribute form
            with fuse_overlayfs(stack) as target:
                assert listed(target) == shown


@contextlib.contextmanager
def fuse_overlayfs(stack: Stack) -> Iterator[str]:
    """Mount fuse-overlayfs over the same directories."""
    target = os.path.join(stack.directory, "peer")
    for path in (stack.upper, stack.work, target):
        os.makedirs(path, exist_ok=True)
    options = f"lowerdir={':'.join(stack.lowers)},upperdir={stack.upper},workdir={stack.work}"
    command = ["fuse-overlayfs", "-f", "-o", options, target]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        await_mount(target)
        yield target
        syscalls.umount2(os.fsencode(target))
        process.wait()
    finally:
        process.kill()
        process.wait()


def await_mount(target: str) -> None:
    """Wait for a mount at `target`, by polling mountinfo for changes (proc_pid_mountinfo(5))."""
    with open("/proc/self/mountinfo") as table:
        changes = select.poll()
        changes.register(table, select.POLLPRI)
        while not any(mount.mountpoint == target for mount in mountinfo.current()):
            changes.poll()


def listed(target: str) -> set[str]:
    return {
        os.path.relpath(os.path.join(above, name), target)
        for above, directories, files in os.walk(target)
        for name in (*directories, *files)
    }


@pytest.mark.parametrize("form", FORMS)
def test_explain_shows_the_whiteout_of_a_name(stack: Stack, form: Form) -> None:
    stack.add({"f": File()})
    with stack.open(options=options(stack, form), as_kernel=False) as view:
        view.unlink("f")
        explanation = explain(view.filesystem, b"/f")
    whiteout = ".wh.f" if form == "aufs" else "f"
    seen = [(os.path.relpath(hit.path, stack.directory), hit.role) for hit in explanation.hits]
    assert seen == [(f"upper/{whiteout}", "whiteout"), ("lower0/f", "shadowed")]


def test_whiteouts_are_made_without_hard_links(stack: Stack) -> None:
    """As on a disk without hard links, or for an inode with too many."""
    stack.add({f"f{number}": File() for number in range(4)})
    with stack.open() as view:
        view.unlink("f0")
        work = os.path.join(stack.work, "work")
        for name in os.listdir(work):
            os.unlink(os.path.join(work, name))
        for number in range(1, 4):
            view.unlink(f"f{number}")
        assert view.names() == []


@as_root
def test_an_upper_with_markers_that_this_mount_would_not_read_is_refused(
    stack: Stack,
) -> None:
    stack.add({"d/f": File()})
    for written, read, way_out in (
        (True, False, "give userxattr"),
        (False, True, "leave userxattr out"),
    ):
        with stack.bare(options=MergeOptions(userxattr=written)) as view:
            view.unlink("d/f")
            view.rmdir("d")
            view.mkdir("d")
        with pytest.raises(Unfit) as raised, stack.bare(options=MergeOptions(userxattr=read)):
            pass
        assert raised.value.remedy == way_out
        subprocess.run(["rm", "-r", stack.upper], check=True)


def test_removal_works_on_a_disk_without_fstat_of_unlinked_files(stack: Stack) -> None:
    """bindfs fails fstat(2) of an unlinked file (ENOENT)."""
    stack.add({"f": File(b"x"), "g": File(b"y"), "d": Dir()})
    with upper_on(stack, b"bindfs"):
        with pytest.raises(Unfit) as raised, stack.bare():
            pass
        assert "RENAME_EXCHANGE" in str(raised.value)
        with stack.bare(options=options(stack, "aufs")) as view:
            view.write("f", b"z")
            view.symlink("f", "link")
            view.mkdir("new")
            gone = [view.node(path) for path in ("f", "link", "new", "d")]
            view.create("d/h")
            view.unlink("d/h")
            view.unlink("link")
            view.rename("g", "f")
            view.rmdir("new")
            view.rmdir("d")
            assert view.names() == ["f"]
            assert view.read("f") == b"y"
            for node in gone:
                assert view.filesystem.tree.attributes(node).link_count == 0
