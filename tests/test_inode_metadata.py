"""Copy-up copies owner, xattrs, ACLs, mode and times, and gives no user more rights."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import tempfile

import pytest

from overlaykit import _native, inodes

from .native.sandbox import (
    become_ordinary,
    enter,
    enter_mount_namespace,
    enter_user_namespace,
    needs_root,
    refused,
    run,
    sandboxed,
    sandboxed_on_disk,
)

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"

# linux/posix_acl.h: the tags of an ACL's entries, in the order that the kernel demands.
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20

CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
"""cap_net_raw=ep, as linux/capability.h lays it out."""

FOREIGN_CAPABILITY = struct.pack("<6I", 0x03000001, 1 << 13, 0, 0, 0, 4321)
"""The same, but only in user namespaces whose root is uid 4321 outside."""


def acl(*entries: tuple[int, int] | tuple[int, int, int]) -> bytes:
    """An ACL as linux/posix_acl_xattr.h lays it out, of (tag, permissions[, id])."""
    return struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, permissions, named[0] if named else 0xFFFFFFFF)
        for tag, permissions, *named in entries
    )


def create(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)


def link(path: str) -> int:
    """An O_PATH descriptor of a path; of a symlink itself."""
    return os.open(path, os.O_PATH | os.O_NOFOLLOW)


@sandboxed
def test_mode_and_times_are_exact() -> None:
    src, dst = create("src"), create("dst")
    os.fchmod(src, 0o6754)
    os.utime(src, ns=(-1, 1_700_000_000_123_456_789))
    inodes.copy(src, dst)
    copy = os.fstat(dst)
    assert stat.S_IMODE(copy.st_mode) == 0o6754
    assert (copy.st_atime_ns, copy.st_mtime_ns) == (-1, 1_700_000_000_123_456_789)


@sandboxed
def test_the_copy_has_the_access_time_from_before_the_read() -> None:
    src, dst = create("src"), create("dst")
    os.write(src, b"content")
    os.utime(src, ns=(5, 5))
    inodes.copy(src, dst)
    assert os.fstat(dst).st_atime_ns == 5


@sandboxed_on_disk
def test_xattrs_are_copied_except_those_to_skip() -> None:
    src, dst = create("src"), create("dst")
    kept = {
        "user.empty": b"",
        "user.big": bytes(range(256)) * 4,
        "user.overlaid": b"1",
        "user.overlay.overlay.opaque": b"y",
    }
    for name, value in {**kept, "user.overlay.opaque": b"y", "user.other": b"x"}.items():
        os.setxattr(src, name, value)
    inodes.copy(
        src,
        dst,
        skip_xattrs=(b"user.overlay.", b"user.other"),
        keep_xattrs=(b"user.overlay.overlay.",),
    )
    assert {name: os.getxattr(dst, name) for name in os.listxattr(dst)} == kept


@sandboxed_on_disk
def test_a_directory_keeps_its_acls() -> None:
    os.mkdir("src")
    os.mkdir("dst")
    access = acl((USER_OBJ, 7), (USER, 6, 0), (GROUP_OBJ, 4), (GROUP, 5, 0), (MASK, 7), (OTHER, 0))
    default = acl((USER_OBJ, 7), (USER, 0, 0), (GROUP_OBJ, 5), (MASK, 5), (OTHER, 5))
    os.setxattr("src", ACCESS, access)
    os.setxattr("src", DEFAULT, default)
    assert inodes.copy(link("src"), os.open("dst", os.O_RDONLY)) == "none"
    assert os.getxattr("dst", ACCESS) == access
    assert os.getxattr("dst", DEFAULT) == default
    assert os.stat("dst").st_mode == os.stat("src").st_mode


@sandboxed
def test_an_xattr_that_the_disk_cannot_hold_is_left_out_but_an_acl_is_not() -> None:
    os.mkdir("bare")
    _native.mount("none", "bare", "ramfs", 0)
    src, dst = create("src"), create("bare/dst")
    inodes.copy(src, dst)
    os.setxattr(
        src, ACCESS, acl((USER_OBJ, 6), (USER, 4, 0), (GROUP_OBJ, 4), (MASK, 4), (OTHER, 0))
    )
    with refused(errno.EOPNOTSUPP):
        inodes.copy(src, dst)
    inodes.copy(src, dst, skip_xattrs=(b"system.",))


@sandboxed_on_disk
def test_user_xattrs_are_left_out_where_the_disk_has_none() -> None:
    src = create("src")
    os.setxattr(src, "user.name", b"value")
    _native.mount("none", "/mnt", "ramfs", 0)
    dst = create("/mnt/dst")
    inodes.copy(src, dst)
    assert os.listxattr("src") == ["user.name"]


@sandboxed_on_disk
def test_file_capabilities_and_the_setuid_bit_survive() -> None:
    src, dst = create("src"), create("dst")
    os.write(src, b"content")
    os.setxattr(src, "security.capability", CAPABILITY)
    os.fchmod(src, 0o4755)
    inodes.copy(src, dst)
    assert os.getxattr(dst, "security.capability") == CAPABILITY
    assert stat.S_IMODE(os.fstat(dst).st_mode) == 0o4755


@needs_root
def test_root_keeps_owner_capabilities_trusted_xattrs_and_setuid_at_once() -> None:
    def body() -> None:
        enter("root")
        src, dst = create("src"), create("dst")
        os.write(src, b"content")
        os.fchown(src, 12, 34)
        os.fchmod(src, 0o6755)
        os.setxattr(src, "security.capability", CAPABILITY)
        os.setxattr(src, "trusted.name", b"value")
        inodes.copy(src, dst)
        copy = os.fstat(dst)
        assert (copy.st_uid, copy.st_gid, stat.S_IMODE(copy.st_mode)) == (12, 34, 0o6755)
        assert os.getxattr(dst, "security.capability") == CAPABILITY
        assert os.getxattr(dst, "trusted.name") == b"value"
        inodes.copy(src, dst, uid=56)
        assert (os.fstat(dst).st_uid, os.fstat(dst).st_gid) == (56, 34)
        inodes.copy(src, dst, gid=(1 << 32) - 2)
        assert (os.fstat(dst).st_uid, os.fstat(dst).st_gid) == (12, (1 << 32) - 2)

    run(body)


@sandboxed
def test_symlinks_fifos_and_sockets_are_copied_themselves() -> None:
    for side in ("src", "dst"):
        os.mkdir(side)
        os.symlink("target", f"{side}/symlink")
        os.mkfifo(f"{side}/fifo", 0o600)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{side}/socket")
        os.close(create(f"{side}/target"))
    os.chmod("src/fifo", 0o751)
    os.chmod("src/socket", 0o1222)
    untouched = os.stat("dst/target")
    for number, name in enumerate(("symlink", "fifo", "socket")):
        times = (number, 1_600_000_000_000_000_000 + number)
        os.utime(f"src/{name}", ns=times, follow_symlinks=False)
        assert inodes.copy(link(f"src/{name}"), link(f"dst/{name}")) == "none"
        src, dst = os.lstat(f"src/{name}"), os.lstat(f"dst/{name}")
        assert (dst.st_atime_ns, dst.st_mtime_ns) == times
        assert dst.st_mode == src.st_mode
    assert os.stat("dst/target") == untouched


@needs_root
def test_links_and_devices_keep_owner_and_xattrs() -> None:
    def body() -> None:
        enter("root")
        for side in ("src", "dst"):
            os.symlink("nowhere", f"{side}-symlink")
            os.mknod(f"{side}-device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        for name in ("symlink", "device"):
            os.chown(f"src-{name}", 12, 34, follow_symlinks=False)
            os.setxattr(f"src-{name}", "trusted.name", b"value", follow_symlinks=False)
            inodes.copy(link(f"src-{name}"), link(f"dst-{name}"))
            copy = os.lstat(f"dst-{name}")
            assert (copy.st_uid, copy.st_gid) == (12, 34)
            assert os.getxattr(f"dst-{name}", "trusted.name", follow_symlinks=False) == b"value"

    run(body)


# ---- what a user may not do -------------------------------------------------------------------


def test_an_ordinary_user_cannot_give_files_away() -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o777)

        def body() -> None:
            become_ordinary()
            os.chdir(directory)
            src, dst = create("src"), create("dst")
            with refused(errno.EPERM):
                inodes.copy(src, dst, uid=0)

        run(body)


@sandboxed
def test_an_owner_that_is_no_id_is_refused() -> None:
    src, dst = create("src"), create("dst")
    for uid in (-2, (1 << 32) - 1, 1 << 64):
        with pytest.raises(OverflowError):
            inodes.copy(src, dst, uid=uid)


@needs_root
@pytest.mark.parametrize(
    ("given", "kept"),
    [(CAPABILITY, [CAPABILITY]), (FOREIGN_CAPABILITY, [])],
    ids=["host", "foreign"],
)
def test_a_user_can_change_a_copy_of_a_program_with_capabilities(
    given: bytes, kept: list[bytes]
) -> None:
    def body() -> None:
        enter_mount_namespace()
        _native.mount("none", "/mnt", "tmpfs", 0, "mode=777")
        src = create("/mnt/src")
        os.setxattr(src, "security.capability", given)
        os.setxattr(src, "trusted.name", b"value")
        os.fchmod(src, 0o755)
        become_ordinary()
        enter_user_namespace()
        dst = create("/mnt/dst")
        inodes.copy(os.open("/mnt/src", os.O_RDONLY), dst, uid=0, gid=0)
        assert [os.getxattr(dst, name) for name in os.listxattr(dst)] == kept
        assert stat.S_IMODE(os.fstat(dst).st_mode) == 0o755

    run(body)


@pytest.mark.parametrize(
    ("entries", "mode"),
    [
        # An unmapped user loses the rights of its entry; the group does not gain those of the mask.
        (((USER_OBJ, 6), (USER, 6, 4321), (GROUP_OBJ, 0), (MASK, 6), (OTHER, 4)), 0o604),
        # An unmapped user with an entry of no rights does not gain those of the others or the group.
        (((USER_OBJ, 6), (USER, 0, 4321), (GROUP_OBJ, 4), (MASK, 4), (OTHER, 4)), 0o600),
        (((USER_OBJ, 7), (GROUP_OBJ, 5), (GROUP, 4, 4321), (MASK, 5), (OTHER, 5)), 0o754),
    ],
)
def test_an_acl_with_unmapped_ids_is_left_out_and_gives_no_rights(
    entries: tuple[tuple[int, int]], mode: int
) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        os.chmod(directory, 0o777)

        def body() -> None:
            become_ordinary()
            os.chdir(directory)
            src = create("src")
            os.setxattr(src, ACCESS, acl(*entries))
            enter_user_namespace()
            dst = create("dst")
            inodes.copy(src, dst)
            assert os.listxattr(dst) == []
            assert oct(stat.S_IMODE(os.fstat(dst).st_mode)) == oct(mode)

        run(body)
