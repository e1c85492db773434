"""Files of users that a user namespace lacks: shown as root's, and never in reach of a write below."""

from __future__ import annotations

import os

from overlaykit.overlay.filesystem import Options
from overlaykit.overlay.owners import SHOWN_AS_THEY_ARE, Owners

from .inside import as_ordinary_user
from .stack import Stack


def test_ids_are_shown_as_they_are_by_default() -> None:
    assert (SHOWN_AS_THEY_ARE.uid(65534), SHOWN_AS_THEY_ARE.gid(1234)) == (65534, 1234)


def test_only_the_overflow_ids_are_shown_as_roots() -> None:
    owners = Owners.squash_unmapped()
    with open("/proc/sys/kernel/overflowuid") as file:
        assert owners.uid(int(file.read())) == 0
    assert owners.uid(1) == 1
    assert owners.gid(2) == 2


@as_ordinary_user
def test_a_view_for_an_ordinary_user_shows_the_machines_files_as_roots(stack: Stack) -> None:
    stack.lowers.append("/etc/dpkg")
    options = Options(userxattr=True, owners=Owners.squash_unmapped())
    with stack.open(options=options, as_kernel=False, remount=False) as view:
        name = view.names()[0]
        assert os.stat(os.path.join("/etc/dpkg", name)).st_uid != 0
        assert (view.stat(name).uid, view.stat(name).gid) == (0, 0)
        view.setxattr(name, "user.k", b"v")
        assert (view.stat(name).uid, view.stat(name).gid) == (0, 0)
