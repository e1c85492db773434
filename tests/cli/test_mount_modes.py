"""`overlaykit mount` by an ordinary user without a user namespace: what modes and owners of files allow.

Each shell script runs on a plain directory of that user, too, and leaves the same there.
"""

from __future__ import annotations

import os

import pytest

from ..views.fixtures import only_as
from ..views.user import TestUser

pytestmark = only_as("ordinary user")

LOWER = """
mkdir "$1"; cd "$1"
echo one >f; chmod 444 f
echo two >g; chmod 0 g
mkdir -p mod/pkg@v1/sub
echo package >mod/pkg@v1/a.go; echo package >mod/pkg@v1/sub/b.go; ln -s a.go mod/pkg@v1/link
chmod -R a-w mod
git init -q -b main repo; cd repo
echo content >file; git add file
GIT_COMMITTER_DATE='1000000000 +0000' git commit -qm first --date='1000000000 +0000'
"""
SCRIPTS = {
    "what the owner may do": """
chmod 644 f; touch -d @1 f; mv f h
chmod 600 g; echo more >>g; chmod 0 g; mv g i
mkdir n; chmod 555 n; mv n n2
mkdir t; chmod a-rw t; rm -rf t
mkdir -p u/v; touch u/v/w; chmod 555 u/v; ! rm -rf u/v 2>/dev/null; chmod 755 u/v; rm -r u
""",
    "trees to read only": """
cp -a mod copy; cp -a copy copy2
chmod -R u+w copy2; rm -rf copy2
mv copy/pkg@v1/a.go copy/new 2>/dev/null && exit 1
chmod u+w mod mod/pkg@v1; rm -rf mod/pkg@v1/a.go; mv mod/pkg@v1/link mod/link; chmod 555 mod
chmod -R u+w copy; rm -r copy/pkg@v1/sub
""",
    "git": """
git clone -q repo hard; git clone -q --no-hardlinks repo soft
cd repo; echo more >>file
GIT_COMMITTER_DATE='1000000001 +0000' git commit -qam second --date='1000000001 +0000'
git gc -q --prune=now; git fsck --full --strict
cd ../hard; git pull -q; git repack -qad; git fsck --full --strict; git log --format=%H
cd ../soft; git pull -q; git gc -q; git log --format=%H; cd ..; rm -rf hard
""",
}
FOUND = r"""find . -path '*/.git' -prune -o -printf '%P %y %m %l ' -type f -readable -exec cat {} \; -o -print | sort"""
CHANGES = """
echo '# more' >>dpkg.cfg
chmod 600 dpkg.cfg
chown $(id -u) dpkg.cfg
mv dpkg.cfg c
echo x >dpkg.cfg.d/new
"""
GIT = {
    "GIT_AUTHOR_NAME": "somebody",
    "GIT_COMMITTER_NAME": "somebody",
    "EMAIL": "some@body.example",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_modes_forbid_no_more_than_on_a_plain_directory(user: TestUser, name: str) -> None:
    for tree in ("lower", "plain"):
        command = ["sh", "-euc", LOWER, "sh", tree]
        user.program(command, cwd=user.scratch, env=os.environ | GIT)
    for directory in ("upper", "work", "target"):
        user.directory(directory)
    options = ",".join(
        f"{key}={user.path(path)}"
        for key, path in (("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work"))
    )
    before = user.program(["sh", "-euc", FOUND], cwd=user.path("lower"))

    def run(where: str) -> str:
        return user.program(["sh", "-euc", SCRIPTS[name]], cwd=where, env=os.environ | GIT)

    def found(where: str) -> str:
        return user.program(["sh", "-euc", FOUND], cwd=where)

    expected = run(user.path("plain"))
    target = user.path("target")
    user.succeeds("mount", "-o", options, target)
    try:
        assert run(target) == expected
        assert found(target) == found(user.path("plain"))
    finally:
        user.succeeds("umount", target)
    user.succeeds("mount", "-o", options, target)
    try:
        assert found(target) == found(user.path("plain"))
    finally:
        user.succeeds("umount", target)
    assert found(user.path("lower")) == before
    assert os.listdir(user.path("work", "work")) == []
    for tree in ("lower", "plain", "upper"):  # so that the fixture can remove it
        user.program(["chmod", "-R", "u+rwX", user.path(tree)])


@pytest.mark.parametrize("mode", [0, 0o111, 0o555])
def test_a_mount_whose_root_was_closed_is_mounted_again(user: TestUser, mode: int) -> None:
    lower = user.directory("lower", file="x")
    upper, work, target = (user.directory(name) for name in ("upper", "work", "target"))
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    user.succeeds("mount", "-o", options, target)
    user.write(os.path.join(target, "new"), "new")
    os.chmod(target, mode)
    user.succeeds("umount", target)
    user.succeeds("mount", "-o", options, target)
    try:
        assert os.stat(target).st_mode & 0o777 == mode
        os.chmod(target, 0o755)
        assert sorted(os.listdir(target)) == ["file", "new"]
    finally:
        user.succeeds("umount", target)


@pytest.mark.parametrize("gid", [True, False])
def test_files_of_root_are_writable_if_all_are_shown_as_the_users(
    user: TestUser, gid: bool
) -> None:
    names = [user.directory(name) for name in ("upper", "work", "target")]
    upper, work, target = names
    squash = f"squash_to_uid={os.getuid()}" + (f",squash_to_gid={os.getgid()}" if gid else "")
    options = f"lowerdir=/etc/dpkg,upperdir={upper},workdir={work},{squash}"
    user.succeeds("mount", "-o", options, target)
    try:
        user.program(["sh", "-euc", CHANGES], cwd=target)
        st = os.stat(os.path.join(target, "c"))
        assert (st.st_uid, st.st_mode & 0o777) == (os.getuid(), 0o600)
    finally:
        user.succeeds("umount", target)
    for name in ("c", "dpkg.cfg.d", "dpkg.cfg.d/new"):
        st = os.stat(os.path.join(upper, name))
        assert (st.st_uid, st.st_gid) == (os.getuid(), os.getgid())


def test_a_caller_outside_of_every_mapped_range_makes_files(user: TestUser) -> None:
    lower, upper, work, target = (
        user.directory(name) for name in ("lower", "upper", "work", "target")
    )
    os.chmod(lower, 0o777)
    mapping = "uidmapping=0:100000:10,gidmapping=0:100000:10"
    options = f"lowerdir={lower},upperdir={upper},workdir={work},{mapping}"
    os.chmod(upper, 0o777)
    user.succeeds("mount", "-o", options, target)
    try:
        os.symlink("x", os.path.join(target, "y"))
        os.mkdir(os.path.join(target, "d"))
    finally:
        user.succeeds("umount", target)
    assert os.lstat(os.path.join(upper, "y")).st_uid == os.getuid()
