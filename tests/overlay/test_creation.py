"""New files get what POSIX says: their owner, their mode, and what they inherit from their directory."""

from __future__ import annotations

import errno
import os
import socket
import stat

import pytest

from overlaykit.overlay.attributes import Caller
from overlaykit.overlay.marker_names import WHITEOUT_DEVICE

from ..posix.table import Dir, File, Link
from .inside import as_root
from .stack import Stack
from .view import View, refused

DEFAULT_ACL = "system.posix_acl_default"


def make_each_kind(view: View, directory: str = "") -> list[str]:
    """Make one file of each kind that an ordinary user may make."""
    at = f"{directory}/" if directory else ""
    view.create(at + "file", b"x", mode=0o640)
    view.mkdir(at + "directory", mode=0o750)
    view.symlink("target", at + "symlink")
    view.mknod(at + "fifo", stat.S_IFIFO | 0o600)
    view.mknod(at + "socket", stat.S_IFSOCK | 0o600)
    return [at + name for name in ("file", "directory", "symlink", "fifo", "socket")]


def test_every_kind_is_made_with_its_mode(stack: Stack) -> None:
    stack.add({})
    with stack.open() as view:
        paths = make_each_kind(view)
        modes = [stat.filemode(view.stat(path).stat.st_mode) for path in paths]
        assert modes == ["-rw-r-----", "drwxr-x---", "lrwxrwxrwx", "prw-------", "srw-------"]
        assert view.readlink("symlink") == b"target"


def test_every_kind_takes_the_place_of_what_was_removed(stack: Stack) -> None:
    stack.add({name: File(b"old") for name in ("file", "directory", "symlink", "fifo", "socket")})
    with stack.open() as view:
        for name in view.names():
            view.unlink(name)
        make_each_kind(view)
        assert view.names("directory") == []
        assert view.read("file") == b"x"


def test_a_name_that_is_taken_is_refused_for_every_kind(stack: Stack) -> None:
    stack.add({"f": File()})
    with stack.open() as view:
        view.create("n", b"there")
        for make in (
            lambda: view.create("n"),
            lambda: view.mkdir("n"),
            lambda: view.symlink("x", "n"),
            lambda: view.mknod("n", stat.S_IFIFO | 0o600),
            lambda: view.link("f", "n"),
        ):
            with refused(errno.EEXIST):
                make()
        assert view.read("n") == b"there"


def test_without_an_upper_nothing_is_made(stack: Stack) -> None:
    stack.add({"f": File()})
    stack.add({})
    with stack.open(writable=False) as view:
        with refused(errno.EROFS):
            view.create("x")
        with refused(errno.EROFS):
            view.mkdir("x")
        with refused(errno.EROFS):
            view.link("f", "x")
        with refused(errno.EROFS):
            view.write("f", b"x")


def test_a_new_file_in_a_directory_of_a_lower_leaves_the_lower_alone(stack: Stack) -> None:
    lower = stack.add({"d/e": Dir(mode=0o2755, xattrs={"user.k": b"v"})})
    with stack.open() as view:
        view.create("d/e/f", b"x")
        assert view.xattrs("d/e") == {"user.k": b"v"}
        assert view.stat("d/e").stat.st_mode & 0o7777 == 0o2755
    assert os.listdir(os.path.join(lower, "d/e")) == []


def test_a_device_that_would_be_a_whiteout_cannot_be_made(stack: Stack) -> None:
    stack.add({"f": File()})
    with stack.open() as view:
        with refused(errno.EPERM):
            view.mknod("n", stat.S_IFCHR | 0o600, os.makedev(0, 0))
        assert view.names() == ["f"]


@as_root
def test_devices_are_made(stack: Stack) -> None:
    stack.add({})
    with stack.open() as view:
        view.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        assert view.stat("null").stat.st_rdev == os.makedev(1, 3)


@as_root
def test_the_caller_owns_a_file_that_it_makes(stack: Stack) -> None:
    stack.add({"gone": File()})
    with stack.open() as view:
        view.caller = Caller(1234, 4321)
        for path in make_each_kind(view):
            assert (view.stat(path).uid, view.stat(path).gid) == (1234, 4321), path
        view.unlink("gone")
        view.mkdir("gone")
        assert view.stat("gone").uid == 1234


@as_root
def test_set_id_bits_survive_the_change_of_owner(stack: Stack) -> None:
    stack.add({})
    with stack.open() as view:
        view.caller = Caller(1234, 4321)
        view.create("f", mode=0o6755)
        assert view.stat("f").stat.st_mode & 0o7777 == 0o6755


@as_root
@pytest.mark.parametrize("layer", ["lower", "upper"])
def test_a_set_group_id_directory_gives_its_group(stack: Stack, layer: str) -> None:
    stack.add({"d": Dir(mode=0o2775, gid=555)} if layer == "lower" else {})
    with stack.open() as view:
        if layer == "upper":
            view.mkdir("d")
            os.chown(os.path.join(stack.upper, "d"), -1, 555)
            os.chmod(os.path.join(stack.upper, "d"), 0o2775)
        for caller in (Caller(0, 0), Caller(1234, 4321)):
            view.caller = caller
            at = f"d/{caller.uid}"
            view.mkdir(at)
            assert view.stat(at).stat.st_mode & stat.S_ISGID
            for path in [at, *make_each_kind(view, at)]:
                assert (view.stat(path).uid, view.stat(path).gid) == (caller.uid, 555), path


@pytest.mark.parametrize("layer", ["lower", "upper"])
def test_a_default_acl_is_inherited(stack: Stack, layer: str) -> None:
    acl = default_acl()
    stack.add({"d": Dir(xattrs={DEFAULT_ACL: acl})} if layer == "lower" else {})
    with stack.open() as view:
        if layer == "upper":
            view.mkdir("d")
            view.setxattr("d", DEFAULT_ACL, acl)
        view.create("d/f", mode=0o666)
        view.mkdir("d/sub", mode=0o777)
        assert view.stat("d/f").stat.st_mode & 0o777 == 0o640  # by the ACL, not the umask
        assert view.xattrs("d/sub")[DEFAULT_ACL] == acl
        assert view.stat("d/sub").stat.st_mode & 0o777 == 0o750


def test_the_umask_applies_without_a_default_acl(stack: Stack) -> None:
    stack.add({"acl": Dir(xattrs={DEFAULT_ACL: default_acl()}), "plain": Dir()})
    with stack.open() as view:
        view.caller = Caller(os.geteuid(), os.getegid(), umask=0o077)
        for directory in ("acl", "plain"):
            view.create(f"{directory}/f", mode=0o666)
            view.mkdir(f"{directory}/d", mode=0o777)
            view.mknod(f"{directory}/p", stat.S_IFIFO | 0o666)
        names = ("acl/f", "acl/d", "acl/p", "plain/f", "plain/d", "plain/p")
        modes = [view.stat(name).stat.st_mode & 0o777 for name in names]
        assert modes == [0o640, 0o750, 0o640, 0o600, 0o700, 0o600]


@as_root
def test_a_default_acl_is_inherited_by_the_files_of_others_and_over_whiteouts(
    stack: Stack,
) -> None:
    acl = default_acl()
    stack.add({"d": Dir(mode=0o777, xattrs={DEFAULT_ACL: acl}), "d/gone": File()})
    with stack.open() as view:
        view.caller = Caller(1234, 4321)
        view.unlink("d/gone")
        view.mkdir("d/gone", mode=0o777)
        view.create("d/f", mode=0o666)
        assert view.xattrs("d/gone")[DEFAULT_ACL] == acl
        assert view.stat("d/f").stat.st_mode & 0o777 == 0o640
        assert view.stat("d/f").uid == 1234


def test_files_are_made_over_whiteouts_that_hide_nothing(stack: Stack) -> None:
    stack.add({"f": File()})
    os.makedirs(os.path.join(stack.upper, "d"))
    for name in ("file", "directory"):
        os.mknod(os.path.join(stack.upper, "d", name), stat.S_IFCHR, WHITEOUT_DEVICE)
    with stack.open() as view:
        view.create("d/file", b"x")
        view.mkdir("d/directory")
        view.create("d/directory/below")
        with refused(errno.EEXIST):
            view.create("d/file")
        assert sorted(view.names("d")) == ["directory", "file"]
        assert view.read("d/file") == b"x"


def test_a_hard_link_is_one_file_with_two_names(stack: Stack) -> None:
    stack.add({"lower": File(b"x"), "d": Dir()})
    with stack.open() as view:
        view.create("upper", b"x")
        for name in ("lower", "upper"):
            view.link(name, f"d/{name}")
            assert view.nodeid(name) == view.nodeid(f"d/{name}")
            assert view.stat(name).link_count == 2
            view.write(f"d/{name}", b"y")
            assert view.read(name) == b"y"


def test_a_hard_link_takes_the_place_of_what_was_removed(stack: Stack) -> None:
    stack.add({"f": File(b"x"), "gone": File()})
    with stack.open() as view:
        view.unlink("gone")
        view.link("f", "gone")
        assert view.nodeid("gone") == view.nodeid("f")


@as_root
def test_one_more_hard_link_of_a_lowers_hard_links(stack: Stack) -> None:
    stack.add({"a": File(b"x"), "b": Link("a")})
    with stack.open() as view:
        view.link("a", "c")
        assert {view.stat(name).link_count for name in "abc"} == {3}
        assert len({view.nodeid(name) for name in "abc"}) == 1
        view.write("b", b"y")
        assert view.read("c") == b"y"


def test_a_file_whose_last_name_is_gone_gets_no_new_one(stack: Stack) -> None:
    stack.add({})
    with stack.open() as view:
        node = view.create("f")
        with view.opened("f"):
            view.unlink("f")
            with refused(errno.ENOENT):
                view.filesystem.creation.link(node, view.filesystem.root, b"again")
    assert os.listdir(stack.upper) == []


def test_a_socket_in_the_upper_can_be_bound_to(stack: Stack) -> None:
    stack.add({})
    with stack.open() as view:
        view.mknod("s", stat.S_IFSOCK | 0o700)
        made = os.path.join(stack.upper, "s")
        assert stat.S_ISSOCK(os.stat(made).st_mode)
        with socket.socket(socket.AF_UNIX) as client, refused(errno.ECONNREFUSED):
            client.connect(made)  # a socket without a listener


def default_acl() -> bytes:
    """user::rwx, group::r-x, other::---, as linux/posix_acl_xattr.h lays it out."""
    entries = ((0x01, 7), (0x04, 5), (0x20, 0))
    packed = (tag.to_bytes(2, "little") + mode.to_bytes(2, "little") for tag, mode in entries)
    return b"\2\0\0\0" + b"".join(entry + b"\xff" * 4 for entry in packed)
