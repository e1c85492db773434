"""Owners and modes in an xattr (xattr_permissions): programs see them, the real files do not have them."""

from __future__ import annotations

import errno
import os
import stat
import traceback

import pytest

from overlaykit.fuse.daemon import MountRefused
from overlaykit.fuse.spec import MountOptions

from ..overlay.inside import as_root
from ..overlay.stack import Stack
from ..overlay.view import refused
from ..posix.behaviours.permissions import ALICE_READS
from ..posix.table import Dir, File, Symlink
from .mounted import mounted

pytestmark = pytest.mark.as_each_user

NAME = "user.containers.override_stat"
KEPT = MountOptions(xattr_permissions=2)


def shown(path: str) -> tuple[int, int, int]:
    st = os.lstat(path)
    return st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)


@as_root
def test_a_new_owner_and_mode_are_shown_and_the_real_file_keeps_its_own(stack: Stack) -> None:
    stack.add({"f": File(b"x", mode=0o640), "d": Dir(mode=0o750), "d/g": File(b"y")})
    with mounted(stack, options=KEPT) as mount:
        for name in ("f", "d"):
            os.chown(mount.path(name), 1234, 5678)
            os.chmod(mount.path(name), 0o4711)
            assert shown(mount.path(name)) == (1234, 5678, 0o4711)
        assert shown(mount.path("d/g")) == (0, 0, 0o644)
    for name, own in (("f", 0o711), ("d", 0o711)):
        path = os.path.join(stack.upper, name)
        assert shown(path) == (0, 0, own)
        assert os.getxattr(path, NAME) == b"1234:5678:4711"
    with mounted(stack, options=KEPT) as mount:
        assert shown(mount.path("f")) == (1234, 5678, 0o4711)
        with open(mount.path("f")) as file:
            assert file.read() == "x"


@as_root
def test_what_is_made_belongs_to_its_maker_and_inherits_the_directorys_group(stack: Stack) -> None:
    stack.add({"plain": Dir(mode=0o777), "shared": Dir(mode=0o2777, gid=77)})
    with mounted(stack, options=KEPT) as mount:
        pid = os.fork()
        if pid == 0:
            try:
                os.chdir(mount.target)
                os.setgroups([])
                os.setresgid(200, 200, 200)
                os.setresuid(100, 100, 100)
                os.umask(0o027)
                for directory in ("plain", "shared"):
                    os.close(os.open(f"{directory}/f", os.O_CREAT, 0o666))
                    os.mkdir(f"{directory}/d")
                    os.symlink("f", f"{directory}/s")
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        for _ in range(2):
            assert shown(mount.path("plain/f")) == (100, 200, 0o640)
            assert shown(mount.path("plain/d")) == (100, 200, 0o750)
            assert shown(mount.path("shared/f")) == (100, 77, 0o640)
            assert shown(mount.path("shared/d")) == (100, 77, 0o2750)
            assert shown(mount.path("plain/s"))[:2] == (100, 200)
    assert shown(os.path.join(stack.upper, "shared", "d")) == (0, 0, 0o750)


@as_root
def test_a_file_keeps_the_owner_that_the_lower_shows(stack: Stack) -> None:
    marked = File(b"x", xattrs={NAME: b"7:8:0100600"})
    root = stack.add({"f": marked, "g": File(b"y", uid=5, gid=6, mode=0o604), "s": Symlink("f")})
    os.setxattr(root, NAME, b"0:0:755")
    with mounted(stack, options=KEPT) as mount:
        assert shown(mount.path("f")) == (7, 8, 0o600)
        assert shown(mount.path("g")) == (5, 6, 0o604)
        for name in ("f", "g"):
            with open(mount.path(name), "a") as file:
                file.write("z")
        assert shown(mount.path("f")) == (7, 8, 0o600)
        assert shown(mount.path("g")) == (5, 6, 0o604)
        assert NAME not in os.listxattr(mount.path("f"))
        with refused(errno.ENODATA):
            os.getxattr(mount.path("f"), NAME)
        with refused(errno.EPERM):
            os.setxattr(mount.path("f"), NAME, b"0:0:777")
    assert os.getxattr(os.path.join(stack.upper, "f"), NAME) == b"7:8:600"
    assert os.getxattr(os.path.join(stack.upper, "g"), NAME) == b"5:6:604"


@as_root
def test_the_attribute_has_no_effect_without_the_option(stack: Stack) -> None:
    root = stack.add({"f": File(b"x", uid=1000, xattrs={NAME: b"0:0:4755"})})
    os.setxattr(root, NAME, b"0:0:755")
    with mounted(stack) as mount:
        assert shown(mount.path("f")) == (1000, 0, 0o644)
        assert os.getxattr(mount.path("f"), NAME) == b"0:0:4755"


@as_root
def test_a_lower_that_root_wrote_is_read_and_copied_up_with_what_it_shows(stack: Stack) -> None:
    name = "security.fuseoverlayfs.override_stat"
    root = stack.add({"f": File(b"x", xattrs={name: b"7:8:2640"})})
    os.setxattr(root, name, b"0:0:755")
    with mounted(stack) as mount:
        assert shown(mount.path("f")) == (7, 8, 0o2640)
        os.utime(mount.path("f"))
        assert shown(mount.path("f")) == (7, 8, 0o2640)
    upper = os.path.join(stack.upper, "f")
    assert shown(upper) == (7, 8, 0o2640)
    assert name not in os.listxattr(upper)


def test_an_ordinary_user_gives_files_away_in_appearance(stack: Stack) -> None:
    stack.add({"f": File(b"x")})
    with mounted(
        stack, options=MountOptions(userxattr=stack.unprivileged, xattr_permissions=2)
    ) as mount:
        before = shown(mount.path("f"))
        os.chmod(mount.path("f"), 0o1604)
        assert shown(mount.path("f")) == (*before[:2], 0o1604)
    assert os.getxattr(os.path.join(stack.upper, "f"), NAME) == b"%d:%d:1604" % before[:2]


@as_root
@pytest.mark.parametrize("garbage", [b"nonsense", b"-5:0:644", b"1_0:0:644", b"4294967295:0:644"])
def test_garbage_in_the_attribute_is_an_error_of_the_disk(stack: Stack, garbage: bytes) -> None:
    root = stack.add({"f": File(b"x", xattrs={NAME: garbage}), "g": File(b"y")})
    os.setxattr(root, NAME, b"0:0:755")
    with mounted(stack, options=KEPT) as mount:
        assert sorted(os.listdir(mount.target)) == ["f", "g"]
        with pytest.raises(OSError, match="Input/output error"):
            os.stat(mount.path("f"))
        assert shown(mount.path("g")) == (0, 0, 0o644)


@as_root
def test_what_was_set_before_the_option_was_does_not_count(stack: Stack) -> None:
    stack.add({})
    with mounted(stack) as mount:
        with open(mount.path("f"), "w"):
            pass
        os.setxattr(mount.path("f"), NAME, b"0:0:4755")
    with (
        pytest.raises(MountRefused, match="made without xattr_permissions"),
        mounted(stack, options=KEPT),
    ):
        pass


@as_root
def test_there_are_no_access_control_lists_with_it(stack: Stack) -> None:
    stack.add({"f": File(b"x")})
    with mounted(stack, options=KEPT) as mount, refused(errno.EOPNOTSUPP):
        os.setxattr(mount.path("f"), "system.posix_acl_access", ALICE_READS)


@as_root
def test_an_upper_of_fuse_overlayfs_goes_on_as_it_is(stack: Stack) -> None:
    older = "user.fuseoverlayfs.override_stat"
    stack.add({})
    os.mkdir(stack.upper)
    os.setxattr(stack.upper, older, b"0:0:40755")
    path = os.path.join(stack.upper, "f")
    with open(path, "w"):
        os.setxattr(path, older, b"7:8:100640")
    with mounted(stack, options=KEPT) as mount:
        assert shown(mount.path("f")) == (7, 8, 0o640)
        os.chown(mount.path("f"), 9, -1)
        assert os.listxattr(mount.path("f")) == []
    assert os.getxattr(path, older) == b"9:8:640"
    assert NAME not in os.listxattr(path)
