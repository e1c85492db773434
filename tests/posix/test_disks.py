"""The table on uppers that lie on other disks: each lacks something that the disk of the other tests can do."""

from __future__ import annotations

import os
from typing import Final, TypeAlias

import pytest

from .conftest import StageOf
from .disks import Disk
from .table import EVERYONE, TABLE, Behaviour, Identity
from .test_posix import import_behaviours

import_behaviours()

Upper: TypeAlias = "tuple[Disk, tuple[str, ...], tuple[Identity, ...]]"
"""The disk, options of ours, and who can have it."""

OVERLAY: Final[Upper] = ("overlay", (), EVERYONE)
"""It lacks most, so it is always tried; at least what changes names."""
CHANGES_NAMES: Final = {"directories", "links", "renaming", "unlinking"}
OTHERS: Final[tuple[Upper, ...]] = (
    ("own", ("whiteout=xattr",), EVERYONE),
    ("own", ("whiteout=aufs",), EVERYONE),
    ("tmpfs", (), EVERYONE),
    ("ext4", (), ("root",)),
    ("xfs", (), ("root",)),
    ("btrfs", (), ("root",)),
    ("overlaykit", (), EVERYONE),
    ("fuse-overlayfs", (), EVERYONE),
    ("bindfs", ("whiteout=aufs",), EVERYONE),
)
TOO_LONG: Final = "a_name_of_255_bytes_is_read_written_moved_and_removed"
"""No `.wh.NAME` hides it (tests/overlay/test_uppers.py)."""
AS_PROOF: Final = "OVERLAYKIT_PROOFS" in os.environ


def _is_played(behaviour: Behaviour, more: tuple[str, ...]) -> bool:
    changes_names = behaviour.check.__module__.rpartition(".")[2] in CHANGES_NAMES
    if behaviour.name == TOO_LONG and "whiteout=aufs" in more:
        return False
    return not behaviour.read_only and (AS_PROOF or changes_names)


CASES = [
    pytest.param(
        disk, more, identity, behaviour, id="-".join((disk, *more, identity, behaviour.name))
    )
    for disk, more, identities in (OVERLAY, *(OTHERS if AS_PROOF else ()))
    for identity in identities
    if identity != "root" or os.geteuid() == 0
    for behaviour in TABLE.values()
    if identity in behaviour.identities and _is_played(behaviour, more)
]


@pytest.mark.parametrize(("disk", "more", "identity", "behaviour"), CASES)
def test_programs_find_what_posix_promises_on_an_upper_of_this_disk(
    disk: Disk, more: tuple[str, ...], identity: Identity, behaviour: Behaviour, stage_of: StageOf
) -> None:
    stage_of("overlaykit", identity, disk, more).play(behaviour)
