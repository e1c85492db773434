from __future__ import annotations

import os

from overlaykit import _native
from overlaykit.layers import host
from overlaykit.mountinfo import Mount, outermost, parse, visible

from ..posix.syscalls import MS_BIND
from .conftest import User


def test_mountpoints_with_spaces_and_backslashes_are_understood() -> None:
    line = rb"36 35 98:0 /r /mnt/a\040b\134c\011d rw,idmapped shared:1 master:2 - ext4 /dev/sda rw"
    assert parse(line) == [
        Mount(
            id=36,
            parent=35,
            device=os.makedev(98, 0),
            root="/r",
            mountpoint="/mnt/a b\\c\td",
            fstype="ext4",
            idmapped=True,
            options=("rw",),
        )
    ]


def test_a_mount_on_a_deleted_directory_is_left_out() -> None:
    assert parse(rb"36 35 98:0 / /mnt/gone//deleted rw - ext4 /dev/sda rw") == []


def test_mounts_that_no_path_reaches_do_not_decide_anything() -> None:
    def mount(number: int, parent: int, mountpoint: str) -> Mount:
        return Mount(
            id=number,
            parent=parent,
            device=0,
            root="/",
            mountpoint=mountpoint,
            fstype="ext4",
            idmapped=False,
        )

    root = mount(1, 0, "/")
    covered = mount(2, 1, "/a/b")
    covering = mount(3, 1, "/a")
    # A child of the covering mount.
    above = mount(4, 3, "/a/b")
    below_covered = mount(5, 2, "/a/b/c")
    first = mount(6, 1, "/d")
    over_first = mount(7, 6, "/d")
    mounts = [root, covered, covering, above, below_covered, first, over_first]
    assert set(map(id, visible(mounts))) == set(map(id, [root, covering, above, over_first]))


def test_only_the_outermost_paths_are_masked() -> None:
    assert outermost(["/a/b", "/a", "/a-b", "/a/c/d", "/c/d"]) == ("/a", "/a-b", "/c/d")


def test_the_host_is_its_root_without_what_the_kernel_makes_up(user: User) -> None:
    os.mkdir(user.path("upper"))
    layer = user.run(lambda: host([user.path("upper")]))
    assert (layer.name, layer.path, layer.recursive) == ("host", "/", True)
    assert {"/proc", "/sys", "/dev", "/run", user.path("upper")} <= set(layer.masks)
    assert "/dev/pts" not in layer.masks


def test_a_view_that_never_answers_is_masked_and_not_waited_for(user: User) -> None:
    def masks() -> tuple[str, ...]:
        for name in ("kept", "kernel's own", "view"):
            os.mkdir(user.path(name))
        _native.mount("tmpfs", user.path("kept"), "tmpfs", 0)
        _native.mount("/proc", user.path("kernel's own"), None, MS_BIND | _native.MS_REC)
        device = os.open("/dev/fuse", os.O_RDWR)
        owner = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
        _native.mount("overlaykit", user.path("view"), "fuse.overlaykit", 0, owner)
        return host().masks

    masks_seen = user.run_among_own_mounts(masks)
    assert user.path("kernel's own") in masks_seen
    assert user.path("view") in masks_seen
    assert user.path("kept") not in masks_seen
