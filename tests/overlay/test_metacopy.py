"""Metacopies: a change of a lower's file that is not one of its data copies none, and loses none."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

import pytest

from overlaykit import _native
from overlaykit.overlay import features
from overlaykit.overlay.attributes import Changes
from overlaykit.overlay.stack import MergeOptions

from ..posix.table import Dir, File, Layer, Link, Whiteout
from .deep import DEEP_PATH, make_deep
from .inside import as_ordinary_user, as_root
from .stack import Stack
from .view import View, refused

DATA = b"bytes of the lower's file\n" * 40_000
METACOPY = "trusted.overlay.metacopy"
REDIRECT = "trusted.overlay.redirect"
CAPABILITY = "security.capability"
CAN_SETUID = bytes.fromhex("0100000280000000000000000000000000000000")
LONG_AGO = 1_234_567_890_123_456_789
ON = MergeOptions(metacopy=True)

Change = Callable[[View], object]

METADATA: dict[str, Change] = {
    "chmod": lambda view: view.change("d/f", Changes(mode=0o600)),
    "chown": lambda view: view.change("d/f", Changes(uid=12, gid=34)),
    "utimens": lambda view: view.change("d/f", Changes(mtime_ns=LONG_AGO, atime_ns=LONG_AGO)),
    "setxattr": lambda view: view.setxattr("d/f", "user.k", b"v"),
    "removexattr": lambda view: view.removexattr("d/f", "user.old"),
    "rename": lambda view: view.rename("d/f", "d/n"),
    "rename to another directory": lambda view: view.rename("d/f", "e/n"),
    "link": lambda view: view.link("d/f", "e/n"),
}


def lower() -> Layer:
    return {
        "d": Dir(),
        "d/f": File(DATA, 0o644, xattrs={"user.old": b"1"}),
        "d/g": File(b"other"),
        "e": Dir(),
    }


def on_disk(root: str) -> dict[str, os.stat_result]:
    """The regular files below a directory, by path."""
    found = {}
    for path, _, names in os.walk(root):
        for name in names:
            full = os.path.join(path, name)
            st = os.lstat(full)
            if stat.S_ISREG(st.st_mode):
                found[os.path.relpath(full, root)] = st
    return found


def is_marked(path: str) -> bool:
    return METACOPY in os.listxattr(path)


@as_root
@pytest.mark.parametrize("change", METADATA.values(), ids=METADATA)
def test_a_change_that_is_not_of_the_data_copies_none(stack: Stack, change: Change) -> None:
    stack.add(lower())
    with stack.open(options=ON) as view:
        change(view)
        names = [name for name in ("d/f", "d/n", "e/n") if view.exists(name)]
        for name in names:
            assert view.read(name) == DATA
        copies = on_disk(stack.upper)
        assert sorted(copies) == names
        for name, st in copies.items():
            assert st.st_size == len(DATA)
            assert st.st_blocks * 512 < 8192
            assert is_marked(os.path.join(stack.upper, name))
            assert view.stat(name).blocks * 512 >= len(DATA)


@as_root
@pytest.mark.parametrize("change", METADATA.values(), ids=METADATA)
@pytest.mark.parametrize("open_before", [False, True], ids=["closed", "open"])
def test_the_data_are_copied_at_the_first_write(
    stack: Stack, change: Change, open_before: bool
) -> None:
    stack.add(lower())
    with stack.open(options=ON) as view:
        handle = view.filesystem.files.open(view.file("d/f"), os.O_RDONLY) if open_before else 0
        change(view)
        for name in (name for name in ("d/f", "d/n", "e/n") if view.exists(name)):
            before = view.stat(name)
            view.write(name, b"new", 5)
            expected = DATA[:5] + b"new" + DATA[8:]
            assert view.read(name) == expected
            assert not is_marked(os.path.join(stack.upper, name))
            after = view.stat(name)
            assert (after.mode, after.uid, after.gid) == (before.mode, before.uid, before.gid)
            assert (after.nodeid, after.link_count) == (before.nodeid, before.link_count)
            with open(os.path.join(stack.upper, name), "rb") as file:
                assert file.read() == expected
            if open_before:
                assert view.filesystem.files.read(handle, 0, len(DATA)) == expected
            break
        if open_before:
            view.filesystem.files.release(handle)


@as_root
@pytest.mark.parametrize(
    ("size", "by_open"), [(0, True), (0, False), (7, False), (len(DATA) + 9, False)]
)
def test_a_metacopy_is_truncated(stack: Stack, size: int, by_open: bool) -> None:
    stack.add(lower())
    with stack.open(options=ON) as view:
        view.change("d/f", Changes(mode=0o600))
        if by_open:
            with view.opened("d/f", os.O_WRONLY | os.O_TRUNC):
                pass
        else:
            view.change("d/f", Changes(size=size))
        assert view.read("d/f") == DATA[:size].ljust(size, b"\0")
        assert not is_marked(os.path.join(stack.upper, "d/f"))


@as_root
def test_an_empty_file_is_copied_whole(stack: Stack) -> None:
    stack.add({"f": File(b"")})
    with stack.open(options=ON) as view:
        view.change("f", Changes(mode=0o600))
        assert not is_marked(os.path.join(stack.upper, "f"))
        view.write("f", b"x")
        assert view.read("f") == b"x"


@as_root
def test_what_a_renamed_directory_holds_is_found(stack: Stack) -> None:
    stack.add(lower())
    with stack.open(options=ON) as view:
        view.change("d/f", Changes(mode=0o600))
        view.rename("d", "e/deep")
        view.rename("e/deep/g", "e/g")
        view.rename("e/deep/f", "e/deep/n")
        assert (view.read("e/deep/n"), view.read("e/g")) == (DATA, b"other")


@as_root
def test_a_name_that_moves_several_times_leads_to_its_data(stack: Stack) -> None:
    stack.add(lower())
    with stack.open(options=ON) as view:
        view.rename("d/f", "d/f2")
        view.rename("d/f2", "e/f3")
        view.mkdir("new")
        view.rename("e/f3", "new/f4")
        view.rename("new", "new2")
        view.rename("new2/f4", "d/f")
        assert view.read("d/f") == DATA
        assert os.getxattr(os.path.join(stack.upper, "d/f"), REDIRECT) == b"/d/f"


@as_root
def test_two_metacopies_are_exchanged(stack: Stack) -> None:
    stack.add(lower())
    with stack.open(options=ON) as view:
        view.rename("d/f", "d/g", _native.RENAME_EXCHANGE)
        assert (view.read("d/f"), view.read("d/g")) == (b"other", DATA)
        view.write("d/g", b"new")
        assert view.read("d/g") == b"new" + DATA[3:]


@as_root
def test_a_redirect_without_room_has_the_data_copied(stack: Stack) -> None:
    below = make_deep(stack.add({}))
    with open(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=below), "wb") as file:
        file.write(DATA)
    os.close(below)
    with stack.bare(options=ON) as view:
        view.rename(f"{DEEP_PATH}/f", "n")
        assert view.read("n") == DATA
    assert not is_marked(os.path.join(stack.upper, "n"))
    with stack.bare(options=ON) as view:
        assert view.read("n") == DATA
        assert not view.exists(f"{DEEP_PATH}/f")


@as_root
@pytest.mark.parametrize("index", [True, False])
def test_hard_links_of_a_lower_stay_one_file_with_its_data(stack: Stack, index: bool) -> None:
    stack.add({"a": File(DATA), "d": Dir(), "d/b": Link("a"), "d/c": Link("a")})
    options = MergeOptions(metacopy=True, index=index)
    with stack.open(options=options, as_kernel=index, remount=index) as view:
        for name in ("a", "d/b", "d/c"):
            view.node(name)
        view.change("d/b", Changes(mode=0o600))
        view.rename("d/b", "n")
        view.unlink("a")
        assert (view.read("n"), view.read("d/c")) == (DATA, DATA)
        assert view.stat("n").link_count == 2
        view.write("d/c", b"new")
        assert view.read("n") == b"new" + DATA[3:]
        assert view.nodeid("n") == view.nodeid("d/c")


@as_root
def test_a_name_that_is_not_copied_up_yet_shows_the_indexed_metacopy(stack: Stack) -> None:
    stack.add({"a": File(DATA), "b": Link("a")})
    with stack.open(options=ON) as view:
        view.change("a", Changes(mode=0o600))
    with stack.open(options=ON) as view:
        assert view.read("b") == DATA
        assert stat.S_IMODE(view.stat("b").mode) == 0o600
        view.rename("b", "c")
        assert (view.read("a"), view.read("c")) == (DATA, DATA)
    with stack.open(options=ON) as view:
        view.write("c", b"new")
        assert view.read("a") == b"new" + DATA[3:]


@as_root
def test_an_open_metacopy_that_loses_its_name_is_read_and_written(stack: Stack) -> None:
    stack.add(lower())
    with stack.open(options=ON) as view:
        files = view.filesystem.files
        view.change("d/f", Changes(mode=0o600))
        node = view.file("d/f")
        handle = files.open(node, os.O_RDONLY)
        view.unlink("d/f")
        assert files.read(handle, 0, len(DATA)) == DATA
        view.filesystem.copyup.file(node)
        assert files.write(handle, 0, b"new") == 3
        assert files.read(handle, 0, len(DATA)) == b"new" + DATA[3:]
        files.release(handle)


@as_root
def test_set_id_bits_and_capabilities_outlive_the_copy_of_the_data(stack: Stack) -> None:
    stack.add({"f": File(DATA, 0o4755)})
    os.setxattr(os.path.join(stack.lowers[0], "f"), CAPABILITY, CAN_SETUID)
    with stack.open(options=ON) as view:
        view.change("f", Changes(mtime_ns=LONG_AGO))
        view.filesystem.copyup.file(view.file("f"))
        assert stat.S_IMODE(view.stat("f").mode) == 0o4755
        assert view.getxattr("f", CAPABILITY) == CAN_SETUID
        assert view.stat("f").stat.st_mtime_ns == LONG_AGO


@as_root
def test_a_hole_stays_a_hole_and_the_size_stays(stack: Stack) -> None:
    stack.add({"f": File(b"start")})
    os.truncate(os.path.join(stack.lowers[0], "f"), 10 << 20)
    with stack.open(options=ON) as view:
        view.change("f", Changes(mode=0o600))
        view.write("f", b"S")
        assert view.stat("f").stat.st_size == 10 << 20
        assert view.stat("f").blocks * 512 < 1 << 20
        assert view.read("f")[:8] == b"Start\0\0\0"


@as_root
def test_an_upper_with_metacopies_is_a_lower_too(stack: Stack) -> None:
    bottom = stack.add(lower())
    with stack.open(options=ON) as view:
        view.change("d/g", Changes(mode=0o600))
        view.rename("d/f", "e/n")
    middle = os.path.join(stack.directory, "middle")
    os.rename(stack.upper, middle)
    stack.lowers = [middle, bottom]
    os.rename(stack.work, stack.work + ".old")
    with stack.open(options=ON) as view:
        assert (view.read("e/n"), view.read("d/g")) == (DATA, b"other")
        assert view.stat("e/n").blocks * 512 >= len(DATA)
        view.change("e/n", Changes(mode=0o640))
        view.rename("d/g", "d/h")
        assert (view.read("e/n"), view.read("d/h")) == (DATA, b"other")
        assert is_marked(os.path.join(stack.upper, "d/h"))
    with stack.open(options=ON) as view:
        view.rename("e/n", "m")
        view.write("m", b"new")
        view.write("d/h", b"O")
        assert (view.read("m"), view.read("d/h")) == (b"new" + DATA[3:], b"Other")


@as_root
def test_a_lower_metacopy_is_copied_whole_where_none_are_made(stack: Stack) -> None:
    bottom = stack.add(lower())
    with stack.open(options=ON) as view:
        view.change("d/f", Changes(mode=0o600, mtime_ns=LONG_AGO))
        view.rename("d/g", "g")
    middle = os.path.join(stack.directory, "middle")
    os.rename(stack.upper, middle)
    stack.lowers = [middle, bottom]
    os.rename(stack.work, stack.work + ".old")
    with stack.bare() as view:
        with view.opened("g") as handle:
            view.change("d/f", Changes(mode=0o640))
            view.write("g", b"O")
            assert view.filesystem.files.read(handle, 0, 9) == b"Other"
        assert stat.S_IMODE(view.stat("d/f").mode) == 0o640
        assert view.stat("d/f").stat.st_mtime_ns == LONG_AGO
    for name, data in (("d/f", DATA), ("g", b"Other")):
        assert not is_marked(os.path.join(stack.upper, name))
        with open(os.path.join(stack.upper, name), "rb") as file:
            assert file.read() == data


@as_root
def test_a_half_copied_metacopy_has_the_data_of_its_lower(stack: Stack) -> None:
    stack.add(lower())
    with stack.open(options=ON) as view:
        view.change("d/f", Changes(mode=0o600))
    with open(os.path.join(stack.upper, "d/f"), "r+b") as file:  # what a crash leaves
        file.write(DATA[:5000])
    for options in (ON, MergeOptions()):
        with stack.bare(options=options) as view:
            assert view.read("d/f") == DATA
    middle = os.path.join(stack.directory, "middle")
    os.rename(stack.upper, middle)
    stack.lowers.insert(0, middle)
    os.rename(stack.work, stack.work + ".old")
    with stack.open(options=ON) as view:
        assert view.read("d/f") == DATA
        view.write("d/f", b"B")
        assert view.read("d/f") == b"B" + DATA[1:]


@as_root
def test_without_the_option_metacopies_are_read_and_written_but_not_made(stack: Stack) -> None:
    stack.add(lower())
    with stack.open(options=ON) as view:
        view.change("d/f", Changes(mode=0o600))
    with stack.bare() as view:
        view.change("d/f", Changes(mode=0o640))
        view.change("d/g", Changes(mode=0o600))
        view.rename("d/f", "e/n")
        assert (view.read("e/n"), view.read("d/g")) == (DATA, b"other")
    assert is_marked(os.path.join(stack.upper, "e/n"))
    assert not is_marked(os.path.join(stack.upper, "d/g"))
    with stack.bare() as view:
        view.write("e/n", b"new")
        assert view.read("e/n") == b"new" + DATA[3:]


@as_root
@pytest.mark.parametrize("write", ["data", "metadata"])
def test_data_that_are_nowhere_are_an_error_and_not_zeros(stack: Stack, write: str) -> None:
    stack.add(lower())
    with stack.open(options=ON) as view:
        view.change("d/f", Changes(mode=0o600))
    os.unlink(os.path.join(stack.lowers[0], "d/f"))
    with stack.bare(options=ON) as view:
        with refused(errno.EIO):
            view.read("d/f")
        if write == "metadata":
            view.change("d/f", Changes(mode=0o640))
        else:
            with refused(errno.EIO):
                view.write("d/f", b"new")
        with refused(errno.EIO):
            view.read("d/f")
        assert is_marked(os.path.join(stack.upper, "d/f"))
        with view.opened("d/f", os.O_WRONLY | os.O_TRUNC):
            pass
        assert view.read("d/f") == b""
        view.unlink("d/f")
        assert not view.exists("d/f")


@as_root
@pytest.mark.parametrize(
    "below",
    [{"f": Dir()}, {"f": Whiteout()}],
    ids=["a directory", "a whiteout"],
)
def test_only_a_file_holds_the_data(stack: Stack, below: Layer) -> None:
    stack.add({"f": File(b"0" * 100)})
    stack.add(below)
    stack.add({"f": File(b"1" * 100)})
    os.setxattr(os.path.join(stack.lowers[0], "f"), METACOPY, b"")
    with stack.bare(options=ON) as view, refused(errno.EIO):
        view.read("f")


@as_root
@pytest.mark.parametrize("redirect", [b"../f", b"a//b", b"/", b""])
def test_a_redirect_that_is_no_path_leads_nowhere(stack: Stack, redirect: bytes) -> None:
    stack.add({"f": File(b"0" * 100)})
    stack.add({"f": File(b"1" * 100)})
    os.setxattr(os.path.join(stack.lowers[0], "f"), METACOPY, b"")
    os.setxattr(os.path.join(stack.lowers[0], "f"), REDIRECT, redirect)
    with stack.bare(options=ON) as view, refused(errno.EIO):
        view.read("f")


@as_root
def test_redirects_that_are_not_to_be_followed_lead_nowhere(stack: Stack) -> None:
    stack.add(lower())
    with stack.open(options=ON) as view:
        view.rename("d/f", "n")
        view.change("d/g", Changes(mode=0o600))
    with stack.bare(options=MergeOptions(redirect_dir="nofollow")) as view:
        with refused(errno.EIO):
            view.read("n")
        assert view.read("d/g") == b"other"


@as_root
@pytest.mark.parametrize(
    "marker", [b"x", b"\1\4\0\0", b"\0\5\0\0"], ids=["short", "version", "length"]
)
def test_a_marker_of_another_kind_is_an_error(stack: Stack, marker: bytes) -> None:
    stack.add({"f": File(b"data")})
    with stack.open(options=ON) as view:
        view.change("f", Changes(mode=0o600))
    os.setxattr(os.path.join(stack.upper, "f"), METACOPY, marker)
    with stack.bare(options=ON) as view, refused(errno.EIO):
        view.read("f")


@as_root
def test_a_digest_is_checked_only_if_that_is_asked_for(stack: Stack) -> None:
    stack.add({"f": File(b"data"), "g": File(b"data")})
    with stack.open(options=ON) as view:
        view.change("f", Changes(mode=0o600))
        view.change("g", Changes(mode=0o600))
    # SHA-256, of data that have no digest of their own.
    os.setxattr(os.path.join(stack.upper, "f"), METACOPY, b"\0\x24\0\1" + bytes(32))
    with stack.bare() as view:
        assert view.read("f") == b"data"
    with stack.bare(options=MergeOptions(verity="on")) as view:
        assert view.read("g") == b"data"
        with refused(errno.EIO):
            view.read("f")
        with refused(errno.EIO):
            view.write("f", b"new")
    with stack.bare(options=MergeOptions(verity="require", metacopy=True)) as view:
        for name in ("f", "g"):
            with refused(errno.EIO):
                view.read(name)


@as_root
@pytest.mark.parametrize(
    "options",
    [
        MergeOptions(metacopy=True, userxattr=True),
        MergeOptions(metacopy=True, redirect_dir="follow"),
        MergeOptions(metacopy=True, verity="on"),
        MergeOptions(metacopy=True, override=b"security.fuseoverlayfs.override_stat"),
    ],
    ids=["userxattr", "redirect_dir", "verity", "owners in attributes"],
)
def test_where_a_metacopy_would_be_out_of_reach_the_data_are_copied(
    stack: Stack, options: MergeOptions
) -> None:
    stack.add(lower())
    with stack.bare(options=options) as view:
        view.change("d/f", Changes(mode=0o600))
    with open(os.path.join(stack.upper, "d/f"), "rb") as file:
        assert file.read() == DATA


@as_ordinary_user
def test_an_ordinary_user_copies_the_data(stack: Stack) -> None:
    stack.add(lower())
    options = MergeOptions(metacopy=True, userxattr=True)
    with stack.bare(options=options) as view:
        view.change("d/f", Changes(mode=0o600))
    with open(os.path.join(stack.upper, "d/f"), "rb") as file:
        assert file.read() == DATA


@as_root
def test_roots_metacopies_are_not_shown_empty_under_users_markers(stack: Stack) -> None:
    stack.add(lower())
    with stack.open(options=ON) as view:
        view.change("d/f", Changes(mode=0o600))
    os.removexattr(os.path.join(stack.upper), "trusted.overlay.impure")
    with stack.bare(options=MergeOptions(userxattr=True)) as view, refused(errno.EIO):
        view.read("d/f")


@as_root
def test_a_program_sees_no_marker_of_a_metacopy(stack: Stack) -> None:
    stack.add(lower())
    with stack.open(options=ON) as view:
        view.rename("d/f", "e/n")
        assert set(view.xattrs("e/n")) == {"user.old"}


@as_root
def test_the_first_metacopy_is_recorded(stack: Stack) -> None:
    stack.add(lower())
    with stack.open(options=ON) as view:
        root = os.fsencode(stack.upper)
        assert features.METACOPY not in (features.read(root, b"trusted.overlay.") or ())
        view.change("d/f", Changes(mode=0o600))
        assert features.METACOPY in (features.read(root, b"trusted.overlay.") or ())


@as_root
def test_an_owner_change_of_a_large_tree_costs_what_its_inodes_cost(stack: Stack) -> None:
    count, size = 1000, 1 << 20
    root = stack.add({})
    for number in range(count):
        with open(os.path.join(root, f"f{number}"), "wb") as file:
            file.truncate(size)  # a hole: the upper is what counts
    with stack.bare(options=ON) as view:
        for number in range(count):
            view.change(f"f{number}", Changes(uid=1000, gid=1000))
        copies = on_disk(stack.upper)
        assert len(copies) == count
        assert all(st.st_size == size and st.st_uid == 1000 for st in copies.values())
        assert sum(st.st_blocks for st in copies.values()) * 512 <= count * 4096
        assert view.read("f7") == bytes(size)


# The kernel's overlayfs


@as_root
def test_what_the_kernel_left_below_is_read_and_written(stack: Stack) -> None:
    stack.add({**lower(), "h1": File(b"linked"), "h2": Link("h1"), "empty": File(b"")})
    with stack.mounted_by_the_kernel(metacopy=True) as target:
        os.chmod(f"{target}/d/f", 0o600)
        os.rename(f"{target}/d/f", f"{target}/e/n")
        os.rename(f"{target}/d/g", f"{target}/d/h")
        os.chmod(f"{target}/h1", 0o600)
        os.chmod(f"{target}/empty", 0o600)
    assert is_marked(os.path.join(stack.upper, "empty"))
    with stack.open(options=ON) as view:
        assert (view.read("e/n"), view.read("d/h")) == (DATA, b"other")
        assert (view.read("h1"), view.read("h2")) == (b"linked", b"linked")
        view.rename("d/h", "e/h")
        view.rename("h2", "e/h2")
        view.write("empty", b"x")
        assert (view.read("e/h"), view.read("e/h2")) == (b"other", b"linked")
    with stack.open(options=ON) as view:
        view.write("e/n", b"new")
        view.write("e/h", b"O")
        view.write("e/h2", b"L")
        assert (view.read("e/n"), view.read("h1")) == (b"new" + DATA[3:], b"Linked")
        assert (view.read("e/h"), view.read("empty")) == (b"Other", b"x")


@as_root
def test_the_kernel_reads_and_writes_what_we_left_below(stack: Stack) -> None:
    stack.add({**lower(), "h1": File(b"linked"), "h2": Link("h1")})
    with stack.open(options=ON) as view:
        for change in (METADATA["chmod"], METADATA["rename to another directory"]):
            change(view)
        view.link("d/g", "e/g")
        view.change("h1", Changes(mode=0o600))
        view.rename("h2", "e/h2")
    with stack.mounted_by_the_kernel(metacopy=True) as target:
        for name in ("e/n", "e/g", "h1"):
            with open(f"{target}/{name}", "r+b") as file:
                file.write(b"NEW")
    with stack.open(options=ON) as view:
        assert view.read("e/n") == b"NEW" + DATA[3:]
        assert (view.read("e/g"), view.read("d/g")) == (b"NEWer", b"NEWer")
        assert (view.read("h1"), view.read("e/h2")) == (b"NEWked", b"NEWked")


@as_root
def test_blocks_are_those_that_the_kernel_shows(stack: Stack) -> None:
    stack.add(lower())
    with stack.bare(options=ON) as view:
        view.change("d/f", Changes(mode=0o600))
        view.rename("d/g", "e/g")
        shown = {name: view.stat(name).blocks for name in ("d/f", "e/g")}
    with stack.mounted_by_the_kernel(metacopy=True) as target:
        assert shown == {name: os.stat(f"{target}/{name}").st_blocks for name in shown}
