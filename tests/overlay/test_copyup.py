"""Copy-up is complete or does not happen, and programs see no change but their own."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import struct

import pytest

from overlaykit import _native, handles
from overlaykit.overlay.attributes import Changes
from overlaykit.overlay.markers import Origin
from overlaykit.overlay.stack import MergeOptions

from ..crash.disks import image, memory, mounted_image, upper_on_a_small_disk
from ..posix import syscalls
from ..posix.layers import write_layer
from ..posix.table import Dir, Fifo, File, Link, Symlink
from .inside import as_root
from .stack import Stack
from .view import refused

LONG_AGO = 1_234_567_890_123_456_789


def test_a_copy_has_everything_that_the_lower_file_had(stack: Stack) -> None:
    lower = stack.add(
        {"f": File(b"x" * 5000, mode=0o2750, xattrs={"user.k": b"v"}, mtime_ns=LONG_AGO)}
    )
    with stack.open() as view:
        view.setxattr("f", "user.new", b"1")
        st = view.stat("f").stat
        assert stat.S_IMODE(st.st_mode) == 0o2750
        assert st.st_mtime_ns == LONG_AGO
        assert view.xattrs("f") == {"user.k": b"v", "user.new": b"1"}
        assert view.read("f") == b"x" * 5000
    assert os.listxattr(os.path.join(lower, "f")) == ["user.k"]


@as_root
def test_a_copy_has_the_owner_and_the_capabilities_of_the_lower_file(stack: Stack) -> None:
    # struct vfs_cap_data (linux/capability.h): revision 2, effective; CAP_NET_RAW
    capability = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
    stack.add({"f": File(mode=0o4711, uid=12, gid=34, xattrs={"security.capability": capability})})
    with stack.open() as view:
        view.change("f", Changes(mtime_ns=LONG_AGO))
        st = view.stat("f").stat
        assert (st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)) == (12, 34, 0o4711)
        assert view.xattrs("f")["security.capability"] == capability


def test_directories_above_keep_their_times_and_markers(stack: Stack) -> None:
    stack.add(
        {
            "a": Dir(mode=0o701, xattrs={"user.a": b"1"}, mtime_ns=LONG_AGO),
            "a/b": Dir(mode=0o2770, mtime_ns=LONG_AGO + 1),
            "a/b/f": File(b"old"),
        }
    )
    with stack.open() as view:
        view.write("a/b/f", b"new")
        assert view.stat("a").stat.st_mtime_ns == LONG_AGO
        assert view.stat("a/b").stat.st_mtime_ns == LONG_AGO + 1
        assert stat.S_IMODE(view.stat("a").stat.st_mode) == 0o701
        assert stat.S_IMODE(view.stat("a/b").stat.st_mode) == 0o2770
        assert view.xattrs("a") == {"user.a": b"1"}


def test_a_copy_keeps_its_nodeid_for_good(stack: Stack) -> None:
    stack.add({"f": File(b"x"), "d/g": File()})
    with stack.open() as view:
        before = view.nodeid("f"), view.nodeid("d"), view.nodeid("d/g")
        view.write("f", b"y")
        view.write("d/g", b"y")
        view.forget_everything()
        assert (view.nodeid("f"), view.nodeid("d"), view.nodeid("d/g")) == before


def test_a_change_of_mode_leaves_the_bytes_below_alone(stack: Stack) -> None:
    lower = stack.add({"f": File(b"x", mode=0o600)})
    before = os.stat(os.path.join(lower, "f"))
    with stack.open() as view:
        view.change("f", Changes(mode=0o644, size=3))
        assert view.read("f") == b"x\0\0"
    after = os.stat(os.path.join(lower, "f"))
    assert (after.st_mode, after.st_size, after.st_ctime_ns) == (
        before.st_mode,
        before.st_size,
        before.st_ctime_ns,
    )


def test_symlinks_and_fifos_are_copied_up_when_their_times_change(stack: Stack) -> None:
    stack.add({"s": Symlink("target"), "p": Fifo(mode=0o620)})
    with stack.open() as view:
        for name in ("s", "p"):
            view.change(name, Changes(mtime_ns=LONG_AGO))
            assert view.stat(name).stat.st_mtime_ns == LONG_AGO
        assert view.readlink("s") == b"target"
        assert stat.S_IMODE(view.stat("p").stat.st_mode) == 0o620
        assert sorted(os.listdir(stack.upper)) == ["p", "s"]


def test_holes_stay_holes(stack: Stack) -> None:
    stack.add({"f": File(b"x" * 4096, size=64 << 20)})
    with stack.open() as view:
        view.setxattr("f", "user.k", b"v")
        assert view.stat("f").stat.st_size == 64 << 20
        assert view.stat("f").stat.st_blocks * 512 < 1 << 20
        view.change("f", Changes(size=8192))


def test_truncating_on_open_copies_no_bytes(stack: Stack) -> None:
    stack.add({"f": File(b"x" * 100, mode=0o640)})
    with stack.open() as view:
        with view.opened("f", os.O_WRONLY | os.O_TRUNC):
            assert view.stat("f").stat.st_size == 0
        assert stat.S_IMODE(view.stat("f").stat.st_mode) == 0o640
        copy = view.filesystem.copyup.begin(view.file("f"), keep_data=True)
        assert copy is None


def test_only_what_changes_is_copied(stack: Stack) -> None:
    stack.add({"d/f": File(b"x"), "d/g": File(b"y")})
    with stack.open() as view:
        assert view.read("d/f") == b"x"
        view.xattrs("d/f")
        view.names("d")
        assert os.listdir(stack.upper) == []
        view.write("d/g", b"z")
        assert os.listdir(os.path.join(stack.upper, "d")) == ["g"]


def test_removing_an_attribute_that_is_not_there_copies_nothing(stack: Stack) -> None:
    stack.add({"f": File(xattrs={"user.k": b"v"})})
    with stack.open() as view:
        with refused(errno.ENODATA):
            view.removexattr("f", "user.other")
        assert os.listdir(stack.upper) == []
        view.removexattr("f", "user.k")
        assert view.xattrs("f") == {}


def test_without_an_upper_nothing_is_copied(stack: Stack) -> None:
    stack.add({"f": File(b"x")})
    stack.add({})
    with stack.open(writable=False) as view:
        for change in (Changes(mode=0o600), Changes(size=0), Changes(mtime_ns=LONG_AGO)):
            with refused(errno.EROFS):
                view.change("f", change)
        with refused(errno.EROFS):
            view.setxattr("f", "user.k", b"v")


def test_markers_of_the_lower_are_not_copied(stack: Stack) -> None:
    stack.add({"d": Dir(opaque=True, xattrs={"user.fuseoverlayfs.opaque": b"y"}), "d/f": File()})
    stack.add({"d/hidden": File()})
    with stack.open(as_kernel=False) as view:  # which keeps fuse-overlayfs's marker
        view.write("d/f", b"x")
        assert view.names("d") == ["f"]
    names = os.listxattr(os.path.join(stack.upper, "d"))
    assert "user.fuseoverlayfs.opaque" not in names
    assert stack.marker("opaque") not in names


# In steps, as the daemon copies a large file: other operations run in between.


def test_a_change_of_a_name_during_its_copy_up_is_kept(stack: Stack) -> None:
    stack.add({"moved": File(b"1"), "removed": File(b"2"), "linked": File(b"3"), "d": Dir()})
    with stack.open() as view:
        names = ("moved", "removed", "linked")
        nodes = {name: view.file(name) for name in names}
        copies = [view.filesystem.copyup.begin(nodes[name], keep_data=True) for name in names]
        with view.opened("removed") as handle:
            view.rename("moved", "d/moved")
            view.unlink("removed")
            view.link("linked", "d/linked")
            for copy in copies:
                assert copy is not None
                copy.transfer()
                copy.finish()
                copy.close()
            assert view.filesystem.files.read(handle, 0, 9) == b"2"
            assert not view.exists("removed")
        assert sorted(view.names()) == ["d", "linked"]
        view.write("d/moved", b"!")
        assert view.read("d/moved") == b"!"
        assert view.nodeid("linked") == view.nodeid("d/linked")


def test_of_two_copies_the_first_to_finish_stays(stack: Stack) -> None:
    stack.add({"f": File(b"old")})
    with stack.open() as view:
        slow = view.filesystem.copyup.begin(view.file("f"), keep_data=True)
        assert slow is not None
        slow.transfer()
        view.write("f", b"new")
        slow.finish()
        slow.close()
        assert view.read("f") == b"new"
    assert os.listdir(os.path.join(stack.work, "work")) == []


def test_an_aborted_copy_leaves_nothing(stack: Stack) -> None:
    stack.add({"d/f": File(b"x")})
    with stack.open() as view:
        copy = view.filesystem.copyup.begin(view.file("d/f"), keep_data=True)
        assert copy is not None
        copy.transfer()
        copy.close()
        assert view.read("d/f") == b"x"
        assert os.listdir(os.path.join(stack.work, "work")) == []
    assert os.listdir(os.path.join(stack.upper, "d")) == []


def test_a_full_disk_leaves_the_old_file_whole_and_no_other(stack: Stack) -> None:
    lower = stack.add({"d/large": File(b"x" * (2 << 20)), "d/small": File(b"s")})
    # The inodes of a tmpfs have other numbers at the next mount.
    with (
        upper_on_a_small_disk(stack),
        stack.open(remount=False, as_kernel=False) as view,
    ):
        with refused(errno.ENOSPC):
            view.write("d/large", b"y")
        assert view.read("d/large") == b"x" * (2 << 20)
        assert os.listdir(os.path.join(stack.work, "work")) == []
        assert os.listdir(os.path.join(stack.upper, "d")) == []
        view.write("d/small", b"t")
        assert view.read("d/small") == b"t"
    with open(os.path.join(lower, "d/large"), "rb") as file:
        assert file.read() == b"x" * (2 << 20)


# Hard links: the copy lies in the index, and each name is a link to it.


def test_every_name_of_a_hard_link_sees_the_change(stack: Stack) -> None:
    stack.add({"a": File(b"old"), "d/b": Link("a"), "c": Link("a")})
    # The kernel's index needs privileges.
    with stack.open(as_kernel=not stack.unprivileged) as view:
        assert {view.stat(name).link_count for name in ("a", "d/b", "c")} == {3}
        nodeid = view.nodeid("a")
        view.write("d/b", b"new")
        for name in ("a", "d/b", "c"):
            assert view.read(name) == b"new"
            assert view.nodeid(name) == nodeid
            assert view.stat(name).link_count == 3
        assert len(os.listdir(stack.upper)) == 1  # the others still lie in the lower


def test_a_hard_link_that_was_forgotten_is_found_in_the_index(stack: Stack) -> None:
    stack.add({"a": File(b"old"), "b": Link("a")})
    with stack.open(as_kernel=not stack.unprivileged) as view:
        view.write("a", b"new")
        view.forget_everything()
        assert view.read("b") == b"new"
        nodeid = view.nodeid("b")
        view.write("b", b"newer")
        view.forget_everything()
        assert view.nodeid("a") == nodeid
        assert view.read("a") == b"newer"


def test_hard_links_of_two_layers_are_two_files(stack: Stack) -> None:
    stack.add({"a": File(b"1"), "b": Link("a")})
    stack.add({"c": File(b"2"), "d": Link("c")})
    with stack.open(as_kernel=not stack.unprivileged) as view:
        view.write("a", b"x")
        view.write("d", b"y")
        assert [view.read(name) for name in "abcd"] == [b"x", b"x", b"y", b"y"]


def test_counts_of_hard_links_add_up_through_changes_of_both_kinds(stack: Stack) -> None:
    stack.add({"a": File(b"x"), "b": Link("a"), "c": Link("a")})
    with stack.open(as_kernel=not stack.unprivileged) as view:
        view.write("a", b"y")
        view.link("a", "d")
        assert view.stat("b").link_count == 4
        view.unlink("c")
        view.forget_everything()
        assert view.stat("d").link_count == 3
        view.unlink("a")
        view.unlink("b")
        assert view.stat("d").link_count == 1
        assert view.read("d") == b"y"


def test_a_hard_link_whose_count_a_crash_left_relative_to_a_lower_that_is_not_found_loses_no_name(
    stack: Stack,
) -> None:
    """Without privileges only its name leads to the lower, and the copy was moved before the crash."""
    stack.add({"a": File(b"old"), **{name: Link("a") for name in "bcd"}})
    with stack.bare() as view:
        view.write("a", b"new")
        view.rename("a", "moved")
    os.setxattr(os.path.join(stack.upper, "moved"), stack.marker("nlink"), b"L+0")
    with stack.bare() as view:
        view.link("moved", "more")
        view.unlink("moved")
        view.forget_everything()
        view.unlink("more")
        for name in "bc":
            view.unlink(name)
        assert view.read("d") == b"new"
        view.unlink("d")
        assert view.names() == []


def test_a_hard_link_whose_count_a_crash_left_relative_to_its_lower_is_counted_right(
    stack: Stack,
) -> None:
    stack.add({"a": File(b"old"), **{name: Link("a") for name in "bcd"}})
    with stack.bare() as view:
        view.write("a", b"new")
    os.setxattr(os.path.join(stack.upper, "a"), stack.marker("nlink"), b"L+0")
    with stack.bare() as view:
        assert view.stat("a").link_count == 4
        view.unlink("a")
        assert [view.stat(name).link_count for name in "bcd"] == [3, 3, 3]


def test_the_count_of_a_hard_link_is_not_taken_from_a_file_of_another_disk(stack: Stack) -> None:
    """The copy was moved to where another lower has a file with the same inode number."""
    stack.lowers = [os.path.join(stack.directory, name) for name in ("one", "other")]
    one, other = (os.path.join(lower, "a") for lower in stack.lowers)
    with memory(stack.lowers[0]), memory(stack.lowers[1]):
        for path in (one, other):
            with open(path, "wb") as file:
                file.write(b"old")
        os.link(one, os.path.join(stack.lowers[0], "b"))
        os.rename(other, os.path.join(stack.lowers[1], "g"))
        assert os.stat(one).st_ino == os.stat(os.path.join(stack.lowers[1], "g")).st_ino
        with stack.bare() as view:
            view.write("a", b"new")
            view.rename("a", "g")
        os.setxattr(os.path.join(stack.upper, "g"), stack.marker("nlink"), b"L+0")
        with stack.bare() as view:
            view.unlink("g")
            assert view.read("b") == b"new"


@as_root
def test_files_of_two_clones_of_one_disk_are_different_files(stack: Stack) -> None:
    with image(stack.directory, "mkfs.ext4", "-q", megabytes=8) as (file, path):
        with open(os.path.join(path, "a"), "wb") as made:
            made.write(b"old")
        os.link(os.path.join(path, "a"), os.path.join(path, "b"))
    shutil.copyfile(file, clone := file + "-clone")
    stack.lowers = [os.path.join(stack.directory, name) for name in ("one", "other")]
    with mounted_image(file, stack.lowers[0]), mounted_image(clone, stack.lowers[1]):
        for old, new in (("a", "c"), ("b", "d")):
            os.rename(os.path.join(stack.lowers[1], old), os.path.join(stack.lowers[1], new))
        with stack.bare() as view:
            view.write("a", b"new")
            assert view.read("c") == b"old"
            view.write("c", b"newer")
            assert [view.read(name) for name in "ac"] == [b"new", b"newer"]


@as_root
def test_a_copy_from_one_of_two_clones_of_a_disk_has_another_nodeid_at_the_next_mount(
    stack: Stack,
) -> None:
    with image(stack.directory, "mkfs.ext4", "-q", megabytes=8) as (file, path):
        write_layer({"a": File(b"old")}, path, xattr_prefix="trusted")
    shutil.copyfile(file, clone := file + "-clone")
    stack.lowers = [os.path.join(stack.directory, name) for name in ("one", "other")]
    with mounted_image(file, stack.lowers[0]), mounted_image(clone, stack.lowers[1]):
        with stack.bare() as view:
            before = view.nodeid("a")
            view.write("a", b"new")
            assert view.nodeid("a") == before
        with stack.bare() as view:
            assert view.read("a") == b"new"
            assert view.nodeid("a") != before


def test_hard_linked_symlinks_and_fifos_can_be_changed_and_removed(stack: Stack) -> None:
    stack.add({"s": Symlink("x"), "t": Link("s"), "f": Fifo(), "g": Link("f")})
    with stack.open(as_kernel=not stack.unprivileged, remount=not stack.unprivileged) as view:
        for name in "sf":
            view.change(name, Changes(mtime_ns=LONG_AGO))
            view.rename(name, name + name)
        for name in ("ss", "g"):
            view.unlink(name)
        assert view.names() == ["ff", "t"]


def test_without_an_index_unknown_names_of_a_hard_link_stay_as_they_were(
    stack: Stack,
) -> None:
    stack.add({"a": File(b"old"), "b": Link("a")})
    options = MergeOptions(index=False, userxattr=stack.unprivileged)
    with stack.open(options=options, as_kernel=False) as view:
        view.write("a", b"new")
        view.forget_everything()
        assert view.read("a") == b"new"
        assert view.read("b") == b"old"


def test_without_an_index_d_ino_is_not_trusted_where_hard_links_may_part(stack: Stack) -> None:
    stack.add({"d/a": File(b"old"), "e/b": Link("d/a"), "e/c": Link("d/a"), "e/d": File()})
    options = MergeOptions(index=False, userxattr=stack.unprivileged)
    with stack.open(options=options, as_kernel=False, remount=False) as view:
        assert set(view.nodeids("e").values()) == {0}
        for name in ("d/a", "e/b"):
            view.node(name)
        view.write("d/a", b"new")  # of which e/b is a name, too
        view.forget_everything()
        assert view.nodeid("e/b") == view.nodeid("d/a")
        assert view.nodeid("e/c") != view.nodeid("d/a")
        view.forget_everything()
        assert set(view.nodeids("e").values()) == {0}


@pytest.mark.parametrize("mode", [0o000, 0o444])
def test_a_file_without_write_permission_is_copied_up_for_its_owner(
    stack: Stack, mode: int
) -> None:
    stack.add({"f": File(b"x", mode=mode)})
    with stack.open() as view:
        view.change("f", Changes(mtime_ns=LONG_AGO))
        assert stat.S_IMODE(view.stat("f").stat.st_mode) == mode
        assert view.read("f") == b"x"


def test_a_copy_of_a_directory_without_write_permission_gets_its_entries(stack: Stack) -> None:
    stack.add({"d": Dir(mode=0o555), "d/f": File(b"x")})
    with stack.open() as view:
        view.write("d/f", b"y")
        assert stat.S_IMODE(view.stat("d").stat.st_mode) == 0o555


def test_a_file_on_another_file_system_is_copied_up(stack: Stack) -> None:
    lower = stack.add({})
    syscalls.mount(b"other", os.fsencode(lower), b"tmpfs", 0)
    os.makedirs(os.path.join(lower, "d"))
    with open(os.path.join(lower, "d/f"), "wb") as file:
        file.write(b"x" * 100_000)
    with stack.open(as_kernel=False) as view:
        nodeid = view.nodeid("d/f")
        view.write("d/f", b"y")
        assert view.nodeid("d/f") == nodeid
        assert view.read("d/f") == b"y" + b"x" * 99_999
    syscalls.umount2(os.fsencode(lower))


def test_the_copy_carries_its_origin_as_the_kernel_writes_it(stack: Stack) -> None:
    lower = stack.add({"f": File(b"x")})
    with stack.open() as view:
        view.write("f", b"y")
    raw = os.getxattr(os.path.join(stack.upper, "f"), stack.marker("origin"))
    handle = handles.of_name(_native.AT_FDCWD, os.path.join(lower, "f"))
    assert raw[: raw[2]].endswith(handle.handle)  # the third byte is the length
    origin = Origin.decode(raw)
    assert origin is not None
    # A file that is written within the same tick of the clock might be changed again without another time.
    assert origin.changed_ns in (None, os.stat(os.path.join(lower, "f")).st_ctime_ns)


@pytest.mark.parametrize("change", ["write", "mode"])
def test_a_file_whose_data_the_kernel_left_elsewhere_is_not_copied_up_as_zeros(
    stack: Stack, change: str
) -> None:
    prefix = "user.overlay." if stack.unprivileged else "trusted.overlay."
    lower = stack.add({"f": File(b"\0" * 4096)})
    os.setxattr(os.path.join(lower, "f"), prefix + "metacopy", b"")
    with stack.bare() as view:
        with refused(errno.EIO):
            if change == "write":
                view.write("f", b"new")
            else:
                view.change("f", Changes(mode=0o600))
        with refused(errno.EIO):
            view.read("f")
        assert os.listdir(stack.upper) == []


def test_an_acl_of_the_work_directory_reaches_no_copy(stack: Stack) -> None:
    entries = [(1, 7, -1), (2, 7, os.geteuid()), (4, 7, -1), (16, 7, -1), (32, 7, -1)]
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, rights, who & 0xFFFFFFFF) for tag, rights, who in entries
    )
    stack.add({"f": File(b"x", mode=0o640)})
    os.makedirs(stack.work, exist_ok=True)
    os.setxattr(stack.work, "system.posix_acl_default", acl)
    with stack.open() as view:
        view.write("f", b"new")
        view.create("g")
        for name in ("f", "g"):
            assert "system.posix_acl_access" not in view.xattrs(name)
        assert stat.S_IMODE(view.stat("f").stat.st_mode) == 0o640
