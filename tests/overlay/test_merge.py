"""Lookup and listing in a stack of layers, with the markers of this and other overlays."""

from __future__ import annotations

import errno
import os

import pytest

from overlaykit.overlay.stack import MergeOptions

from ..crash.disks import image
from ..posix.layers import write_layer
from ..posix.table import Dir, Entry, File, Symlink, Whiteout
from .deep import DEEP_PATH, make_deep
from .inside import as_root
from .stack import Stack
from .view import refused


def test_the_topmost_file_is_shown(stack: Stack) -> None:
    stack.add({"f": File(b"top")})
    stack.add({"f": File(b"middle"), "g": File(b"middle")})
    stack.add({"f": File(b"bottom"), "g": File(b"bottom"), "h": File(b"bottom")})
    with stack.open() as view:
        assert [view.read(name) for name in "fgh"] == [b"top", b"middle", b"bottom"]
        assert sorted(view.names()) == ["f", "g", "h"]


def test_directories_of_all_layers_are_one(stack: Stack) -> None:
    for number in range(12):
        stack.add({f"d/e/{number}": File(b"%d" % number)})
    with stack.open() as view:
        assert sorted(view.names("d/e"), key=int) == [str(number) for number in range(12)]
        assert view.read("d/e/11") == b"11"


@as_root
def test_a_layer_may_list_files_without_their_kinds(stack: Stack) -> None:
    with image(stack.directory, "mkfs.ext4", "-q", "-O", "^filetype", megabytes=16) as (_, disk):
        lower = os.path.join(disk, "lower")
        os.mkdir(lower)
        markers = {stack.marker("opaque"): b"x"}
        content: dict[str, Entry] = {"f": File(), "s": Symlink("f"), "gone": Whiteout()}
        content |= {".wh.too": File(), "d/.wh.below": File()}
        content |= {"marked": Dir(xattrs=markers)}
        content |= {"marked/gone": File(xattrs={stack.marker("whiteout"): b""})}
        write_layer(content, lower, xattr_prefix=stack.prefix)
        stack.lowers.append(lower)
        hidden = {"gone": File(), "too": File(), "d/below": File(), "marked/gone": File()}
        stack.add(hidden | {"kept": File()})
        with stack.open(as_kernel=False) as view:
            assert sorted(view.names()) == ["d", "f", "kept", "marked", "s"]
            assert view.names("d") == view.names("marked") == []


def test_a_merged_directory_looks_like_its_topmost_part(stack: Stack) -> None:
    stack.add({"d": Dir(mode=0o700, xattrs={"user.a": b"top"})})
    stack.add({"d": Dir(mode=0o755, xattrs={"user.b": b"bottom"})})
    with stack.open() as view:
        assert view.stat("d").stat.st_mode & 0o777 == 0o700
        assert view.xattrs("d") == {"user.a": b"top"}
        # 1 means "unknown": tools must not derive the number of subdirectories from it.
        assert view.stat("d").link_count == 1


@pytest.mark.parametrize("above", [File(b"x"), Symlink("elsewhere")], ids=["file", "symlink"])
def test_a_file_of_another_kind_hides_a_directory_below(
    stack: Stack, above: File | Symlink
) -> None:
    stack.add({"d": above})
    stack.add({"d/below": File()})
    with stack.open() as view, refused(errno.ENOTDIR):
        view.node("d/below")


def test_a_directory_hides_a_file_below_and_everything_under_that(stack: Stack) -> None:
    stack.add({"n/top": File()})
    stack.add({"n": File()})
    stack.add({"n/bottom": File()})
    with stack.open() as view:
        assert view.names("n") == ["top"]


def test_a_whiteout_in_a_lower_hides_only_the_layers_below(stack: Stack) -> None:
    stack.add({"g": File(b"top")})
    stack.add({"f": Whiteout(), "g": Whiteout(), "d": Whiteout()})
    stack.add({"f": File(), "g": File(), "d/x": File(), "other": File()})
    with stack.open() as view:
        assert sorted(view.names()) == ["g", "other"]
        assert view.read("g") == b"top"


def test_a_directory_above_a_whiteout_does_not_show_the_hidden_one(stack: Stack) -> None:
    stack.add({"d/top": File()})
    stack.add({"d": Whiteout()})
    stack.add({"d/bottom": File()})
    with stack.open() as view:
        assert view.names("d") == ["top"]
        assert not view.exists("d/bottom")


def test_an_opaque_directory_hides_only_the_layers_below(stack: Stack) -> None:
    stack.add({"d/top": File()})
    stack.add({"d": Dir(opaque=True), "d/middle": File()})
    stack.add({"d/bottom": File(), "d/sub/x": File()})
    with stack.open() as view:
        assert sorted(view.names("d")) == ["middle", "top"]
        assert not view.exists("d/sub")


# Markers of other overlays. The kernel's overlayfs shows them as files.


def test_the_whiteouts_of_oci_archives_hide_names(stack: Stack) -> None:
    stack.add({".wh.f": File(), "d/.wh.g": File(), "top": File()})
    stack.add({"f": File(), "d/g": File(), "d/h": File()})
    with stack.open(as_kernel=False) as view:
        assert sorted(view.names()) == ["d", "top"]
        assert view.names("d") == ["h"]
        assert not view.exists("f")
        assert not view.exists(".wh.f")


def test_an_oci_whiteout_does_not_hide_its_own_layers_file(stack: Stack) -> None:
    stack.add({"f": File(b"new"), ".wh.f": File()})
    stack.add({"f": File(b"old")})
    with stack.open(as_kernel=False) as view:
        assert view.names() == ["f"]
        assert view.read("f") == b"new"


def test_files_removed_with_their_directory_stay_removed_when_the_layer_makes_it_again(
    stack: Stack,
) -> None:
    stack.add({"d/new": File(), ".wh.d": File(), "d/sub/new": File()})
    stack.add({"d/old": File(), "d/sub/old": File()})
    with stack.open(as_kernel=False) as view:
        assert sorted(view.names("d")) == ["new", "sub"]
        assert view.names("d/sub") == ["new"]
        assert not view.exists("d/old")
        view.create("d/old", b"mine")
        view.unlink("d/old")
        assert not view.exists("d/old")


def test_opaque_directories_of_oci_archives_hide_the_layers_below(stack: Stack) -> None:
    stack.add({"d/.wh..wh..opq": File(), "d/new": File()})
    stack.add({"d/old": File(), "d/sub/x": File()})
    with stack.open(as_kernel=False) as view:
        assert view.names("d") == ["new"]
        assert not view.exists("d/old")
        assert not view.exists("d/sub/x")


def test_an_opaque_root_of_an_oci_layer_hides_all_below(stack: Stack) -> None:
    stack.add({".wh..wh..opq": File(), "new": File()})
    stack.add({"old": File()})
    with stack.open(as_kernel=False) as view:
        assert view.names() == ["new"]
        assert not view.exists("old")


def test_names_of_aufs_markers_cannot_be_made(stack: Stack) -> None:
    stack.add({"f": File()})
    with stack.open() as view:
        for make in (view.create, view.mkdir):
            with refused(errno.EINVAL):
                make(".wh.f")
        with refused(errno.EINVAL):
            view.rename("f", ".wh.g")
        with refused(errno.EINVAL):
            view.link("f", ".wh..wh..opq")
        assert view.names() == ["f"]


def test_a_name_too_long_for_an_oci_whiteout_is_found(stack: Stack) -> None:
    name = "n" * 255
    stack.add({})
    stack.add({name: File(b"x"), "n" * 252: File(b"y")})
    with stack.open() as view:
        assert view.read(name) == b"x"
        assert view.read("n" * 252) == b"y"


def test_opaque_directories_of_fuse_overlayfs_hide_the_layers_below(stack: Stack) -> None:
    stack.add({"d": Dir(xattrs={"user.fuseoverlayfs.opaque": b"y"}), "d/new": File()})
    stack.add({"d/old": File()})
    with stack.open(as_kernel=False) as view:
        assert view.names("d") == ["new"]


def test_whiteouts_in_attribute_form_hide_names(stack: Stack) -> None:
    marked = File(xattrs={stack.marker("whiteout"): b""})
    stack.add(
        {"d": Dir(xattrs={stack.marker("opaque"): b"x"}), "d/gone": marked, "d/empty": File()}
    )
    stack.add({"d/gone": File(), "d/empty": File(b"hidden"), "d/below": File()})
    with stack.open() as view:
        assert sorted(view.names("d")) == ["below", "empty"]
        assert not view.exists("d/gone")
        assert view.read("d/empty") == b""


def test_an_attribute_whiteout_has_no_effect_in_an_unmarked_directory(
    stack: Stack,
) -> None:
    stack.add({"d/f": File(xattrs={stack.marker("whiteout"): b""})})
    stack.add({"d/f": File(b"below")})
    with stack.open(as_kernel=False) as view:  # the kernel lists such a name, and does not find it
        assert view.names("d") == ["f"]
        assert view.read("d/f") == b""


# Redirects. In a user namespace the kernel does not follow them (userxattr implies redirect_dir=nofollow).


def test_a_redirect_can_be_a_name_beside_the_directory(stack: Stack) -> None:
    stack.add({"new": Dir(xattrs={stack.marker("redirect"): b"old"}), "new/top": File()})
    stack.add({"old/bottom": File(b"x")})
    with stack.open(as_kernel=not stack.unprivileged) as view:
        assert sorted(view.names("new")) == ["bottom", "top"]
        assert view.read("new/bottom") == b"x"


def test_a_redirect_can_be_a_path_from_the_root(stack: Stack) -> None:
    stack.add({"a/new": Dir(xattrs={stack.marker("redirect"): b"/b/c/old"})})
    stack.add({"b/c/old/bottom": File(b"x"), "a/new/not": File()})
    with stack.open(as_kernel=not stack.unprivileged) as view:
        assert view.names("a/new") == ["bottom"]


def test_a_redirect_under_a_prefix_that_is_not_ours_leads_nowhere(stack: Stack) -> None:
    # Root's is trusted.overlay: an ordinary user, who may write user.overlay, would choose what root's view shows.
    prefix = "user.overlay" if stack.prefix == "trusted" else "user.fuseoverlayfs"
    stack.add({"new": Dir(xattrs={f"{prefix}.redirect": b"/secret"}), "new/top": File()})
    stack.add({"secret/bottom": File(b"x"), "new/below": File()})
    with stack.open(as_kernel=not stack.unprivileged) as view:
        assert sorted(view.names("new")) == ["below", "top"]
        assert not view.exists("new/bottom")


def test_redirects_add_up_through_several_layers(stack: Stack) -> None:
    redirect = stack.marker("redirect")
    stack.add({"c": Dir(xattrs={redirect: b"b"}), "c/0": File()})
    stack.add({"b": Dir(xattrs={redirect: b"/deep/a"}), "b/1": File()})
    stack.add({"deep": Dir(xattrs={redirect: b"/deeper"}), "deep/a/2": File()})
    stack.add({"deeper/a": Dir(xattrs={redirect: b"z"}), "deeper/a/3": File()})
    stack.add({"deeper/z/4": File(), "deep/a/no": File(), "c/no": File(), "b/no": File()})
    with stack.open(as_kernel=not stack.unprivileged) as view:
        assert sorted(view.names("c")) == ["0", "1", "2", "3", "4"]
        assert view.exists("c/4")


def test_a_redirect_from_the_root_leads_out_of_a_directory_of_one_layer(
    stack: Stack,
) -> None:
    stack.add({"only/here/d": Dir(xattrs={stack.marker("redirect"): b"/old/place"})})
    stack.add({"other": File()})
    stack.add({"old/place/f": File(b"x")})
    with stack.open(as_kernel=not stack.unprivileged) as view:
        assert view.names("only/here/d") == ["f"]


@as_root
@pytest.mark.parametrize("target", [b"../x", b"/a/../b", b"a/b", b"", b"/", b"."])
def test_a_redirect_that_is_no_path_is_an_error(stack: Stack, target: bytes) -> None:
    stack.add({"d": Dir(xattrs={stack.marker("redirect"): target})})
    stack.add({"secret/x": File()})
    with stack.open(as_kernel=False) as view:
        with refused(errno.EIO):
            view.node("d")
        os.removexattr(os.path.join(stack.lowers[0], "d"), stack.marker("redirect"))


@as_root
def test_a_user_cannot_point_a_privileged_mount_elsewhere(stack: Stack) -> None:
    stack.add({"home": Dir(xattrs={"user.overlay.redirect": b"/root"})})
    stack.add({"root/secret": File()})
    with stack.open() as view:
        assert view.names("home") == []


def test_a_redirect_is_not_followed_with_redirect_dir_nofollow(stack: Stack) -> None:
    stack.add({"d": Dir(xattrs={stack.marker("redirect"): b"/elsewhere"})})
    stack.add({"elsewhere/f": File()})
    options = MergeOptions(redirect_dir="nofollow", userxattr=stack.unprivileged)
    with stack.open(options=options, as_kernel=False) as view:
        with refused(errno.EPERM):
            view.node("d")
        os.removexattr(os.path.join(stack.lowers[0], "d"), stack.marker("redirect"))


def test_symlinks_in_a_layer_are_never_followed(stack: Stack) -> None:
    outside = os.path.join(stack.directory, "outside")
    os.makedirs(os.path.join(outside, "d"))
    stack.add({"link": Symlink(outside), "top": File()})
    stack.add({"d": Symlink("/")})
    with stack.open() as view:
        assert view.readlink("link") == os.fsencode(outside)
        with refused(errno.ENOTDIR):
            view.node("link/d")
        with refused(errno.ENOTDIR):
            view.node("d/etc")


def test_files_with_paths_longer_than_path_max_are_found(stack: Stack) -> None:
    at = make_deep(stack.add({}))
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=at))
    os.close(at)
    with stack.open(as_kernel=False) as view:  # the kernel's is read by path
        assert view.names(DEEP_PATH) == ["f"]
        view.create(DEEP_PATH + "/new", b"x")
        view.write(DEEP_PATH + "/f", b"y")
        view.forget_everything()
        assert view.read(DEEP_PATH + "/new") == b"x"
        assert view.read(DEEP_PATH + "/f") == b"y"
