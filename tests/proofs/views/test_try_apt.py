"""apt in `overlaykit try`, on the whole host: applied, it leaves what it leaves by itself; discarded, nothing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from dataclasses import replace

from overlaykit import _native

from ...oracle.observation import Found, Tree, look
from ...views.fixtures import only_as
from ...views.user import TestUser, command

SECONDS = 600

INSTALL = ("apt-get", "install", "-q", "-y", "hello", "less-")
"""A package more, and where `less` is installed one less, with a directory of its own and alternatives."""


ENTER = """
for one in proc sys dev; do mount --rbind /$one $1/$one; done
mount -t tmpfs run $1/run
cd $1
pivot_root . .
umount -l .
cd /
shift
exec "$@"
"""

TOLD_BY_THE_CLOCK = ("var/log/", "var/cache/ldconfig/", "var/cache/apt/", "var/cache/man/")
"""Files that hold times, or inode numbers of libraries."""


class Copy:
    """A copy of this machine's root, on the kernel's overlayfs: the machine itself does not change."""

    def __init__(self, user: TestUser, name: str) -> None:
        self._user = user
        self._upper, work, self._root = (
            user.directory(name, one) for one in ("upper", "work", "root")
        )
        options = f"lowerdir=/,upperdir={self._upper},workdir={work}"
        _native.mount("overlay", self._root, "overlay", 0, options)

    def close(self) -> None:
        _native.umount2(self._root, 0)

    def run(self, *arguments: str) -> str:
        """What a program prints in the copy; it must succeed."""
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-euc", ENTER, "sh", self._root, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def written(self) -> set[str]:
        """The paths of the upper: what was written to since, and the directories above. Not the user's own."""
        return {
            path
            for above, directories, files in os.walk(self._upper)
            for name in (*directories, *files)
            if not self._is_own(path := os.path.relpath(os.path.join(above, name), self._upper))
        }

    def _is_own(self, path: str) -> bool:
        return f"/{path}/".startswith((f"{self._user.scratch}/", "/.overlaykit-apply/"))

    def look(self, paths: set[str]) -> Tree:
        return dict(lasting(look(self._root, holes=True, only=paths)))


def lasting(tree: Tree) -> Iterable[tuple[str, Found]]:
    for path, found in tree.items():
        if path.startswith(TOLD_BY_THE_CLOCK) and isinstance(found.content, bytes):
            size = found.description._replace(size=None)
            found = replace(found, description=size, content=None, data=None)
        yield path, found


@only_as("root")
def test_packages_that_are_installed_in_a_try_leave_what_they_leave_by_themselves(
    user: TestUser,
) -> None:
    user.set_deadline(SECONDS)
    tried, direct = Copy(user, "tried"), Copy(user, "direct")
    above = {"var", "var/tmp"}  # of the user's own directory

    said = tried.run(command(), "try", "--no", "--", *INSTALL)
    assert "A  hello" in said, said
    assert tried.written() <= above, said

    tried.run(command(), "try", "--yes", "--", *INSTALL)
    tried.run(command(), "apply", "--drop", "/")
    direct.run(*INSTALL)
    # The kernel copies up what was only opened for writing, as locks are: other paths in either upper, one tree.
    paths = tried.written() | direct.written()
    assert "usr/bin/hello" in paths
    left = tried.look(paths)
    assert left == direct.look(paths)
    assert "usr/bin/hello" in left
    status = ("dpkg-query", "--show", "--showformat", "${db:Status-Abbrev}", "hello")
    assert tried.run(*status) == "ii "
    tried.close()
    direct.close()
