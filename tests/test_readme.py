"""What the README says that programs find is held by tests: a row of its table has one here, and one here has a row."""

from __future__ import annotations

import ast
import os

import pytest

TESTS = os.path.dirname(os.path.realpath(__file__))
README = os.path.join(os.path.dirname(TESTS), "README.md")
HEADING = "## What programs find"

COPYUP, INSTEAD = "overlay/test_copyup.py", "fuse/test_instead.py"
DAEMON, USERS = "fuse/test_copyup.py", "cli/test_mount_of_a_user.py"
BEHAVIOURS, DISK = "posix/behaviours", "crash/test_failing_disk.py"

ROWS = {
    "`fallocate`, hole punching": [
        f"{INSTEAD}::test_fallocate_is_refused_and_posix_fallocate_writes_zeros",
        f"{BEHAVIOURS}/files.py::check_a_punched_hole_reads_as_zeros_or_is_refused_whole",
    ],
    "`SEEK_DATA`, `SEEK_HOLE`": [
        f"{INSTEAD}::test_holes_are_told_as_data_and_stay_holes_on_disk",
        f"{COPYUP}::test_holes_stay_holes",
    ],
    "`copy_file_range`": [f"{INSTEAD}::test_copy_file_range_copies_and_a_clone_is_refused"],
    "asynchronous direct I/O (libaio with `O_DIRECT`)": [
        "fuse/test_direct.py::test_what_was_written_asynchronously_is_what_others_read"
    ],
    "reflinks (`FICLONE`), `O_TMPFILE`": [
        f"{INSTEAD}::test_copy_file_range_copies_and_a_clone_is_refused",
        f"{INSTEAD}::test_a_file_without_a_name_is_refused_so_that_programs_take_a_named_one",
        "native/test_copyup_data.py::test_a_gigabyte_costs_no_space_where_the_disk_can_clone",
    ],
    "file flags (`lsattr`, `chattr`), other ioctls": [
        f"{INSTEAD}::test_flags_of_files_are_neither_told_nor_set"
    ],
    "a change of a lower file that has the flags `i` or `a`": [
        f"{DISK}::test_what_a_layer_protects_from_change_is_changed_in_the_view_and_what_the_upper_does_is_not"
    ],
    "a file or directory of a lower, one's own, whose mode keeps oneself out "
    "(`overlaykit mount` by an ordinary user)": [
        f"{USERS}::test_a_mode_does_not_keep_a_user_from_its_own_files_of_a_lower"
    ],
    "files of another user's in a lower, to be changed by an ordinary user": [
        f"{USERS}::test_a_user_changes_files_of_others_where_they_are_shown_as_its_own"
    ],
    "a new mode, owner, time or attribute of a lower file": [
        f"{INSTEAD}::test_a_new_mode_copies_a_file_with_its_data",
        "fuse/test_copied.py::test_no_byte_is_copied_that_nobody_could_read",
        "fuse/test_copied.py::test_what_needs_a_copy_makes_one",
    ],
    "to open a lower file of more than 1 MiB for writing": [
        "fuse/test_copied.py::test_no_byte_is_copied_that_nobody_could_read",
        f"{DAEMON}::test_a_disk_that_fills_up_before_the_first_write_leaves_the_old_file_and_says_so",
    ],
    "to empty a smaller one by opening it (`O_TRUNC`, `> file`)": [
        f"{INSTEAD}::test_emptying_a_file_by_opening_it_wants_room_for_its_data"
    ],
    "an upper that the kernel wrote with `metacopy=on`": [
        f"{COPYUP}::test_a_metacopy_of_the_kernels_is_refused_and_not_shown_empty"
    ],
    "room on a full disk, or beyond a quota or the largest file": [
        f"{DAEMON}::test_a_disk_that_fills_up_under_a_writer_is_told_to_it",
        f"{DISK}::test_an_exceeded_quota_is_told_and_leaves_the_lower_file_whole",
        f"{DISK}::test_limits_of_the_disk_are_told_as_its_own",
    ],
    "the change time of a file that was written, at the next mount": [
        f"{INSTEAD}::test_at_the_next_mount_a_file_was_changed_when_it_was_written_back"
    ],
    "the time of birth (`statx`)": [f"{INSTEAD}::test_no_time_of_birth_is_told"],
    "the access time of a file that was read": [
        f"{INSTEAD}::test_reading_a_file_leaves_its_access_time",
        f"{INSTEAD}::test_the_access_times_of_directories_and_symlinks_are_the_disks",
    ],
    "an open file of a lower, read or mapped while it is copied up": [
        f"{BEHAVIOURS}/open_files.py::check_a_reader_sees_what_is_written_after_it_opened",
        f"{BEHAVIOURS}/open_files.py::check_a_shared_mapping_sees_what_is_written_after_it_was_made",
    ],
    "a change, through a descriptor, of a lower file that lost its name": [
        f"{INSTEAD}::test_a_lower_file_that_lost_its_name_is_changed_by_its_descriptor"
    ],
    "set-ID bits of another owner's lower file, with `squash_to_uid` and its kin": [
        "cli/test_mount_of_a_user.py::test_a_file_that_another_user_made_set_id_does_not_become_set_id_as_ones_own"
    ],
    "set-ID bits (in the mount of an ordinary user) and capabilities of a file written through a mapping": [
        f"{INSTEAD}::test_a_program_written_to_through_a_mapping_is_no_longer_trusted"
    ],
    "the time of a FIFO after a write": [
        f"{INSTEAD}::test_a_fifo_keeps_its_time_when_it_is_written_to"
    ],
    "a file handle (`name_to_handle_at`)": [
        f"{BEHAVIOURS}/identity.py::check_a_file_handle_opens_its_file_or_nothing"
    ],
    "more open files than who mounted it may have (`ulimit -H -n`)": [
        "cli/test_limits.py::test_a_program_with_many_open_files_keeps_no_other_from_opening_any",
        "overlay/test_descriptors.py::test_more_files_are_open_than_there_are_descriptors",
    ],
    "more than a hard limit of the shell that mounted it (`ulimit -Hf`, ...), where raising it takes root": [
        "cli/test_limits.py::test_a_hard_limit_that_binds_every_program_is_told_by_the_mount",
        "cli/test_limits.py::test_a_hard_limit_that_binds_every_program_is_told_by_a_view",
    ],
    "to remove an access control list that a lower's file does not have": [
        f"{BEHAVIOURS}/permissions.py::check_an_acl_that_is_not_there_can_be_removed"
    ],
    "an access control list that names an id which the user namespace lacks": [
        "fuse/test_acl.py::test_a_file_shared_with_a_user_that_the_namespace_lacks_can_be_read",
        "overlay/test_acl.py::test_an_id_that_programs_cannot_name_is_left_out_of_a_list",
    ],
    "names that begin with `.wh.`": [
        "overlay/test_merge.py::test_names_that_are_marks_in_a_lower_cannot_be_made",
        "overlay/test_merge.py::test_the_whiteouts_of_oci_archives_hide_names",
        "overlay/test_uppers.py::test_what_fuse_overlayfs_deleted_stays_deleted",
    ],
    "an upper on a disk that makes no whiteout device, as an overlay (a container's `/`)": [
        "overlay/test_uppers.py::test_a_deleted_file_stays_deleted_on_an_upper_that_lies_on_an_overlay",
        "overlay/test_uppers.py::test_the_kernel_reads_whiteout_files_in_its_lowers",
    ],
    "with `whiteout=aufs`, to remove a lower's name longer than 251 bytes": [
        "overlay/test_uppers.py::test_a_name_too_long_to_be_hidden_by_another_stays"
    ],
    "a device 0:0 (`mknod c 0 0`)": [f"{INSTEAD}::test_what_would_read_as_a_whiteout_is_not_made"],
    "a new `/etc/hosts`, by rename (`sed -i`)": [
        "cli/test_names.py::test_a_new_hosts_file_takes_no_other_ones_place",
        "cli/test_names.py::test_names_that_are_added_to_a_kept_upper_are_there_the_next_time",
    ],
    "descriptors that its caller has opened": [
        "cli/test_descriptors.py::test_what_leads_out_of_the_view_is_passed_on_only_by_name",
        "cli/test_descriptors.py::test_pipes_sockets_plain_files_and_terminals_are_passed_on",
    ],
    "SIGPIPE or SIGXFSZ, where the caller of `overlaykit run` ignores them": [
        "cli/test_surroundings.py::test_a_command_ignores_what_its_caller_does_but_what_python_ignores_itself",
        "cli/test_surroundings.py::test_a_commands_surroundings_are_its_callers",
    ],
    "to move a directory of a lower so deep that its redirect finds no room": [
        "overlay/test_renaming.py::test_a_redirect_too_long_to_note_is_a_move_across_devices"
    ],
    "in a user namespace: to move directories of a lower, its hard links, inode numbers over a remount": [
        f"{BEHAVIOURS}/renaming.py::check_a_moved_directory_is_there_after_a_remount",
        f"{BEHAVIOURS}/links.py::check_two_lower_links_stay_one_file_after_a_remount",
        f"{BEHAVIOURS}/files.py::check_a_changed_file_keeps_its_inode_number_over_a_remount",
    ],
    "lowers on several disks that have no uuid (before Linux 6.9: any), on clones of one disk, or on FUSE": [
        f"{COPYUP}::test_files_of_two_clones_of_one_disk_are_different_files",
        f"{COPYUP}::test_a_copy_from_one_of_two_clones_of_a_disk_has_a_new_number_at_the_next_mount",
    ],
    "hard links of a lower, with `index=off`, or of symlinks and FIFOs where marks are the user's": [
        f"{COPYUP}::test_without_an_index_names_of_a_hard_link_that_are_not_known_stay_as_they_were",
        f"{COPYUP}::test_without_an_index_no_listing_is_believed_where_hard_links_may_part",
        f"{COPYUP}::test_hard_linked_symlinks_and_fifos_can_be_changed_and_removed",
    ],
}
"""What a program asks for, as in the README's first column: the tests (below this directory) of what it gets."""


def rows() -> list[str]:
    """The first column of the table, without its heading and the line below that."""
    with open(README, encoding="utf-8") as file:
        _, _, section = file.read().partition(f"\n{HEADING}\n")
    lines = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    return [line.split(" | ")[0].removeprefix("| ").strip() for line in lines[1:]]


def test_every_row_of_what_programs_find_has_a_test_and_every_test_a_row() -> None:
    """Who adds a row, or changes what one is about, adds its test to ROWS."""
    assert sorted(rows()) == sorted(ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_the_tests_of_a_row_are_there(row: str) -> None:
    assert ROWS[row]
    for test in ROWS[row]:
        path, _, name = test.partition("::")
        assert name.startswith(("test_", "check_"))
        with open(os.path.join(TESTS, path), encoding="utf-8") as file:
            tree = ast.parse(file.read())
        functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
        found = [one for one in functions if one.name == name]
        assert len(found) == 1, test
        decorators = " ".join(map(ast.unparse, found[0].decorator_list))
        assert not any(mark in decorators for mark in ("skip", "xfail")), test
        assert name.startswith("test_") or "behaviour(" in decorators, test
