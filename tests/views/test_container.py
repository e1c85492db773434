"""Views in a container whose root is an overlay, where whiteout devices cannot be made."""

from __future__ import annotations

import os

from overlaykit import mountinfo

from .fixtures import only_with
from .user import TestUser, command

# A server in the container's mount namespace is out of reach.
pytestmark = only_with(driver="fuse", server=False)


def enter_container_script(user: TestUser, volume: str = "") -> str:
    """Shell commands that make an overlay the root: an upper with `user`'s files over this machine's.

    `volume`: a directory of the user's that is the machine's in the container, too.
    """
    disk, root = user.path("disk"), user.path("root")
    form = "" if user.is_root else ",userxattr"
    own = [entry.path for entry in os.scandir(user.scratch)]
    lines = [
        f"mkdir {root}",
        f"mkdir -p {disk}/upper {disk}/work {disk}/lower{user.scratch}",
        f"cp -a {' '.join(own)} {disk}/lower{user.scratch}",
        f"mount -t overlay -o lowerdir={disk}/lower,upperdir={disk}/upper,workdir={disk}/work{form} root {root}",
    ]
    for entry in os.scandir("/"):
        there = root + entry.path
        if entry.is_symlink():
            lines.append(f"cp -a {entry.path} {there}")
        elif entry.is_dir() and not mountinfo.below(user.scratch, entry.path):
            lines += [f"mkdir {there}", f"mount --rbind {entry.path} {there}"]
    if volume:
        lines.append(f"mount --bind {volume} {root}{volume}")
    lines += [f"cd {root}", "pivot_root . .", "umount -l .", f"cd {user.home}"]
    return "\n".join(lines)


def takes_uppers(user: TestUser) -> bool:
    """Whether the container's root keeps markers. Root has `user.overlay.*` where `trusted.overlay.*` is refused."""
    return user.is_root or user.kernel_has("overlay attributes on an overlay")


def test_a_view_in_a_container_loses_what_is_deleted_in_it(user: TestUser) -> None:
    lower = user.directory("lower", file="x", moved="y")
    os.makedirs(os.path.join(lower, "tree", "deep"))
    program = f"""
        cd {lower}
        rm file
        mv moved elsewhere
        mv tree branch
        rmdir branch/deep
        mkdir file
        rm -r /usr/share/base-files
        test ! -e /usr/share/base-files
        find . | sort
    """
    done = user.changed_machine(
        enter_container_script(user), "run", "--", "sh", "-euc", program, then=f"ls {lower}"
    )
    if not takes_uppers(user):
        assert (done.returncode, done.stdout) == (125, "")
        (refusal,) = done.stderr.splitlines()
        assert "set XDG_CACHE_HOME to one that takes extended attributes, or use --upper" in refusal
        return
    assert (done.returncode, done.stderr) == (0, ""), done
    assert done.stdout.split() == [
        *(".", "./branch", "./elsewhere", "./file"),
        *("file", "moved", "tree"),
    ]


def test_what_a_view_in_a_container_keeps_is_kept(user: TestUser) -> None:
    lower = user.directory("lower", file="x", other="y")
    upper = user.directory("upper")
    again = (
        f"{command()} run --upper {upper} -- sh -euc 'test ! -e {lower}/file; cat {lower}/other'"
    )
    done = user.changed_machine(
        enter_container_script(user),
        *("run", "--upper", upper, "--", "sh", "-euc", f"rm {lower}/file; echo z > {lower}/other"),
        then=again if user.is_root else f"setpriv --ambient-caps=-all --inh-caps=-all {again}",
    )
    if not takes_uppers(user):
        assert (done.returncode, done.stdout) == (125, "")
        (refusal,) = done.stderr.splitlines()
        assert refusal.startswith(
            f"overlaykit: upper {upper}: its file system keeps no extended attributes"
        )
        return
    assert (done.returncode, done.stdout, done.stderr) == (0, "z\n", ""), done


def test_a_view_in_a_container_works_with_a_directory_of_a_disk(user: TestUser) -> None:
    """The way out where the container's root takes no upper."""
    volume = user.directory("volume")
    done = user.changed_machine(
        f"{enter_container_script(user, volume)}\nexport XDG_CACHE_HOME={volume}",
        *("run", "--", "sh", "-c", "echo x > /opt/x; cat /opt/x"),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "x\n", ""), done


def test_doctor_says_in_a_container_how_deletions_are_marked(user: TestUser) -> None:
    done = user.changed_machine(enter_container_script(user), "doctor")
    line = next(line for line in done.stdout.splitlines() if "temporary uppers" in line)
    if not takes_uppers(user):
        assert (done.returncode, done.stderr) == (1, ""), done
        assert line.startswith("FAIL  temporary uppers: ")
        assert "set XDG_CACHE_HOME to one that takes extended attributes" in line
        return
    assert (done.returncode, done.stderr) == (0, ""), done
    assert "whiteout attributes" in line.partition(";")[0]
    assert "whiteout devices" in line.partition(";")[2]
    assert "RENAME_WHITEOUT" in line.partition(";")[2]
