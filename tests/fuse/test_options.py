"""What a user asks for when mounting holds for every program in the mount."""

from __future__ import annotations

import contextlib
import errno
import os

import pytest

from overlaykit.fuse.spec import IdRange, IdSpec, Options

from ..overlay.inside import as_root
from ..overlay.stack import Stack
from ..overlay.view import refused
from ..posix.acts import ALICE, as_user, get
from ..posix.behaviours.permissions import ACCESS, ALICE_READS
from ..posix.table import Dir, File
from .mounted import mounted


def test_without_xattrs_a_program_is_told_that_there_are_none(stack: Stack) -> None:
    stack.add({"f": File(b"x", xattrs={"user.k": b"v"})})
    options = Options(userxattr=stack.unprivileged, xattr=False)
    with mounted(stack, options=options) as mount:
        with refused(errno.EOPNOTSUPP):
            os.getxattr(mount.path("f"), "user.k")
        with refused(errno.EOPNOTSUPP):
            os.setxattr(mount.path("f"), "user.k", b"w")
        with open(mount.path("f"), "ab") as file:
            file.write(b"y")
    assert os.getxattr(os.path.join(stack.upper, "f"), "user.k") == b"v"  # copied up all the same


@as_root
@pytest.mark.parametrize("acl", [True, False])
def test_access_control_lists_are_heeded_unless_the_user_said_otherwise(
    stack: Stack, acl: bool
) -> None:
    """The mode alone lets its group read, whatever the list in it says of others."""
    os.chmod(stack.directory, 0o755)
    stack.add({"f": File(b"x", mode=0o600, xattrs={ACCESS: ALICE_READS})})
    with mounted(stack, options=Options(acl=acl)) as mount:

        def read() -> None:
            with contextlib.nullcontext() if acl else refused(errno.EACCES):
                get(mount.path("f"))

        as_user(ALICE, read)
        if not acl:  # as a disk that is mounted so
            assert os.listxattr(mount.path("f")) == []
            with refused(errno.EOPNOTSUPP):
                os.getxattr(mount.path("f"), ACCESS)
            with refused(errno.EOPNOTSUPP):
                os.setxattr(mount.path("f"), ACCESS, ALICE_READS)


@as_root
def test_all_files_are_shown_as_one_owners(stack: Stack) -> None:
    stack.add({"f": File(uid=1, gid=2), "d": Dir(uid=3)})
    options = Options(users=IdSpec(squash_to=1000), groups=IdSpec(squash_to=100))
    with mounted(stack, options=options) as mount:
        for name in ("f", "d"):
            st = os.stat(mount.path(name))
            assert (st.st_uid, st.st_gid) == (1000, 100)


@as_root
def test_ranges_of_owners_are_shown_shifted(stack: Stack) -> None:
    stack.add({"f": File(uid=100_000, gid=100_005), "other": File(uid=5)})
    shifted = IdSpec(mapping=(IdRange(host=100_000, container=0, count=65_536),))
    with mounted(stack, options=Options(users=shifted, groups=shifted)) as mount:
        st = os.stat(mount.path("f"))
        assert (st.st_uid, st.st_gid) == (0, 5)
        assert os.stat(mount.path("other")).st_uid == 65534
        with open(mount.path("new"), "w"):
            pass
        os.chown(mount.path("new"), 7, 8)
        with refused(errno.EINVAL):
            os.chown(mount.path("new"), 70_000, -1)
    st = os.stat(os.path.join(stack.upper, "new"))
    assert (st.st_uid, st.st_gid) == (100_007, 100_008)


def test_a_volatile_mount_loses_nothing_when_it_is_unmounted(stack: Stack) -> None:
    stack.add({"f": File(b"x")})
    options = Options(userxattr=stack.unprivileged, volatile=True)
    with mounted(stack, options=options) as mount, open(mount.path("f"), "r+b") as file:
        file.write(b"y" * 100_000)
        file.flush()
        os.fsync(file.fileno())
    assert os.stat(os.path.join(stack.upper, "f")).st_size == 100_000
