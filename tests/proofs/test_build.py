"""A C project built and tested in a view: the files are those of a build on a plain directory."""

from __future__ import annotations

import os

from ..fuse.mounted import mounted
from ..oracle.observation import Tree, look
from ..overlay.stack import Stack
from .machine import release
from .programs import run

SECONDS = 900

FETCH = """
mkdir -p lists
echo "deb-src $1 $2 main" >sources.list
apt() {
    apt-get -qq -o APT::Sandbox::User=root -o Dir::State::Lists="$PWD/lists" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::Cache="$PWD" -o Dir::Etc::SourceList="$PWD/sources.list" "$@"
}
apt update
apt source zlib
mv zlib-*/ source
"""

BUILD = """
./configure --prefix=/usr
make -j2
make test
make install DESTDIR=$PWD/installed
make clean
make
"""

TOLD_BY_THE_CLOCK = ("configure.log",)


def test_a_build_in_a_view_leaves_what_it_leaves_on_a_plain_directory(stack: Stack) -> None:
    lower = stack.add({})
    fetched, plain = (os.path.join(stack.directory, name) for name in ("fetched", "plain"))
    os.mkdir(fetched)
    run("sh", "-euc", FETCH, "sh", *release(), where=fetched)
    run("cp", "-a", os.path.join(fetched, "source"), plain)
    run("cp", "-a", os.path.join(fetched, "source", "."), lower)
    run("sh", "-euc", BUILD, where=plain)
    with mounted(stack) as mount:
        run("sh", "-euc", BUILD, where=mount.target)
        tree = look(mount.target)
        assert lasting(tree) == lasting(look(plain))
    with mounted(stack) as mount:
        assert look(mount.target) == tree
        assert run("make", where=mount.target) == run("make", where=plain)  # all is up to date


def lasting(tree: Tree) -> Tree:
    return {path: found for path, found in tree.items() if path not in TOLD_BY_THE_CLOCK}
