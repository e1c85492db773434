"""Files of users that a user namespace lacks: shown as root's, and never in reach of a write below."""

from __future__ import annotations

import os

import pytest

from overlaykit.overlay.filesystem import Options
from overlaykit.overlay.owners import AS_THEY_ARE, Ids, Range, overflow_id, squash_unmapped

from .inside import as_ordinary_user
from .stack import Stack


def test_ids_are_shown_and_stored_as_they_are_by_default() -> None:
    users, groups = AS_THEY_ARE.users, AS_THEY_ARE.groups
    assert (users.shown(65534), groups.shown(1234)) == (65534, 1234)
    assert (users.stored(7), groups.stored(0), users.copied(65534)) == (7, 0, 65534)


def test_only_the_overflow_ids_are_shown_as_roots() -> None:
    owners = squash_unmapped()
    overflow = overflow_id("uid")
    assert owners.users.shown(overflow) == 0
    assert owners.users.copied(overflow) == 0
    assert owners.users.shown(1) == 1
    assert owners.groups.shown(2) == 2


def test_ranges_map_both_ways_and_refuse_what_they_do_not_name() -> None:
    ids = Ids(ranges=(Range(disk=0, shown=10, count=100), Range(disk=1000, shown=0, count=1)))
    assert [ids.shown(disk) for disk in (0, 99, 100, 1000)] == [10, 109, ids.overflow, 0]
    assert [ids.stored(shown) for shown in (10, 109, 0)] == [0, 99, 1000]
    with pytest.raises(OSError, match="Invalid argument"):
        ids.stored(9)


def test_everybody_is_one_and_stays_who_he_is_on_disk() -> None:
    ids = Ids(everybody=5)
    assert [ids.shown(disk) for disk in (0, 5, 1000)] == [5, 5, 5]
    assert ids.stored(7) == -1


@as_ordinary_user
def test_a_view_for_an_ordinary_user_shows_the_machines_files_as_roots(stack: Stack) -> None:
    stack.lowers.append("/etc/dpkg")
    options = Options(userxattr=True, owners=squash_unmapped())
    with stack.open(options=options, as_kernel=False, remount=False) as view:
        name = view.names()[0]
        assert os.stat(os.path.join("/etc/dpkg", name)).st_uid != 0
        assert (view.stat(name).uid, view.stat(name).gid) == (0, 0)
        view.setxattr(name, "user.k", b"v")
        assert (view.stat(name).uid, view.stat(name).gid) == (0, 0)
