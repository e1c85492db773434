"""Extended attributes: user.*, trusted.*, security.*; the overlay's own markers stay hidden."""

from __future__ import annotations

import errno
import os
import struct
import tempfile
from collections.abc import Iterator
from functools import partial

from ..files import list_names, opened, read_file, write_file
from ..processes import ALICE, BOB, run_as_user
from ..refusals import refused, unless_refused
from ..table import ROOT_ONLY, Dir, File, Symlink, behaviour

SOME = {"user.one": b"1", "user.two": b"\0binary\xff"}
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
"""cap_net_bind_service=ep, as security.capability holds it (linux/capability.h, VFS_CAP_REVISION_2)."""


def _own(path: str) -> dict[str, bytes]:
    return {name: os.getxattr(path, name) for name in os.listxattr(path) if "user." in name}


@behaviour(lower={"f": File(b"x", xattrs=SOME), "d": Dir(xattrs=SOME)})
def check_lower_xattrs_are_read_and_listed() -> None:
    assert _own("f") == _own("d") == SOME


@behaviour(lower={"f": File(b"x", xattrs=SOME), "d": Dir(xattrs=SOME)})
def check_xattrs_survive_copy_up() -> None:
    write_file("f", b"changed")
    write_file("d/new", b"")
    assert _own("f") == _own("d") == SOME


@behaviour(lower={"f": File(b"x", xattrs=SOME), "d": Dir(xattrs=SOME)}, remount=True)
def check_xattrs_survive_a_remount() -> Iterator[None]:
    os.setxattr("f", "user.three", b"3")
    os.removexattr("d", "user.one")
    yield
    assert _own("f") == {**SOME, "user.three": b"3"}
    assert _own("d") == {"user.two": SOME["user.two"]}


@behaviour(lower={"f": File(b"x", xattrs=SOME)})
def check_a_lower_xattr_is_replaced_and_removed() -> None:
    os.setxattr("f", "user.one", b"new", os.XATTR_REPLACE)
    os.removexattr("f", "user.two")
    assert _own("f") == {"user.one": b"new"}
    assert read_file("f") == b"x"


@behaviour(lower={"f": File(xattrs=SOME)})
def check_create_refuses_and_replace_needs_what_exists() -> None:
    with refused(errno.EEXIST):
        os.setxattr("f", "user.one", b"", os.XATTR_CREATE)
    with refused(errno.ENODATA):
        os.setxattr("f", "user.missing", b"", os.XATTR_REPLACE)


@behaviour(lower={"f": File()})
def check_a_missing_xattr_fails_with_enodata() -> None:
    with refused(errno.ENODATA):
        os.getxattr("f", "user.missing")
    with refused(errno.ENODATA):
        os.removexattr("f", "user.missing")


@behaviour(lower={"f": File()})
def check_xattrs_may_be_empty_and_long() -> None:
    os.setxattr("f", "user.empty", b"")
    os.setxattr("f", "user.long", b"v" * 2000)
    os.setxattr("f", "user." + "n" * 250, b"1")
    assert os.getxattr("f", "user.empty") == b""
    assert os.getxattr("f", "user.long") == b"v" * 2000
    assert len(os.listxattr("f")) == 3


@behaviour(lower={"f": File()})
def check_names_that_are_no_xattrs_are_refused() -> None:
    with refused(errno.EOPNOTSUPP):
        os.setxattr("f", "nonsense", b"")
    with refused(errno.EOPNOTSUPP):
        os.setxattr("f", "unknown.name", b"")
    with refused(errno.ERANGE):
        os.setxattr("f", "user." + "n" * 251, b"")
    with refused(errno.E2BIG):
        os.setxattr("f", "user.big", b"v" * 65537)


@behaviour(lower={"f": File(xattrs=SOME)})
def check_a_descriptor_reads_and_sets_xattrs() -> None:
    with opened("f", os.O_RDONLY) as fd:
        os.setxattr(fd, "user.three", b"3")
        assert sorted(os.listxattr(fd)) == ["user.one", "user.three", "user.two"]
        assert os.getxattr("f", "user.three") == b"3"


@behaviour(lower={"link": Symlink("f"), "f": File(xattrs=SOME)})
def check_symlinks_take_no_user_xattrs() -> None:
    with refused(errno.EPERM):
        os.setxattr("link", "user.x", b"", follow_symlinks=False)
    assert os.getxattr("link", "user.one") == b"1"


@behaviour(lower={"f": File(mode=0o644, uid=ALICE, xattrs=SOME)}, identities=ROOT_ONLY)
def check_xattrs_follow_the_permissions_of_the_file() -> None:
    def act() -> None:
        assert os.getxattr("f", "user.one") == b"1"
        with refused(errno.EACCES):
            os.setxattr("f", "user.one", b"2")
        with refused(errno.EACCES):
            os.removexattr("f", "user.one")

    run_as_user(BOB, act)
    run_as_user(ALICE, lambda: os.setxattr("f", "user.one", b"2"))


@behaviour(lower={"f": File(xattrs={"trusted.mine": b"t"})}, identities=ROOT_ONLY)
def check_trusted_xattrs_are_for_root() -> None:
    assert os.getxattr("f", "trusted.mine") == b"t"
    os.setxattr("f", "trusted.other", b"o")
    assert {"trusted.mine", "trusted.other"} <= set(os.listxattr("f"))

    def act() -> None:
        with refused(errno.EPERM, errno.ENODATA):
            os.getxattr("f", "trusted.mine")
        assert not [name for name in os.listxattr("f") if name.startswith("trusted.")]

    run_as_user(ALICE, act)


def _check_not_markers(prefix: str) -> Iterator[None]:
    """Check attributes of a program with the names of markers; kernels before 6.7 cannot store them."""

    def set_attribute(name: str) -> bool:
        os.setxattr("d", name, b"y")
        return True

    names = [f"{prefix}.overlay.{name}" for name in ("opaque", "whiteout", "redirect", "mine")]
    kept = [
        name for name in names if unless_refused(errno.EOPNOTSUPP, partial(set_attribute, name))
    ]
    yield
    assert list_names("d") == ["f"]
    assert sorted(name for name in os.listxattr("d") if ".overlay." in name) == sorted(kept)
    assert all(os.getxattr("d", name) == b"y" for name in kept)


@behaviour(lower={"d": Dir(), "d/f": File(b"x")}, remount=True, identities=ROOT_ONLY)
def check_an_attribute_with_a_markers_name_is_no_marker() -> Iterator[None]:
    yield from _check_not_markers("trusted")


@behaviour(lower={"d": Dir(), "d/f": File(b"x")}, remount=True, identities=ROOT_ONLY)
def check_an_attribute_with_the_name_of_another_overlays_marker_is_no_marker() -> Iterator[None]:
    yield from _check_not_markers("user")


@behaviour(lower={"d": Dir(), "d/f": File(b"x")}, remount=True, identities=("userns", "ordinary"))
def check_a_users_attribute_with_a_markers_name_is_no_marker() -> Iterator[None]:
    yield from _check_not_markers("user")


@behaviour(
    {"d": Dir(opaque=True), "f": File()},
    {"d": Dir(), "d/hidden": File()},
)
def check_the_overlays_markers_are_not_listed() -> None:
    os.mkdir("d/s")
    write_file("f", b"changed")
    os.unlink("f")
    os.mkdir("f")
    found = [name for path in ("d", "d/s", "f") for name in os.listxattr(path)]
    assert not [name for name in found if ".overlay." in name]


def _anyone_may_set_security_xattrs() -> bool:
    """Whether this kernel asks the caller for no capability, on any file system, as Debian's 6.1 does.

    The VFS leaves security.* to the security modules (fs/xattr.c, xattr_permission).
    """
    with tempfile.TemporaryFile() as file:
        try:
            os.setxattr(file.fileno(), "security.mine", b"")
        except PermissionError:
            return False
        return True


@behaviour(lower={"f": File(xattrs={"security.mine": b"s"}), "d": Dir()}, identities=ROOT_ONLY)
def check_security_xattrs_survive_copy_up_and_are_for_root_to_set() -> None:
    os.rename("f", "d/f")
    assert os.getxattr("d/f", "security.mine") == b"s"
    os.setxattr("d/f", "security.mine", b"t")
    os.setxattr("d", "security.other", b"o")

    def act() -> None:
        assert os.getxattr("d/f", "security.mine") == b"t"
        if _anyone_may_set_security_xattrs():
            return
        with refused(errno.EPERM, errno.EACCES):
            os.setxattr("d/f", "security.mine", b"u")

    run_as_user(ALICE, act)
    os.removexattr("d/f", "security.mine")
    assert "security.mine" not in os.listxattr("d/f")
    assert os.getxattr("d", "security.other") == b"o"


@behaviour(
    lower={"f": File(b"x", xattrs={"security.capability": CAPABILITY})}, identities=ROOT_ONLY
)
def check_file_capabilities_survive_copy_up() -> None:
    os.utime("f")
    os.chmod("f", 0o755)
    assert os.getxattr("f", "security.capability") == CAPABILITY


@behaviour(
    lower={"f": File(b"x", xattrs={"security.capability": CAPABILITY})}, identities=ROOT_ONLY
)
def check_file_capabilities_are_cleared_by_a_write() -> None:
    with opened("f", os.O_WRONLY) as fd:
        os.write(fd, b"y")
    with refused(errno.ENODATA):
        os.getxattr("f", "security.capability")


@behaviour(
    lower={
        name: File(b"xyz", xattrs={"security.capability": CAPABILITY}) for name in ("f", "g", "h")
    },
    identities=ROOT_ONLY,
)
def check_file_capabilities_are_cleared_by_every_truncation() -> None:
    os.truncate("f", 1)
    with opened("g", os.O_RDWR) as fd:
        os.ftruncate(fd, 1)
    with opened("h", os.O_WRONLY | os.O_TRUNC):
        pass
    for name in ("f", "g", "h"):
        with refused(errno.ENODATA):
            os.getxattr(name, "security.capability")


@behaviour(
    lower={"f": File(b"x", xattrs={"security.capability": CAPABILITY}), "d": Dir()},
    identities=ROOT_ONLY,
    remount=True,
)
def check_file_capabilities_survive_a_move_and_a_remount() -> Iterator[None]:
    os.rename("f", "d/g")
    os.link("d/g", "h")
    yield
    assert os.getxattr("h", "security.capability") == CAPABILITY


@behaviour(
    lower={"f": File(b"x", xattrs={"security.capability": CAPABILITY})}, identities=ROOT_ONLY
)
def check_file_capabilities_are_cleared_by_chown() -> None:
    os.chown("f", ALICE, ALICE)
    with refused(errno.ENODATA):
        os.getxattr("f", "security.capability")


@behaviour(lower={"f": File(b"x", xattrs=SOME), "d": Dir()})
def check_xattrs_move_along_with_a_rename() -> None:
    os.rename("f", "d/g")
    assert _own("d/g") == SOME
    assert list_names("d") == ["g"]
