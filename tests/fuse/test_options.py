"""Mount options take effect for every program in the mount."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess

import pytest

from overlaykit.fuse.spec import IdRange, IdSpec, MountFlags, MountOptions

from ..crash.disks import image, mounted_image
from ..overlay.inside import as_ordinary_user, as_root
from ..overlay.stack import Stack
from ..overlay.view import refused
from ..posix.acl import ACCESS
from ..posix.behaviours.permissions import ALICE_READS
from ..posix.files import read_file
from ..posix.processes import ALICE, run_as_user
from ..posix.table import Dir, File, Link
from .mounted import mounted


def test_without_xattr_a_program_gets_enotsup(stack: Stack) -> None:
    stack.add({"f": File(b"x", xattrs={"user.k": b"v"})})
    options = MountOptions(userxattr=stack.unprivileged, xattr=False)
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
def test_access_control_lists_have_effect_unless_mounted_with_noacl(
    stack: Stack, acl: bool
) -> None:
    """Without them the mode alone decides."""
    os.chmod(stack.directory, 0o755)
    stack.add({"f": File(b"x", mode=0o600, xattrs={ACCESS: ALICE_READS})})
    with mounted(stack, options=MountOptions(acl=acl)) as mount:

        def read() -> None:
            with contextlib.nullcontext() if acl else refused(errno.EACCES):
                read_file(mount.path("f"))

        run_as_user(ALICE, read)
        if not acl:  # as a disk that is mounted so
            assert os.listxattr(mount.path("f")) == []
            with refused(errno.EOPNOTSUPP):
                os.getxattr(mount.path("f"), ACCESS)
            with refused(errno.EOPNOTSUPP):
                os.setxattr(mount.path("f"), ACCESS, ALICE_READS)


@as_root
def test_all_files_are_shown_as_one_owners(stack: Stack) -> None:
    stack.add({"f": File(uid=1, gid=2), "d": Dir(uid=3)})
    options = MountOptions(users=IdSpec(squash_to=1000), groups=IdSpec(squash_to=100))
    with mounted(stack, options=options) as mount:
        for name in ("f", "d"):
            st = os.stat(mount.path(name))
            assert (st.st_uid, st.st_gid) == (1000, 100)


@as_root
def test_ranges_of_owners_are_shown_shifted(stack: Stack) -> None:
    stack.add({"f": File(uid=100_000, gid=100_005), "other": File(uid=5)})
    shifted = IdSpec(mapping=(IdRange(host=100_000, container=0, count=65_536),))
    with mounted(stack, options=MountOptions(users=shifted, groups=shifted)) as mount:
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
    options = MountOptions(userxattr=stack.unprivileged, volatile=True)
    with mounted(stack, options=options) as mount, open(mount.path("f"), "r+b") as file:
        file.write(b"y" * 100_000)
        file.flush()
        os.fsync(file.fileno())
    assert os.stat(os.path.join(stack.upper, "f")).st_size == 100_000


def test_every_directory_has_one_link_where_asked_to(stack: Stack) -> None:
    stack.add({})
    options = MountOptions(userxattr=stack.unprivileged)
    for static, links in (False, 3), (True, 1):
        with mounted(stack, options=options.replace(static_nlink=static)) as mount:
            os.makedirs(mount.path("d/e"), exist_ok=True)
            assert os.stat(mount.path("d")).st_nlink == links


def test_the_kernel_looks_up_again_after_the_timeout(stack: Stack) -> None:
    stack.add({"f": File(b"x")})
    options = MountOptions(userxattr=stack.unprivileged)
    for timeout, asks in (None, False), (0.0, True), (1e30, False):
        with mounted(stack, options=options.replace(timeout=timeout)) as mount:
            os.stat(mount.path("f"))
            with mount.requests() as requests:
                os.stat(mount.path("f"))
            assert bool(requests) is asks


def test_with_sync_a_write_is_synced_before_it_returns(stack: Stack) -> None:
    stack.add({"f": File(b"x")})
    for sync in (True, False):
        flags = MountFlags(sync=sync)
        with mounted(stack, flags=flags) as mount, open(mount.path("f"), "ab", buffering=0) as file:
            with mount.requests() as requests:
                file.write(b"y")
            assert requests["fsync"] == (1 if sync else 0)


@as_root  # to mount an image
def test_hard_links_stay_one_file_on_a_copy_of_the_disk_with_uuid_off(stack: Stack) -> None:
    """The copy has another uuid. With uuid=off no origin names one."""
    with image(stack.directory, "mkfs.ext4", "-q", megabytes=8) as (file, path):
        on_disk = Stack(path, unprivileged=stack.unprivileged)
        on_disk.add({"f": File(b"x"), "g": Link("f")})
        with (
            mounted(on_disk, options=MountOptions(uuid=False)) as mount,
            open(mount.path("f"), "ab") as changed,
        ):
            changed.write(b"y")
    subprocess.run(["tune2fs", "-U", "random", file], check=True, capture_output=True)
    with mounted_image(file, path):
        for uuid, content in (True, b"x"), (False, b"xy"):
            with mounted(on_disk, options=MountOptions(uuid=uuid)) as mount:
                assert read_file(mount.path("g")) == content


@as_ordinary_user
@pytest.mark.parametrize(
    ("users", "groups"),
    [
        (IdSpec(squash_to=0), IdSpec(squash_to=0)),
        (IdSpec(squash_to=0), IdSpec()),
        (IdSpec(), IdSpec(squash_to=0)),
    ],
)
def test_files_of_the_machine_are_written_to_by_root_of_a_namespace_where_squashed(
    stack: Stack, users: IdSpec, groups: IdSpec
) -> None:
    """The kernel refuses writes to a file whose owner or group the user namespace does not map."""
    stack.lowers.append("/etc/dpkg")
    options = MountOptions(userxattr=True, users=users, groups=groups)
    with mounted(stack, options=options) as mount:
        with open(mount.path("dpkg.cfg"), "a") as file:
            file.write("# more\n")
        os.mkdir(mount.path("new"))
        os.chown(mount.path("dpkg.cfg"), 0, 0)
        st = os.stat(mount.path("dpkg.cfg"))
        assert (st.st_uid, st.st_gid) == (0, 0)
    for name in ("dpkg.cfg", "new"):
        st = os.stat(os.path.join(stack.upper, name))
        assert (st.st_uid, st.st_gid) == (os.geteuid(), os.getegid())
