"""A Debian tree: packages installed in a view of it leave the same files as in a plain copy."""

from __future__ import annotations

import os

from ..fuse.mounted import mounted
from ..oracle.observation import Tree, look
from ..overlay.inside import as_root
from ..overlay.stack import Stack
from .machine import release
from .programs import run

SECONDS = 1800

PACKAGES = (
    "less",
    "file",
    "libmagic1",
    "libmagic-mgc",
    "libmd0",
    "libbsd0",
    "netcat-openbsd",
    "ed",
)
"""With libraries, alternatives and triggers; they depend only on each other and on the tree."""

WORK = "dpkg --install /packages/*.deb; dpkg --remove file; dpkg --purge ed; dpkg --verify; dpkg -l"

TOLD_BY_THE_CLOCK = ("var/log/", "var/cache/ldconfig/", "var/lib/dpkg/lock", "var/cache/debconf/")
"""Files that hold times or the inode numbers of libraries."""


@as_root
def test_packages_installed_in_a_view_leave_what_they_leave_on_a_plain_directory(
    stack: Stack,
) -> None:
    lower, plain = stack.add({}), os.path.join(stack.directory, "plain")
    site, suite = release()
    run("debootstrap", "--variant=minbase", suite, lower, site)
    os.mkdir(os.path.join(lower, "packages"))
    fetch = ("apt-get", "-o", "APT::Sandbox::User=root", "download", *PACKAGES)
    run(*fetch, where=os.path.join(lower, "packages"))
    run("cp", "-a", lower, plain)
    before = look(lower)
    expected = run("chroot", plain, "sh", "-euc", WORK)
    with mounted(stack) as mount:
        assert run("chroot", mount.target, "sh", "-euc", WORK) == expected
        tree = look(mount.target)
        assert lasting(tree) == lasting(look(plain))
    with mounted(stack) as mount:
        assert look(mount.target) == tree
    with stack.mounted_by_the_kernel() as target:
        assert look(target) == tree
    assert look(lower) == before


def lasting(tree: Tree) -> Tree:
    return {path: found for path, found in tree.items() if not path.startswith(TOLD_BY_THE_CLOCK)}
