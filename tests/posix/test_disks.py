"""The table with uppers on other file systems, each of which lacks a feature of the one of the other tests."""

from __future__ import annotations

import os
from typing import Final, TypeAlias

import pytest

from .conftest import HarnessOf
from .disks import Disk
from .table import TABLE, Behaviour, Identity
from .test_posix import import_behaviours

import_behaviours()

Upper: TypeAlias = "tuple[Disk, tuple[str, ...], tuple[Identity, ...]]"
"""The disk, overlaykit's options, and the identities that can mount it."""

MOUNTERS: Final[tuple[Identity, ...]] = ("root", "userns")

OVERLAY: Final[Upper] = ("overlay", (), MOUNTERS)
"""It lacks most, so it is always tested, at least with the behaviours that change names."""
CHANGES_NAMES: Final = {"directories", "links", "renaming", "unlinking"}
OTHERS: Final[tuple[Upper, ...]] = (
    ("own", ("whiteout=xattr",), MOUNTERS),
    ("own", ("whiteout=aufs",), MOUNTERS),
    ("tmpfs", (), MOUNTERS),
    ("ext4", (), ("root",)),
    ("xfs", (), ("root",)),
    ("btrfs", (), ("root",)),
    ("overlaykit", (), MOUNTERS),
    ("bindfs", ("whiteout=aufs",), MOUNTERS),
)
LACKING: Final = {
    # tests/overlay/test_uppers.py tests such names.
    "whiteout=aufs": {"a_name_of_255_bytes_is_read_written_moved_and_removed"},
    # The longest text of a symlink is 1023 bytes.
    "xfs": {"a_symlink_holds_any_text"},
    "bindfs": {
        "a_change_of_owner_that_changes_none_sets_the_change_time",
        "a_default_acl_is_inherited_instead_of_the_umask",
        "a_new_file_has_the_present_time",
        "directories_go_deeper_than_the_longest_path",
        "exchange_swaps_a_file_with_a_directory",
        "exchange_swaps_files_of_two_layers",
        "exchange_swaps_two_lower_files",
        "exchange_swaps_two_merged_directories",
        "no_umask_leaves_the_whole_mode",
        "a_new_name_in_a_set_group_id_directory_inherits_group_and_acl",
    },
    # It has no ACLs in a user namespace.
    "bindfs-userns": {
        "a_default_acl_is_for_directories",
        "an_acl_that_is_not_there_can_be_removed",
        "an_acl_that_is_not_there_can_be_removed_from_something_new",
        "an_acl_that_says_no_more_than_the_mode_sets_the_mode",
        "root_keeps_the_set_group_id_bit_under_an_acl",
    },
}
"""Behaviours that the disk itself, or every upper of this form, does not have."""
AS_PROOF: Final = "OVERLAYKIT_PROOFS" in os.environ


def _is_tested(behaviour: Behaviour, identity: Identity, disk: Disk, more: tuple[str, ...]) -> bool:
    changes_names = behaviour.check.__module__.rpartition(".")[2] in CHANGES_NAMES
    lacking = {
        name
        for what in (disk, f"{disk}-{identity}", *more)
        for name in LACKING.get(what, frozenset[str]())
    }
    return behaviour.name not in lacking and not behaviour.read_only and (AS_PROOF or changes_names)


CASES = [
    pytest.param(
        disk,
        more,
        identity,
        behaviour,
        id="-".join((disk, *more, identity, behaviour.name)),
        marks=pytest.mark.xdist_group("-".join((disk, *more, identity))),
    )
    for disk, more, identities in (OVERLAY, *(OTHERS if AS_PROOF else ()))
    for identity in identities
    if identity != "root" or os.geteuid() == 0
    for behaviour in TABLE.values()
    if identity in behaviour.identities and _is_tested(behaviour, identity, disk, more)
]


@pytest.mark.parametrize(("disk", "more", "identity", "behaviour"), CASES)
@pytest.mark.one_in(3)
def test_programs_find_what_posix_promises_on_an_upper_of_this_disk(
    disk: Disk,
    more: tuple[str, ...],
    identity: Identity,
    behaviour: Behaviour,
    harness_of: HarnessOf,
) -> None:
    harness_of("overlaykit", identity, disk, more).check(behaviour)
