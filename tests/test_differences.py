"""Each row of docs/differences.md has tests, and each entry here a row."""

from __future__ import annotations

import ast
import os

import pytest

TESTS = os.path.dirname(os.path.realpath(__file__))
DIFFERENCES = os.path.join(os.path.dirname(TESTS), "docs", "differences.md")

COPYUP, INSTEAD = "overlay/test_copyup.py", "fuse/test_instead.py"
METACOPY = "overlay/test_metacopy.py"
DAEMON, USERS = "fuse/test_copyup.py", "cli/test_mount_of_a_user.py"
BEHAVIOURS, DISK = "posix/behaviours", "crash/test_failing_disk.py"

ROWS = {
    "A crash of the machine after a copy-up": [
        "crash/test_power_loss.py::test_a_power_cut_after_any_operation_leaves_every_file_whole",
        "crash/test_power_loss.py::test_a_power_cut_on_a_volatile_mount_empties_what_was_copied",
    ],
    "The end of a mount or of a view": [
        "crash/test_power_loss.py::test_what_a_program_has_synced_outlives_a_power_cut"
    ],
    "`fallocate`, hole punching": [
        f"{INSTEAD}::test_fallocate_is_refused_and_posix_fallocate_writes_zeros",
        f"{BEHAVIOURS}/files.py::check_a_punched_hole_reads_as_zeros_or_is_refused_whole",
    ],
    "`SEEK_DATA`, `SEEK_HOLE`": [
        f"{INSTEAD}::test_holes_are_reported_as_data_and_stay_holes_on_disk",
        f"{COPYUP}::test_holes_stay_holes",
    ],
    "`copy_file_range`": [f"{INSTEAD}::test_copy_file_range_copies_and_a_clone_is_refused"],
    "Asynchronous direct I/O (libaio with `O_DIRECT`)": [
        "fuse/test_direct.py::test_what_was_written_asynchronously_is_what_others_read"
    ],
    "Reflinks (`FICLONE`), `O_TMPFILE`": [
        f"{INSTEAD}::test_copy_file_range_copies_and_a_clone_is_refused",
        f"{INSTEAD}::test_a_file_without_a_name_is_refused_so_that_programs_take_a_named_one",
        "test_inode_data.py::test_a_gigabyte_costs_no_space_where_the_disk_can_clone",
    ],
    "File flags (`lsattr`, `chattr`), other ioctls": [
        f"{INSTEAD}::test_flags_of_files_are_neither_shown_nor_set"
    ],
    "Change of a lower file with the flag `i` or `a`": [
        f"{DISK}::test_an_immutable_file_of_a_lower_can_be_changed_and_one_of_the_upper_cannot"
    ],
    "A lower file of the user's own whose mode denies its owner (`overlaykit mount` by an ordinary user)": [
        f"{USERS}::test_a_mode_does_not_keep_a_user_from_its_own_files_of_a_lower"
    ],
    "Change of another user's lower file by an ordinary user": [
        f"{USERS}::test_a_user_changes_files_of_others_if_they_are_shown_as_its_own"
    ],
    "Change of mode, owner, time or attribute of a lower file": [
        f"{INSTEAD}::test_a_new_mode_copies_a_file_with_its_data",
        "fuse/test_copied.py::test_data_that_no_program_can_read_is_not_copied",
        "fuse/test_copied.py::test_a_change_that_needs_the_data_copies_them",
    ],
    "Open of a lower file over 1 MiB for writing": [
        "fuse/test_copied.py::test_data_that_no_program_can_read_is_not_copied",
        f"{DAEMON}::test_a_disk_that_fills_up_before_the_first_write_leaves_the_old_file_and_says_so",
    ],
    "Truncation of a smaller one by `open` (`O_TRUNC`, `> file`)": [
        f"{INSTEAD}::test_emptying_a_file_by_opening_it_wants_room_for_its_data"
    ],
    "Files whose data are in a lower (`metacopy=on`), mounted without that option": [
        f"{METACOPY}::test_without_the_option_metacopies_are_read_and_written_but_not_made",
        f"{METACOPY}::test_data_that_are_nowhere_are_an_error_and_not_zeros",
    ],
    "Modification time of such a file when it is opened for writing": [
        f"{METACOPY}::test_set_id_bits_and_capabilities_outlive_the_copy_of_the_data"
    ],
    "Rename of such a file whose redirect would be too long": [
        f"{METACOPY}::test_a_redirect_without_room_has_the_data_copied"
    ],
    "Open of a lower file for writing, with `no_open=on`": [
        "fuse/test_no_open.py::test_a_copy_up_without_room_is_reported_by_fsync_and_by_close",
        "fuse/test_no_open.py::test_a_file_that_its_user_may_not_read_below_is_not_read",
    ],
    "A full disk, an exceeded quota, the largest file size": [
        f"{DAEMON}::test_a_writer_gets_an_error_when_the_disk_fills_up",
        f"{DISK}::test_an_exceeded_quota_is_an_error_and_leaves_the_lower_file_whole",
        f"{DISK}::test_limits_of_the_disk_are_reported_with_its_errors",
    ],
    "Change time (ctime) of a written file, or of the directory of a copied-up one, at the next mount": [
        f"{INSTEAD}::test_at_the_next_mount_a_file_was_changed_when_it_was_written_back",
        f"{INSTEAD}::test_at_the_next_mount_a_directory_was_changed_when_it_was_copied_up",
    ],
    "Birth time (`statx`)": [f"{INSTEAD}::test_no_birth_time_is_shown"],
    "Access time (atime) of a file that was read": [
        f"{INSTEAD}::test_reading_a_file_leaves_its_access_time",
        f"{INSTEAD}::test_the_access_times_of_directories_and_symlinks_are_the_disks",
    ],
    "A lower file that is open or mapped during its copy-up": [
        f"{BEHAVIOURS}/open_files.py::check_a_reader_sees_what_is_written_after_it_opened",
        f"{BEHAVIOURS}/open_files.py::check_a_shared_mapping_sees_what_is_written_after_it_was_made",
    ],
    "Number of links of a lower file without a name": [
        "fuse/test_copyup.py::test_writes_after_the_last_unlink_are_read_through_open_descriptors"
    ],
    "Change, through a descriptor, of a lower file without a name": [
        f"{INSTEAD}::test_a_lower_file_that_lost_its_name_is_changed_by_its_descriptor"
    ],
    "Set-ID bits of another owner's lower file, with `squash_to_uid`, `squash_to_gid` or `squash_to_root`": [
        "cli/test_mount_of_a_user.py::test_a_file_that_another_user_made_set_id_does_not_become_set_id_as_ones_own"
    ],
    "Set-group-ID bit of a file that its group cannot execute, after a change from outside the group": [
        f"{INSTEAD}::test_a_write_from_outside_the_group_keeps_a_set_group_id_bit_that_runs_no_program"
    ],
    "Modification time of a FIFO after a write": [
        f"{INSTEAD}::test_a_fifo_keeps_its_time_when_it_is_written_to"
    ],
    "File handles (`name_to_handle_at`)": [
        f"{BEHAVIOURS}/identity.py::check_a_file_handle_opens_its_file_or_nothing"
    ],
    "More open files than the mounting user's limit (`ulimit -H -n`)": [
        "cli/test_limits.py::test_a_program_with_many_open_files_keeps_no_other_from_opening_any",
        "overlay/test_descriptors.py::test_more_files_are_open_than_there_are_descriptors",
    ],
    "Another hard limit of the mounting shell (`ulimit -Hf`, ...) that only root can raise": [
        "cli/test_limits.py::test_a_hard_limit_that_binds_every_program_is_reported_by_the_mount",
        "cli/test_limits.py::test_a_hard_limit_that_binds_every_program_is_reported_by_a_view",
    ],
    "Removal of an ACL that a lower file does not have": [
        f"{BEHAVIOURS}/permissions.py::check_an_acl_that_is_not_there_can_be_removed"
    ],
    "An ACL with an id that the user namespace does not map": [
        "fuse/test_acl.py::test_a_file_shared_with_a_user_that_the_namespace_lacks_can_be_read",
        "overlay/test_acl.py::test_the_entry_of_an_unmapped_id_is_left_out_of_an_acl",
    ],
    "Names that begin with `.wh.`": [
        "overlay/test_merge.py::test_names_of_aufs_markers_cannot_be_made",
        "overlay/test_merge.py::test_the_whiteouts_of_oci_archives_hide_names",
        "overlay/test_uppers.py::test_files_deleted_by_fuse_overlayfs_stay_deleted",
    ],
    "An upper on a disk without whiteout devices, such as an overlay (a container's `/`)": [
        "overlay/test_uppers.py::test_a_deleted_file_stays_deleted_on_an_upper_that_lies_on_an_overlay",
        "overlay/test_uppers.py::test_the_kernel_reads_whiteout_files_in_its_lowers",
    ],
    "With `whiteout=aufs`: removal of a lower name longer than 251 bytes": [
        "overlay/test_uppers.py::test_a_name_too_long_for_an_aufs_whiteout_cannot_be_removed"
    ],
    "A device 0:0 (`mknod c 0 0`)": [f"{INSTEAD}::test_what_would_read_as_a_whiteout_is_not_made"],
    "Replacement of `/etc/hosts` by rename (`sed -i`)": [
        "cli/test_names.py::test_a_hosts_file_cannot_be_replaced_by_rename",
        "cli/test_names.py::test_host_names_in_a_kept_upper_remain_for_the_next_view",
    ],
    "Descriptors that the caller of `run` has open": [
        "cli/test_descriptors.py::test_descriptors_that_lead_out_of_the_view_pass_only_by_number",
        "cli/test_descriptors.py::test_pipes_sockets_plain_files_and_terminals_are_passed_on",
    ],
    "SIGPIPE and SIGXFSZ, ignored by the caller of `run`": [
        "cli/test_surroundings.py::test_a_command_ignores_the_callers_ignored_signals_except_pythons_own",
        "cli/test_surroundings.py::test_a_commands_surroundings_are_its_callers",
    ],
    "Rename of a lower directory whose redirect would be too long": [
        "overlay/test_renaming.py::test_a_redirect_too_long_to_store_is_a_move_across_devices"
    ],
    "In a user namespace: rename of lower directories, hard links of a lower, inode numbers over a remount": [
        f"{BEHAVIOURS}/renaming.py::check_a_moved_directory_is_there_after_a_remount",
        f"{BEHAVIOURS}/links.py::check_two_lower_links_stay_one_file_after_a_remount",
        f"{BEHAVIOURS}/files.py::check_a_changed_file_keeps_its_inode_number_over_a_remount",
    ],
    "Lowers on several disks without a uuid (before Linux 6.9: all but ext4), on clones of one disk, or on FUSE": [
        f"{COPYUP}::test_files_of_two_clones_of_one_disk_are_different_files",
        f"{COPYUP}::test_a_copy_from_one_of_two_clones_of_a_disk_has_another_nodeid_at_the_next_mount",
    ],
    "Hard links of a lower with `index=off`, and of symlinks and FIFOs with `user.overlay.` markers": [
        f"{COPYUP}::test_without_an_index_unknown_names_of_a_hard_link_stay_as_they_were",
        f"{COPYUP}::test_without_an_index_d_ino_is_not_trusted_where_hard_links_may_part",
        f"{COPYUP}::test_hard_linked_symlinks_and_fifos_can_be_changed_and_removed",
    ],
}
"""First column of the table: the tests (below this directory) of its second column."""


def rows() -> list[str]:
    """The first column of the table, without its heading and the line below that."""
    with open(DIFFERENCES, encoding="utf-8") as file:
        lines = [line for line in file.read().splitlines() if line.startswith("| ")]
    return [line.split(" | ")[0].removeprefix("| ").strip() for line in lines[1:]]


def test_the_table_and_its_tests_agree() -> None:
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
