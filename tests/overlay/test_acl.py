"""The ids in ACLs: programs see the mapped ones, the disk has the stored ones."""

from __future__ import annotations

import errno
import os

from overlaykit.overlay import acl as lists
from overlaykit.overlay.owners import AS_THEY_ARE, Ids, Owners, Range
from overlaykit.overlay.stack import MergeOptions

from ..posix.acl import ACCESS, DEFAULT, NO_ID, acl
from ..posix.table import Dir, File
from .inside import as_root
from .stack import Stack
from .view import refused

BY_RANGE = Ids(ranges=(Range(disk=100_000, shown=0, count=65_536),))
SHIFTED = Owners(users=BY_RANGE, groups=BY_RANGE)
SQUASHED = Owners(users=Ids(squash_to=0), groups=Ids(squash_to=0))


def a_list(users: dict[int, int], groups: dict[int, int]) -> bytes:
    return acl(6, 4, 0, users=users, groups=groups, mask=6)


@as_root
def test_an_acl_has_mapped_ids_for_programs_and_stored_ids_on_disk(stack: Stack) -> None:
    on_disk = a_list({100_033: 6}, {100_044: 4})
    xattrs = {ACCESS: on_disk}
    stack.add(
        {
            "f": File(uid=100_000, gid=100_000, xattrs=xattrs),
            "d": Dir(uid=100_000, gid=100_000, xattrs={DEFAULT: on_disk}),
        }
    )
    with stack.open(options=MergeOptions(owners=SHIFTED), as_kernel=False) as view:
        for name, kind in (("f", ACCESS), ("d", DEFAULT)):
            assert view.getxattr(name, kind) == a_list({33: 6}, {44: 4})
        view.setxattr("f", ACCESS, a_list({34: 4}, {}))
        assert view.getxattr("f", ACCESS) == a_list({34: 4}, {})
        view.create("d/new", mode=0o666)
        assert view.getxattr("d/new", ACCESS) == a_list({33: 6}, {44: 4})
        with refused(errno.EINVAL):
            view.setxattr("d", ACCESS, a_list({70_000: 4}, {}))
    upper = os.path.join(stack.upper, "f")
    assert os.getxattr(upper, ACCESS) == a_list({100_034: 4}, {})


@as_root
def test_an_acl_keeps_its_ids_where_owners_are_squashed(stack: Stack) -> None:
    stack.add({"f": File(xattrs={ACCESS: a_list({33: 6}, {})})})
    with stack.open(options=MergeOptions(owners=SQUASHED), as_kernel=False) as view:
        assert view.getxattr("f", ACCESS) == a_list({33: 6}, {})
        view.setxattr("f", ACCESS, a_list({34: 4}, {}))
    assert os.getxattr(os.path.join(stack.upper, "f"), ACCESS) == a_list({34: 4}, {})


def test_the_entry_of_an_unmapped_id_is_left_out_of_an_acl() -> None:
    """Otherwise the kernel refuses every access to the file (EINVAL)."""
    on_disk = a_list({33: 6, NO_ID: 4}, {NO_ID: 4})
    assert lists.shown(on_disk, AS_THEY_ARE) == a_list({33: 6}, {})
    assert lists.shown(on_disk, SHIFTED) == a_list({}, {})


def test_an_invalid_acl_is_refused() -> None:
    with refused(errno.EINVAL):
        lists.stored(b"nonsense", AS_THEY_ARE)


def test_an_acl_of_an_idmapped_lower_is_not_mapped_twice() -> None:
    in_lower = a_list({33: 6}, {70_000: 4})
    assert lists.shown(in_lower, SHIFTED, idmapped=True) == in_lower
    assert lists.copied(in_lower, SHIFTED) == a_list({100_033: 6}, {})
    assert lists.copied(in_lower, AS_THEY_ARE) == in_lower
