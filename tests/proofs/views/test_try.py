"""Real programs in `overlaykit try`: applied, they leave the tree that they leave by themselves; discarded, none."""

from __future__ import annotations

import os
import shutil
import tempfile

import pytest

from ...oracle.observation import Tree, look
from ...views.user import TestUser
from ..machine import release

SECONDS = 600

C_PROJECT = r"""
cat >Makefile <<'M'
prefix = $(CURDIR)/usr
hello: hello.c
	cc -o $@ $<
install: hello
	install -D -m 755 hello $(prefix)/bin/hello
	install -D -m 644 hello.1 $(prefix)/share/man/man1/hello.1
	ln -sf hello $(prefix)/bin/hi
	ln -f $(prefix)/bin/hello $(prefix)/bin/hallo
	rm -rf $(prefix)/share/doc/old
M
echo 'int main(void) { return 0; }' >hello.c
echo manual >hello.1
mkdir -p usr/share/doc/old usr/bin
echo old >usr/share/doc/old/README
echo older >usr/bin/hello
"""
REPOSITORY = r"""
git init -q -b main .
git config user.name somebody
git config user.email some@body.example
git config gc.auto 0
commit() { git add -A; git commit -qm "$1"; }
seq 100 >numbers; mkdir old; echo a >old/a; commit first
git checkout -q -b topic
sed -i 's/^50$/fifty/' numbers; git mv old new; commit second
echo b >new/b; chmod +x new/b; commit third
git checkout -q main
sed -i 's/^5$/five/' numbers; commit other
git checkout -q topic
"""
FILES = "mkdir -p a/b/c; for i in $(seq 500); do echo $i >a/b/$i; ln a/b/$i a/b/c/$i; done; ln -s b a/link; touch kept"
ZLIB = r"""
prefix=$PWD
cd ..
mkdir lists
echo "deb-src $1 $2 main" >sources.list
apt() {
    apt-get -qq -o APT::Sandbox::User=root -o Dir::State::Lists="$PWD/lists" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::Cache="$PWD" -o Dir::Etc::SourceList="$PWD/sources.list" "$@"
}
apt update
apt source zlib >/dev/null
mv zlib-*/ zlib
cd zlib
LDCONFIG=true ./configure --prefix="$prefix" >/dev/null
make -s >/dev/null
make -s install
cd "$prefix"
echo older >include/zlib.h
rm lib/libz.so.1
"""
HOLES = r"""
truncate -s 1M empty data end; printf x >>end; printf x | dd of=data bs=1 seek=300000 conv=notrunc status=none
mkdir kept; cp data kept/renamed; cp data kept/mode; cp data kept/written
"""
CHANGE_HOLES = r"""
mv kept/renamed kept/new; chmod 600 kept/mode; printf x | dd of=kept/written bs=1 seek=900000 conv=notrunc status=none
truncate -s 2M empty; truncate -s 10K end; truncate -s 3M made; printf x >>made
"""
PACKAGE = r"""
mkdir -p source/lib
echo '{"name": "small", "version": "1.0.0", "bin": {"small": "lib/run.js"}}' >source/package.json
echo 'console.log(1)' >source/lib/run.js
"""

PROGRAMS = {
    "make": (C_PROJECT, "make -s install"),
    "zlib": (ZLIB, "make -s -C ../zlib install"),
    "holes": (HOLES, CHANGE_HOLES),
    "git": (REPOSITORY, "git rebase -q main"),
    "rm": (FILES, "rm -rf a"),
    "pip": ("mkdir lib", "pip3 install -q --no-compile --target lib --upgrade six"),
    "npm": (PACKAGE, "npm install --silent --install-links --cache ./cache ./source; rm -r cache"),
}
DATES = "export GIT_COMMITTER_DATE='1000000000 +0000' GIT_AUTHOR_DATE='1000000000 +0000' LC_ALL=C.UTF-8\n"
OF_THE_MOMENT = (".git/index", ".git/logs", ".overlaykit-apply", "usr/bin/hello", "hello")
"""Inode numbers and times are in the index of git, times in its logs; the compiler's output is compared by size."""


OTHER_DISK = "/dev/shm"


@pytest.mark.parametrize("copied", [False, True], ids=["renamed", "copied"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_that_was_tried_and_applied_leaves_what_it_leaves_by_itself(
    user: TestUser, name: str, copied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`copied`: the named views are on another file system, from which no file can be renamed."""
    user.set_deadline(SECONDS)
    prepare, script = (f"{DATES}set -e\n{part}" for part in PROGRAMS[name])
    path = user.directory("work")
    user.program(["sh", "-c", prepare, "sh", *release()], cwd=path)
    plain = user.path("plain")
    user.program(["cp", "-a", path, plain])
    before = look(path, exact=True, holes=True)

    with tempfile.TemporaryDirectory(dir=OTHER_DISK) as elsewhere:
        if copied:
            monkeypatch.setenv("XDG_DATA_HOME", elsewhere)
        done = user.overlaykit("try", "--no", "-D", path, "--", "sh", "-c", script)
        assert done.returncode == 0, done
        assert look(path, exact=True, holes=True) == before

        done = user.overlaykit("try", "--yes", "-D", path, "--", "sh", "-c", script)
        assert done.returncode == 0, done
    applied = lasting(look(path, holes=True))
    user.succeeds("apply", "--drop", path)
    # At the same path: programs write it into files.
    shutil.rmtree(path)
    os.rename(plain, path)
    user.program(["sh", "-c", script], cwd=path)
    assert applied == lasting(look(path, holes=True))


def lasting(tree: Tree) -> Tree:
    return {
        path: found
        for path, found in tree.items()
        if not any(path == one or path.startswith(f"{one}/") for one in OF_THE_MOMENT)
    }
