"""Access control lists through a mount, where they name users of the machine that its user namespace lacks."""

from __future__ import annotations

import os

import pytest

from ..overlay.inside import as_ordinary_user
from ..overlay.stack import Stack
from ..posix.acl import ACCESS, DEFAULT, acl
from ..posix.sandbox import ORDINARY_UID
from ..posix.table import Dir, File
from .mounted import mounted

COLLEAGUE = 4001
WITHOUT_NAMES = acl(6, 4, 4, mask=6)
WITH_A_COLLEAGUE = acl(6, 4, 4, users={COLLEAGUE: 6}, groups={COLLEAGUE: 6}, mask=6)


@pytest.fixture
def shared(stack: Stack) -> Stack:
    """A lower with files that an ACL shares with another user, written outside the user namespace."""
    owner = ORDINARY_UID if os.geteuid() == 0 else os.geteuid()
    lists = {ACCESS: WITH_A_COLLEAGUE}
    stack.add(
        {
            "mine": File(b"x", uid=owner, gid=owner, xattrs=lists),
            "others": File(b"x", uid=os.geteuid(), gid=os.getegid(), xattrs=lists),
            "d": Dir(uid=owner, gid=owner, xattrs={DEFAULT: WITH_A_COLLEAGUE}),
        }
    )
    return stack


@as_ordinary_user
def test_a_file_shared_with_a_user_that_the_namespace_lacks_can_be_read(shared: Stack) -> None:
    """The kernel refuses every access to a file with an id that the namespace does not map."""
    with mounted(shared) as mount:
        for name, kind in (("mine", ACCESS), ("others", ACCESS), ("d", DEFAULT)):
            assert os.getxattr(mount.path(name), kind) == WITHOUT_NAMES
        for name in ("mine", "others"):
            with open(mount.path(name), "rb") as file:
                assert file.read() == b"x"
        with open(mount.path("d/new"), "wb") as file:
            file.write(b"y")
        with open(mount.path("mine"), "ab") as file:
            file.write(b"y")
        os.setxattr(mount.path("mine"), ACCESS, WITHOUT_NAMES)
