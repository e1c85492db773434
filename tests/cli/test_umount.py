"""`overlaykit umount`: the end of a mount."""

from __future__ import annotations

import os

from ..views.someone import Someone


def test_what_is_not_ours_is_left_alone(someone: Someone) -> None:
    directory = someone.directory("directory")
    for path in directory, "/proc", someone.path("missing"):
        assert someone.refused("umount", path) == (
            f"{path}: no overlaykit mount is there: 'overlaykit ps' lists those that are"
        )
    assert os.path.isdir("/proc/self")


def test_a_mount_in_use_is_left_as_it_is_and_told(someone: Someone) -> None:
    lower = someone.directory("lower", file="contents\n")
    target = someone.directory("target")
    someone.succeeds("mount", "-o", f"lowerdir={lower}", target)
    with open(os.path.join(target, "file")) as file:
        assert someone.refused("umount", target) == (
            f"{target}: in use: end the programs that have files open or their working directory in it"
            f" ('fuser -vm {target}')"
        )
        assert file.read() == "contents\n"
        assert os.listdir(target) == ["file"]
    someone.succeeds("umount", target)


def test_the_way_there_may_be_relative_or_a_symbolic_link(someone: Someone) -> None:
    lower = someone.directory("lower")
    target = someone.directory("target")
    os.symlink(target, someone.path("link"))
    someone.succeeds("mount", "-o", f"lowerdir={lower}", target)
    someone.succeeds("umount", "link", cwd=someone.scratch)
    someone.succeeds("mount", "-o", "lowerdir=lower", "link", cwd=someone.scratch)
    someone.succeeds("umount", target)


def test_all_that_was_written_is_in_the_upper_once_it_returns(someone: Someone) -> None:
    lower, upper, work, target = map(someone.directory, ("lower", "upper", "work", "target"))
    for number in range(5):
        someone.succeeds("mount", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", target)
        someone.write(os.path.join(target, str(number)), bytes([number]) * 300_000)
        someone.succeeds("umount", target)
        with open(os.path.join(upper, str(number)), "rb") as file:
            assert file.read() == bytes([number]) * 300_000
