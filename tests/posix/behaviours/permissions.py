"""Permissions: mode bits of owner, group and others, supplementary groups, ACLs, access(2)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from ..acl import ACCESS, DEFAULT, acl
from ..files import list_names, mode_of, opened, read_file, write_file
from ..processes import ALICE, BOB, run_as_user
from ..refusals import refused
from ..table import PRIVILEGED, ROOT_ONLY, Dir, File, Instead, Layer, behaviour

PRIVATE: Layer = {"f": File(b"secret", mode=0o600, uid=ALICE, gid=ALICE)}
SHARED: Layer = {"f": File(b"text", mode=0o660, uid=ALICE, gid=BOB)}

ALICE_READS = acl(6, 0, 0, users={ALICE: 4}, mask=4)
ALICE_HAS_ALL = acl(7, 5, 0, users={ALICE: 7}, mask=7)
ALICE_HAS_NOTHING = acl(7, 5, 5, users={ALICE: 0}, mask=5)
BOBS_WRITE = acl(6, 4, 0, groups={BOB: 6}, mask=4)


def _may(mode: int, *, not_: int) -> None:
    assert os.access("f", mode)
    assert not os.access("f", not_)


def _denied(*flags: int, name: str = "f") -> None:
    for flag in flags:
        with refused(errno.EACCES):
            os.close(os.open(name, flag))


@behaviour(lower=PRIVATE, identities=ROOT_ONLY)
def check_others_neither_read_nor_write_a_private_file() -> None:
    run_as_user(BOB, lambda: _denied(os.O_RDONLY, os.O_WRONLY, os.O_RDWR))
    assert read_file("f") == b"secret"


@behaviour(lower=PRIVATE, identities=ROOT_ONLY)
def check_others_neither_read_nor_write_a_private_file_after_copy_up() -> None:
    os.utime("f")
    run_as_user(BOB, lambda: _denied(os.O_RDONLY, os.O_WRONLY, os.O_RDONLY | os.O_TRUNC))
    assert read_file("f") == b"secret"


@behaviour(lower=PRIVATE, identities=ROOT_ONLY)
def check_the_owner_writes_a_lower_file() -> None:
    run_as_user(ALICE, lambda: write_file("f", b"mine"))
    assert read_file("f") == b"mine"
    assert os.stat("f").st_uid == ALICE


@behaviour(lower=SHARED, identities=ROOT_ONLY)
def check_a_group_member_writes_a_lower_file() -> None:
    run_as_user(BOB, lambda: write_file("f", b"by the group"))
    assert read_file("f") == b"by the group"


@behaviour(lower=SHARED, identities=ROOT_ONLY)
def check_a_supplementary_group_counts() -> None:
    run_as_user(4099, lambda: write_file("f", b"by a member"), groups=[BOB])
    run_as_user(4099, lambda: _denied(os.O_RDONLY))


@behaviour(lower={"f": File(b"x", mode=0o077, uid=ALICE)}, identities=ROOT_ONLY)
def check_the_owners_bits_bind_the_owner() -> None:
    run_as_user(ALICE, lambda: _denied(os.O_RDONLY, os.O_WRONLY))
    run_as_user(BOB, lambda: write_file("f", b"y"))


@behaviour(lower={"d": Dir(mode=0o755), "d/f": File(mode=0o666)}, identities=ROOT_ONLY)
def check_names_change_only_with_write_permission_on_the_directory() -> None:
    def act() -> None:
        for call in (
            lambda: os.unlink("d/f"),
            lambda: os.rename("d/f", "d/g"),
            lambda: os.mkdir("d/s"),
            lambda: os.mkfifo("d/p"),
            lambda: os.symlink("x", "d/link"),
            lambda: os.link("d/f", "d/h"),
            lambda: os.open("d/new", os.O_CREAT | os.O_WRONLY),
        ):
            with refused(errno.EACCES):
                call()

    run_as_user(ALICE, act)
    assert list_names("d") == ["f"]


@behaviour(lower={"d": Dir(mode=0o700), "d/f": File(mode=0o666)}, identities=ROOT_ONLY)
def check_a_closed_directory_hides_everything_below_from_others() -> None:
    def act() -> None:
        with refused(errno.EACCES):
            os.stat("d/f")
        with refused(errno.EACCES):
            os.stat("d/missing")
        with refused(errno.EACCES):
            os.listdir("d")

    run_as_user(ALICE, act)


@behaviour(lower={"d": Dir(mode=0o711), "d/f": File(b"x")}, identities=ROOT_ONLY)
def check_a_directory_with_only_execute_is_passed_but_not_listed() -> None:
    def act() -> None:
        assert read_file("d/f") == b"x"
        with refused(errno.EACCES):
            os.listdir("d")

    run_as_user(ALICE, act)


@behaviour(lower={"d": Dir(mode=0o744), "d/f": File(b"x")}, identities=ROOT_ONLY)
def check_a_directory_with_only_read_is_listed_but_not_passed() -> None:
    def act() -> None:
        assert os.listdir("d") == ["f"]
        with refused(errno.EACCES):
            os.stat("d/f")

    run_as_user(ALICE, act)


@behaviour(lower=PRIVATE, identities=ROOT_ONLY)
def check_only_the_owner_changes_mode_and_owner() -> None:
    def others() -> None:
        with refused(errno.EPERM):
            os.chmod("f", 0o666)
        with refused(errno.EPERM):
            os.chown("f", BOB, -1)

    def owner() -> None:
        os.chmod("f", 0o640)
        with refused(errno.EPERM):
            os.chown("f", BOB, -1)
        with refused(errno.EPERM):
            os.chown("f", -1, BOB)

    run_as_user(BOB, others)
    run_as_user(ALICE, owner)
    assert mode_of("f") == 0o640


@behaviour(lower={"f": File(mode=0o640, uid=ALICE, gid=ALICE)}, identities=ROOT_ONLY)
def check_the_owner_gives_a_file_to_a_group_of_his() -> None:
    run_as_user(ALICE, lambda: os.chown("f", -1, BOB), groups=[BOB])
    assert os.stat("f").st_gid == BOB


@behaviour(lower=SHARED, identities=ROOT_ONLY)
def check_access_answers_as_open_would() -> None:
    def group() -> None:
        assert os.access("f", os.R_OK | os.W_OK)
        assert not os.access("f", os.X_OK)

    def others() -> None:
        assert os.access("f", os.F_OK)
        assert not os.access("f", os.R_OK)
        assert not os.access("f", os.W_OK)

    run_as_user(BOB, group)
    run_as_user(4099, others)


@behaviour(lower={"f": File(mode=0o644), "d": Dir(mode=0o600)}, identities=PRIVILEGED)
def check_root_may_do_all_but_execute_a_file_without_permissions() -> None:
    assert os.access("f", os.R_OK | os.W_OK)
    assert not os.access("f", os.X_OK)
    assert os.access("d", os.X_OK)


@behaviour(lower={"d": Dir(mode=0o755, uid=ALICE), "d/f": File(b"x")}, identities=ROOT_ONLY)
def check_the_owner_of_a_directory_removes_files_of_others() -> None:
    run_as_user(ALICE, lambda: os.unlink("d/f"))
    assert list_names("d") == []


@behaviour(
    lower={"d": Dir(mode=0o777), "d/s": Dir(mode=0o755), "d/s/f": File()}, identities=ROOT_ONLY
)
def check_moving_a_directory_of_another_needs_write_permission_on_it() -> None:
    def act() -> None:
        os.mkdir("d/t")
        with refused(errno.EACCES):
            os.rename("d/s", "d/t/s")

    run_as_user(ALICE, act)


@behaviour(lower={"f": File(b"x", mode=0o600, xattrs={ACCESS: ALICE_READS})}, identities=ROOT_ONLY)
def check_an_acl_of_a_lower_lets_a_named_user_read() -> None:
    run_as_user(ALICE, _reads_but_does_not_write)
    run_as_user(BOB, lambda: _denied(os.O_RDONLY))


def _reads_but_does_not_write() -> None:
    assert read_file("f") == b"x"
    _denied(os.O_WRONLY)


@behaviour(
    lower={"f": File(b"x", mode=0o644, xattrs={ACCESS: ALICE_HAS_NOTHING})}, identities=ROOT_ONLY
)
def check_an_acl_keeps_out_a_named_user_whom_the_mode_would_let_in() -> None:
    for _ in range(2):
        run_as_user(BOB, lambda: read_file("f"))
        run_as_user(ALICE, lambda: _denied(os.O_RDONLY, os.O_WRONLY))
        run_as_user(ALICE, lambda: _may(os.F_OK, not_=os.R_OK))
        os.utime("f")  # the same after copy-up


@behaviour(
    lower={
        "d": Dir(mode=0o755, xattrs={ACCESS: ALICE_HAS_NOTHING}),
        "d/f": File(b"x", mode=0o666),
    },
    identities=ROOT_ONLY,
)
def check_an_acl_of_a_directory_closes_it_to_a_named_user() -> None:
    def act() -> None:
        for call in (
            lambda: os.stat("d/f"),
            lambda: os.listdir("d"),
            lambda: os.unlink("d/f"),
            lambda: os.mkdir("d/s"),
        ):
            with refused(errno.EACCES):
                call()

    run_as_user(ALICE, act)
    run_as_user(BOB, lambda: read_file("d/f"))
    write_file("d/g", b"")
    run_as_user(ALICE, act)


@behaviour(lower={"f": File(b"x", mode=0o640, xattrs={ACCESS: BOBS_WRITE})}, identities=ROOT_ONLY)
def check_an_acl_lets_a_named_group_in_as_far_as_its_mask_goes() -> None:
    run_as_user(4099, lambda: _denied(os.O_RDONLY))
    run_as_user(4099, _reads_but_does_not_write, groups=[BOB])
    os.chmod("f", 0o660)
    run_as_user(4099, lambda: write_file("f", b"by a member"), groups=[BOB])


@behaviour(lower={"f": File(b"x", mode=0o600, xattrs={ACCESS: ALICE_READS})}, identities=ROOT_ONLY)
def check_only_the_owner_changes_an_acl() -> None:
    def act() -> None:
        with refused(errno.EPERM):
            os.setxattr("f", ACCESS, ALICE_HAS_ALL)
        with refused(errno.EPERM):
            os.removexattr("f", ACCESS)

    run_as_user(ALICE, act)


@behaviour(lower={"f": File(b"x", mode=0o600, xattrs={ACCESS: ALICE_READS})}, identities=ROOT_ONLY)
def check_an_acl_survives_copy_up() -> None:
    os.utime("f")
    assert os.getxattr("f", ACCESS) == ALICE_READS
    run_as_user(ALICE, _reads_but_does_not_write)


@behaviour(lower={"f": File(b"x", mode=0o600)}, identities=ROOT_ONLY)
def check_an_acl_can_be_set_and_removed() -> None:
    run_as_user(ALICE, lambda: _denied(os.O_RDONLY))
    os.setxattr("f", ACCESS, ALICE_READS)
    assert mode_of("f") == 0o640
    run_as_user(ALICE, _reads_but_does_not_write)
    os.removexattr("f", ACCESS)
    os.chmod("f", 0o600)
    run_as_user(ALICE, lambda: _denied(os.O_RDONLY))


@behaviour(lower={"f": File(b"x", mode=0o600, xattrs={ACCESS: ALICE_READS})}, identities=ROOT_ONLY)
def check_chmod_changes_the_mask_of_an_acl() -> None:
    os.chmod("f", 0o600)
    run_as_user(ALICE, lambda: _denied(os.O_RDONLY))
    os.chmod("f", 0o660)
    run_as_user(ALICE, _reads_but_does_not_write)


@behaviour(lower={"d": Dir(xattrs={DEFAULT: ALICE_HAS_ALL})}, identities=ROOT_ONLY)
def check_a_default_acl_is_inherited_instead_of_the_umask() -> None:
    os.umask(0o077)
    write_file("d/f", b"x", 0o666)
    os.mkdir("d/s", 0o777)
    assert mode_of("d/f") == 0o660
    assert mode_of("d/s") == 0o770
    assert os.getxattr("d/s", DEFAULT) == ALICE_HAS_ALL
    run_as_user(ALICE, lambda: write_file("d/f", b"by alice"))


@behaviour(lower={"d": Dir(), "old": Dir(xattrs={DEFAULT: ALICE_HAS_ALL})}, identities=ROOT_ONLY)
def check_a_default_acl_survives_copy_up_of_its_directory() -> None:
    os.chmod("old", 0o700)
    assert os.getxattr("old", DEFAULT) == ALICE_HAS_ALL
    os.mkdir("old/s")
    assert os.getxattr("old/s", DEFAULT) == ALICE_HAS_ALL


@behaviour(lower={"f": File(mode=0o640)})
def check_an_acl_that_says_no_more_than_the_mode_sets_the_mode() -> None:
    plain = acl(6, 6, 4)
    os.setxattr("f", ACCESS, plain)
    assert mode_of("f") == 0o664
    assert ACCESS not in os.listxattr("f")


@behaviour(lower={"f": File()})
def check_a_broken_acl_is_refused() -> None:
    with refused(errno.EINVAL, errno.EOPNOTSUPP):
        os.setxattr("f", ACCESS, b"nonsense")
    with refused(errno.EACCES, errno.EINVAL):
        os.setxattr("f", DEFAULT, acl(7, 7, 0))


@behaviour(lower={"f": File(b"x", mode=0o644, uid=ALICE)}, identities=ROOT_ONLY)
def check_a_descriptor_keeps_the_rights_it_was_opened_with() -> None:
    with opened("f", os.O_RDWR) as fd:

        def act() -> None:
            os.write(fd, b"y")

        os.chmod("f", 0o400)
        run_as_user(BOB, act)
    assert read_file("f") == b"y"


@behaviour(lower={"d": Dir(mode=0o755), "d/f": File(b"x", mode=0o000)}, identities=ROOT_ONLY)
def check_an_unreadable_file_moves_with_write_permission_on_its_directory() -> None:
    os.chmod("d", 0o777)
    run_as_user(ALICE, lambda: os.rename("d/f", "d/g"))
    assert list_names("d") == ["g"]
    assert read_file("d/g") == b"x"


def _kernel_finds_no_acl_in_a_lower() -> None:
    with refused(errno.ENODATA):
        os.removexattr("f", ACCESS)
    os.utime("f")
    os.removexattr("f", ACCESS)


KERNEL_MISSES_AN_ACL = {
    "kernel": Instead(
        "before copy-up it asks the lower for the ACL first (fs/overlayfs/inode.c)",
        _kernel_finds_no_acl_in_a_lower,
    )
}


@behaviour(
    lower={"f": File(b"x"), "d": Dir(), "d/f": File()},
    differs=KERNEL_MISSES_AN_ACL,
)
def check_an_acl_that_is_not_there_can_be_removed() -> None:
    for path in ("f", "d", "d/f"):
        for name in (ACCESS, DEFAULT):
            os.removexattr(path, name)
    os.chmod("f", 0o640)
    os.removexattr("f", ACCESS)
    assert mode_of("f") == 0o640


@behaviour()
def check_an_acl_that_is_not_there_can_be_removed_from_something_new() -> None:
    os.mkdir("d")
    write_file("d/f", b"x", 0o640)
    for path in ("d", "d/f", "."):
        for name in (ACCESS, DEFAULT):
            os.removexattr(path, name)
    assert mode_of("d/f") == 0o640


@behaviour(lower={"d": Dir(xattrs={DEFAULT: ALICE_HAS_ALL})}, identities=ROOT_ONLY)
def check_an_acl_can_be_removed_twice() -> None:
    for _ in range(2):
        os.removexattr("d", DEFAULT)
        assert DEFAULT not in os.listxattr("d")
    write_file("d/f", b"x", 0o640)
    assert ACCESS not in os.listxattr("d/f")


@behaviour(lower={"f": File(uid=ALICE)}, identities=ROOT_ONLY)
def check_removing_a_missing_acl_is_for_the_owner() -> None:
    os.utime("f")

    def act() -> None:
        with refused(errno.EPERM):
            os.removexattr("f", ACCESS)

    run_as_user(BOB, act)
    run_as_user(ALICE, lambda: os.removexattr("f", ACCESS))


@behaviour(lower={"f": File(), "d": Dir()})
def check_a_default_acl_is_for_directories() -> None:
    plain = acl(7, 5, 0)
    with refused(errno.EACCES):
        os.setxattr("f", DEFAULT, plain)
    os.setxattr("d", DEFAULT, plain)
    assert os.getxattr("d", DEFAULT) == plain


SHARED_WITH_SET_GROUP_ID: dict[str, File | Dir] = {
    "f": File(mode=0o2775, uid=ALICE, gid=BOB),
    "g": File(mode=0o2664, uid=ALICE, gid=BOB),
    "d": Dir(mode=0o2775, uid=ALICE, gid=BOB),
    "s": File(mode=0o6775, uid=ALICE, gid=BOB),
}
ANOTHER_READS = acl(7, 7, 5, users={BOB: 4}, mask=7)
SAYS_NO_MORE_THAN_A_MODE = acl(7, 7, 5)


@behaviour(lower=SHARED_WITH_SET_GROUP_ID, identities=ROOT_ONLY)
def check_an_acl_set_from_outside_the_group_clears_the_set_group_id_bit() -> None:
    def act() -> None:
        os.setxattr("f", ACCESS, ANOTHER_READS)
        os.setxattr("d", ACCESS, ANOTHER_READS)
        os.setxattr("s", ACCESS, ANOTHER_READS)
        os.setxattr("g", ACCESS, SAYS_NO_MORE_THAN_A_MODE)

    run_as_user(ALICE, act)
    assert [mode_of(name) for name in "fgds"] == [0o775, 0o775, 0o775, 0o4775]
    assert os.getxattr("f", ACCESS) == ANOTHER_READS


@behaviour(lower=SHARED_WITH_SET_GROUP_ID, identities=ROOT_ONLY, remount=True)
def check_a_set_group_id_bit_that_an_acl_cleared_stays_cleared() -> Iterator[None]:
    run_as_user(ALICE, lambda: os.setxattr("f", ACCESS, ANOTHER_READS))
    yield
    assert mode_of("f") == 0o775


@behaviour(lower=SHARED_WITH_SET_GROUP_ID, identities=ROOT_ONLY)
def check_an_acl_set_by_a_member_or_root_keeps_the_set_group_id_bit() -> None:
    run_as_user(ALICE, lambda: os.setxattr("f", ACCESS, ANOTHER_READS), groups=[BOB])
    run_as_user(ALICE, lambda: os.setxattr("d", ACCESS, ANOTHER_READS), groups=[BOB])
    os.setxattr("s", ACCESS, ANOTHER_READS)
    os.setxattr("g", ACCESS, SAYS_NO_MORE_THAN_A_MODE)
    assert [mode_of(name) for name in "fgds"] == [0o2775, 0o2775, 0o2775, 0o6775]


@behaviour(lower=SHARED_WITH_SET_GROUP_ID, identities=ROOT_ONLY)
def check_a_default_acl_and_other_attributes_keep_the_set_group_id_bit() -> None:
    def act() -> None:
        os.setxattr("d", DEFAULT, ANOTHER_READS)
        os.setxattr("f", "user.note", b"x")

    run_as_user(ALICE, act)
    assert (mode_of("d"), mode_of("f")) == (0o2775, 0o2775)


@behaviour(lower=SHARED_WITH_SET_GROUP_ID, identities=ROOT_ONLY)
def check_a_mode_set_from_outside_the_group_has_no_set_group_id_bit() -> None:
    def act() -> None:
        os.chmod("f", 0o2771)
        os.chmod("d", 0o2771)

    run_as_user(ALICE, act)
    assert (mode_of("f"), mode_of("d")) == (0o771, 0o771)
    run_as_user(ALICE, lambda: os.chmod("g", 0o2771), groups=[BOB])
    os.chmod("s", 0o6771)
    assert (mode_of("g"), mode_of("s")) == (0o2771, 0o6771)


@behaviour(
    lower={"d": Dir(mode=0o2777, uid=ALICE, gid=BOB, xattrs={DEFAULT: ALICE_HAS_ALL})},
    identities=ROOT_ONLY,
)
def check_a_new_name_in_a_set_group_id_directory_inherits_group_and_acl() -> None:
    def act() -> None:
        os.umask(0o077)
        os.mkdir("d/s", 0o777)
        write_file("d/f", b"x", 0o2777)

    run_as_user(ALICE, act)
    assert [os.stat(f"d/{name}").st_gid for name in "sf"] == [BOB, BOB]
    assert (mode_of("d/s"), mode_of("d/f")) == (0o2770, 0o770)
    assert os.getxattr("d/s", DEFAULT) == ALICE_HAS_ALL
    assert os.getxattr("d/f", ACCESS) == os.getxattr("d/s", ACCESS)


@behaviour(lower={"f": File(mode=0o2775), "d": Dir(mode=0o2775)})
def check_root_keeps_the_set_group_id_bit_under_an_acl() -> None:
    others = acl(7, 7, 5, users={0: 4}, mask=7)
    for path in ("f", "d"):
        os.setxattr(path, ACCESS, others)
        assert mode_of(path) == 0o2775
