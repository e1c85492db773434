"""The table, checked in a machine, whose kernel shows the layers below a disk of its own (docs/machines.md).

`python -m tests.posix.guest DIRECTORY` runs in the machine: each behaviour in DIRECTORY/NAME. It prints the failures as
JSON, by the names of the behaviours.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import sys
from typing import Final

from . import behaviours
from .layers import write_layer
from .sandbox import Failed, Hung, Sandbox
from .table import DEPTH, TABLE, Behaviour

_ATTRIBUTES: Final = (
    "extended attributes of the layers, ACLs among them, are not seen through virtiofs"
)
_LINKS: Final = "the guest's overlayfs has no index: it gets no file handles from virtiofs"
_REASONS: Final = {
    _ATTRIBUTES: (
        "an_acl_of_a_lower_lets_a_named_user_read",
        "an_acl_keeps_out_a_named_user_whom_the_mode_would_let_in",
        "an_acl_of_a_directory_closes_it_to_a_named_user",
        "an_acl_lets_a_named_group_in_as_far_as_its_mask_goes",
        "an_acl_survives_copy_up",
        "chmod_changes_the_mask_of_an_acl",
        "a_default_acl_is_inherited_instead_of_the_umask",
        "a_default_acl_survives_copy_up_of_its_directory",
        "an_acl_that_is_not_there_can_be_removed",
        "an_acl_can_be_removed_twice",
        "a_new_name_in_a_set_group_id_directory_inherits_group_and_acl",
        "lower_xattrs_are_read_and_listed",
        "xattrs_survive_copy_up",
        "a_lower_xattr_is_replaced_and_removed",
        "create_refuses_and_replace_needs_what_exists",
        "a_missing_xattr_fails_with_enodata",
        "a_descriptor_reads_and_sets_xattrs",
        "symlinks_take_no_user_xattrs",
        "xattrs_follow_the_permissions_of_the_file",
        "trusted_xattrs_are_for_root",
        "security_xattrs_survive_copy_up_and_are_for_root_to_set",
        "file_capabilities_survive_copy_up",
        "xattrs_move_along_with_a_rename",
    ),
    _LINKS: (
        "two_lower_links_stay_one_file_when_written",
        "a_mode_set_by_one_name_shows_by_the_other",
        "removing_one_lower_link_leaves_the_other_and_counts_down",
        "two_lower_links_held_open_are_one_file",
        "a_third_link_joins_two_lower_ones",
        "a_rename_between_two_links_of_one_file_does_nothing",
    ),
    "virtiofsd tells of no holes: a copy has zeros there": (
        "a_sparse_file_stays_sparse_when_changed",
    ),
    "a file of the layers and one of the disk are on two file systems": ("copy_file_range_copies",),
    "the test remounts its directory, which is no mount in a machine": (
        "forgetting_changes_no_inode_number",
        "reading_a_changed_file_without_access_time_leaves_it",
    ),
}
DIFFERENCES: Final = {name: reason for reason, names in _REASONS.items() for name in names}
"""What a machine does otherwise than a mount, by behaviour, and why (docs/machines.md)."""


def chosen() -> list[Behaviour]:
    """The behaviours that a machine can have: its layers have an upper, and are not mounted anew."""
    for module in pkgutil.iter_modules(behaviours.__path__):
        importlib.import_module(f"{behaviours.__name__}.{module.name}")
    return [
        one
        for one in TABLE.values()
        if "root" in one.identities and not one.read_only and not one.remount
    ]


def write(directory: str, name: str) -> list[str]:
    """Write the layers below a directory, the behaviours of each below `name`. Returns: their paths, top first."""
    paths = [os.path.join(directory, str(number)) for number in range(DEPTH)]
    for path in paths:
        os.makedirs(os.path.join(path, name))
    for one in chosen():
        layers = one.layers or ({},)
        for layer, path in zip(layers, paths[-len(layers) :], strict=True):
            root = os.path.join(path, name, one.name)
            os.mkdir(root)
            write_layer(layer, root, xattr_prefix="trusted")
    return paths


def failures(directory: str) -> dict[str, str]:
    """The traceback of each behaviour that does not hold."""
    found = {}
    with contextlib.closing(Sandbox()) as sandbox:
        for one in chosen():
            check = one.check_on("kernel", "root")

            def act(name: str = one.name, check: object = check) -> None:
                os.chdir(os.path.join(directory, name))
                assert callable(check)
                check()

            try:
                sandbox.run(act)
            except (Failed, Hung) as error:
                found[one.name] = str(error)
    return found


if __name__ == "__main__":
    print(json.dumps(failures(sys.argv[1])))
