"""Owners shown and stored: unmapped, as root's, as one owner's, or by ranges."""

from __future__ import annotations

import errno
import os

import pytest

from overlaykit import privilege
from overlaykit.overlay.attributes import Caller, Changes
from overlaykit.overlay.owners import AS_THEY_ARE, Ids, Owners, Range, unmapped
from overlaykit.overlay.stack import MergeOptions

from ..posix.table import Dir, File
from .inside import as_ordinary_user, as_root
from .stack import Stack
from .view import refused

# As in the storage of an ordinary user's container: its root is 100000 on disk.
SQUASHED = Ids(
    unmapped=privilege.overflow_id("uid"), unmapped_in_upper=privilege.overflow_id("uid")
)
SHIFTED = Ids(ranges=(Range(disk=100_000, shown=0, count=65_536),))


def test_ids_are_shown_as_they_are_by_default() -> None:
    assert (AS_THEY_ARE.users.shown(65534), AS_THEY_ARE.groups.shown(1234)) == (65534, 1234)
    assert AS_THEY_ARE.users.stored(1234) == 1234


def test_the_overflow_id_alone_is_shown_as_roots() -> None:
    owners = Owners(users=SQUASHED, groups=SQUASHED)
    assert owners.users.shown(privilege.overflow_id("uid")) == 0
    assert owners.users.copied(privilege.overflow_id("uid")) == 0
    assert (owners.users.shown(1), owners.groups.shown(2)) == (1, 2)


def test_in_an_upper_the_overflow_id_is_its_users_where_it_is_mapped() -> None:
    known = Ids(unmapped=65534, unmapped_in_upper=-1)
    assert (known.shown(65534), known.shown(65534, in_upper=True)) == (0, 65534)
    assert (SQUASHED.shown(65534), SQUASHED.shown(65534, in_upper=True)) == (0, 0)


@as_root
def test_where_every_id_is_mapped_no_id_stands_for_unmapped_ones(stack: Stack) -> None:
    for kind in ("uid", "gid"):
        assert unmapped(privilege.overflow_id(kind), privilege.extents(kind)) == (-1, -1)


@as_ordinary_user
def test_where_one_id_is_mapped_the_overflow_id_stands_for_the_others(stack: Stack) -> None:
    overflow = privilege.overflow_id("uid")
    assert unmapped(overflow, privilege.extents("uid")) == (overflow, overflow)


def test_ranges_are_shown_shifted_and_stored_back() -> None:
    for disk, shown in ((100_000, 0), (100_033, 33), (165_535, 65_535)):
        assert SHIFTED.shown(disk) == shown
        assert SHIFTED.stored(shown) == disk


def test_an_id_outside_all_ranges_is_shown_as_the_overflow_id_and_cannot_be_set() -> None:
    assert {SHIFTED.shown(disk) for disk in (0, 99_999, 165_536)} == {SHIFTED.overflow}
    with refused(errno.EINVAL):
        SHIFTED.stored(70_000)


@as_root
def test_files_are_created_and_chowned_with_mapped_ids(stack: Stack) -> None:
    stack.add({"f": File(b"x", uid=100_033, gid=100_033), "d": Dir(uid=100_000, gid=100_000)})
    options = MergeOptions(owners=Owners(users=SHIFTED, groups=SHIFTED))
    with stack.open(options=options, as_kernel=False) as view:  # the kernel shows stored ids
        assert (view.stat("f").uid, view.stat("f").gid) == (33, 33)
        view.write("f", b"y")
        assert view.stat("f").uid == 33
        view.caller = Caller(5, 6)
        view.create("d/new")
        assert (view.stat("d/new").uid, view.stat("d/new").gid) == (5, 6)
        view.change("d/new", Changes(uid=7, gid=8))
        assert (view.stat("d/new").uid, view.stat("d/new").gid) == (7, 8)
        with refused(errno.EINVAL):
            view.change("d/new", Changes(uid=70_000))
    st = os.stat(os.path.join(stack.upper, "d/new"))
    assert (st.st_uid, st.st_gid) == (100_007, 100_008)
    st = os.stat(os.path.join(stack.upper, "f"))
    assert (st.st_uid, st.st_gid) == (100_033, 100_033)


@as_root
def test_a_new_file_of_a_user_outside_all_ranges_is_stored_as_the_overflow_ids(
    stack: Stack,
) -> None:
    stack.add({"d": Dir(uid=100_000, gid=100_000)})
    options = MergeOptions(owners=Owners(users=SHIFTED, groups=SHIFTED))
    with stack.open(options=options, as_kernel=False) as view:
        view.caller = Caller(70_000, 70_000)
        view.symlink("x", "d/l")
        view.mkdir("d/s")
        view.create("d/f")
        for name in ("d/l", "d/s", "d/f"):
            assert (view.stat(name).uid, view.stat(name).gid) == (65534, 65534)
    st = os.lstat(os.path.join(stack.upper, "d/l"))
    assert (st.st_uid, st.st_gid) == (65534, 65534)


@as_ordinary_user
def test_a_new_file_of_a_user_outside_all_ranges_is_the_daemons_where_the_overflow_id_cannot_be_stored(
    stack: Stack,
) -> None:
    stack.add({})
    options = MergeOptions(userxattr=True, owners=Owners(users=SHIFTED, groups=SHIFTED))
    with stack.open(options=options, as_kernel=False) as view:
        view.caller = Caller(70_000, 70_000)
        view.symlink("x", "l")
        assert view.readlink("l") == b"x"
    assert os.lstat(os.path.join(stack.upper, "l")).st_uid == os.geteuid()


@as_root
def test_one_owner_for_all_files_is_shown_and_gets_the_copies(stack: Stack) -> None:
    stack.add({"f": File(b"x", uid=12, gid=34), "d": Dir(uid=12, gid=34), "d/g": File()})
    everybody = Owners(users=Ids(squash_to=1000), groups=Ids(squash_to=100))
    with stack.open(options=MergeOptions(owners=everybody), as_kernel=False) as view:
        assert (view.stat("f").uid, view.stat("f").gid) == (1000, 100)
        view.change("f", Changes(uid=5, gid=6, mode=0o600))
        assert (view.stat("f").uid, view.stat("f").gid) == (1000, 100)
        view.write("d/g", b"y")
        view.create("new")
    for name in ("f", "d", "d/g", "new"):
        st = os.stat(os.path.join(stack.upper, name))
        assert (st.st_uid, st.st_gid) == (1000, 100)


@as_ordinary_user
@pytest.mark.parametrize(
    "owners",
    [
        Owners(users=Ids(squash_to=0), groups=Ids(squash_to=0)),
        Owners(users=Ids(squash_to=1000), groups=Ids(squash_to=1000)),
        Owners(users=Ids(squash_to=0)),
        Owners(groups=Ids(squash_to=0)),
    ],
)
def test_files_of_the_machine_can_be_written_where_owners_are_squashed(
    stack: Stack, owners: Owners
) -> None:
    stack.lowers.append("/etc/dpkg")
    options = MergeOptions(userxattr=True, owners=owners)
    with stack.open(options=options, as_kernel=False, remount=False) as view:
        name = view.names()[0]
        shown = view.stat(name)
        view.setxattr(name, "user.k", b"v")
        view.create("new")
        if owners.users.squash_to is not None:
            assert view.stat(name).uid == shown.uid == view.stat("new").uid
        view.change("new", Changes(uid=owners.users.squash_to, gid=owners.groups.squash_to))
    for path in (name, "new"):
        st = os.stat(os.path.join(stack.upper, path))
        assert (st.st_uid, st.st_gid) == (os.geteuid(), os.getegid())


@as_ordinary_user
def test_a_view_for_an_ordinary_user_shows_the_machines_files_as_roots(stack: Stack) -> None:
    stack.lowers.append("/etc/dpkg")
    options = MergeOptions(userxattr=True, owners=Owners(users=SQUASHED, groups=SQUASHED))
    with stack.open(options=options, as_kernel=False, remount=False) as view:
        name = view.names()[0]
        assert os.stat(os.path.join("/etc/dpkg", name)).st_uid != 0
        assert (view.stat(name).uid, view.stat(name).gid) == (0, 0)
        view.setxattr(name, "user.k", b"v")
        assert (view.stat(name).uid, view.stat(name).gid) == (0, 0)


def test_ids_of_an_idmapped_lower_are_not_mapped_twice() -> None:
    """podman 4 gives a mount_program idmapped lowers, and the same ranges."""
    assert SHIFTED.shown(33, idmapped=True) == 33
    assert SHIFTED.copied(33, idmapped=True) == 100_033
    assert SHIFTED.copied(100_033) == 100_033
    assert SHIFTED.copied(70_000, idmapped=True) == SHIFTED.overflow
    assert Ids().copied(33, idmapped=True) == 33
