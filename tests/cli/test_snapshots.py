"""Snapshots of views: snapshot, log, restore, branch, and what other commands make of views that have some."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from overlaykit.overlay.faults import STEPS
from overlaykit.views.named import NamedView

from ..views.fixtures import only_with, with_both_drivers
from ..views.user import TestUser
from .test_named import removed

pytestmark = with_both_drivers

MOST: Final = 100 if "OVERLAYKIT_PROOFS" in os.environ else 3
OPERATIONS: Final = 40
FROZEN_STEPS: Final = tuple(one for one in STEPS if one.startswith("snapshot."))
LOOK: Final = (
    "cd /tmp; set -- in-*; find $* -printf '%p %y %m %n %T@ %l\\n' | sort; "
    "find $* -type f -printf '%p %s\\n' -exec sha256sum '{}' + | sort"
)
"""Print all of /tmp/in-*: names, kinds, modes, numbers of names, times, and of files sizes and contents."""


class Workspace:
    """A view `v` whose command is a script outside of it."""

    def __init__(self, user: TestUser) -> None:
        self.user = user
        self._mount = user.directory("mount")
        self._script("true")
        self._started = False

    def _script(self, script: str) -> None:
        self.user.write(os.path.join(self._mount, "script"), script + "\n")

    def run(self, script: str, name: str = "v", *options: str) -> str:
        """What a script prints in the view."""
        self._script(script)
        if not self._started:
            self._started = True
            bind = ("-v", f"{self._mount}:/mnt")
            return self.user.succeeds(
                "run", "--name", "v", *bind, *options, "--", "sh", "/mnt/script"
            )
        return self.user.succeeds("start", "-a", name)

    def look(self, name: str = "v") -> str:
        return self.run(LOOK, name)

    def snapshot(self, *arguments: str) -> str:
        return self.user.succeeds("snapshot", "v", *arguments).strip()

    def log(self, name: str = "v") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.user.succeeds("log", "--json", name))
        return found

    def directory(self, snapshot: str, name: str = "v") -> str:
        return os.path.join(self.user.named_views, name, "snapshots", snapshot)


def in_workspace(test: Callable[..., None]) -> Callable[..., None]:
    """Give a test a workspace of its user, whose views are removed at its end."""

    def run(user: TestUser, **given: object) -> None:
        with removed(user, "x", "w", "v"):
            test(Workspace(user), **given)

    _, *others = inspect.signature(test).parameters.values()
    first = inspect.Parameter("user", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__name__, run.__doc__ = test.__name__, test.__doc__
    run.__signature__ = inspect.Signature([first, *others])  # type: ignore[attr-defined]
    run.pytestmark = getattr(test, "pytestmark", [])  # type: ignore[attr-defined]
    return run


def digest(directory: str) -> str:
    """A hash of all that a directory holds: names, attributes but for access times, and contents."""
    found = hashlib.sha256()
    for above, directories, files in os.walk(directory):
        directories.sort()
        for name in (".", *directories, *sorted(files)):
            path = os.path.join(above, name)
            st = os.lstat(path)
            found.update(repr((path, st.st_mode, st.st_uid, st.st_gid, st.st_size)).encode())
            found.update(repr((st.st_ino, st.st_nlink, st.st_mtime_ns, st.st_ctime_ns)).encode())
            for attribute in sorted(os.listxattr(path, follow_symlinks=False)):
                found.update(attribute.encode())
                found.update(os.getxattr(path, attribute, follow_symlinks=False))
            if os.path.isfile(path) and not os.path.islink(path) and st.st_mode & 0o400:
                with open(path, "rb") as file:
                    found.update(file.read())
    return found.hexdigest()


def operations(choice: random.Random) -> str:
    """A script of random operations on files in /tmp/in-tree, each of which may fail."""
    names = [f"{one}{number}" for one in "abc" for number in range(3)]
    lines = ["mkdir -p /tmp/in-tree; cd /tmp/in-tree; exec 2>/dev/null"]

    def path() -> str:
        return "/".join(choice.sample(names, choice.choice((1, 1, 2, 3))))

    for _ in range(OPERATIONS):
        one, other = path(), path()
        lines.append(
            choice.choice(
                (
                    f"mkdir -p {one}",
                    f"mkdir -p {one}; echo {choice.random()} >{one}/file",
                    f"echo {choice.random()} >>{one}/file",
                    f"echo {choice.random()} >{one}",
                    f"rm -rf {one}",
                    f"mv -T {one} {other}",
                    f"ln {one}/file {other}",
                    f"ln -s {other} {one}",
                    f"chmod {choice.choice(('700', '750', '755'))} {one}",
                    f"truncate -s {choice.randrange(9000)} {one}/file",
                    f"touch -d @{choice.randrange(10**9)} {one}",
                )
            )
        )
    return "\n".join([*lines, "true"])


@pytest.mark.as_each_user
@in_workspace
def test_each_snapshot_shows_what_the_view_showed_and_never_changes(space: Workspace) -> None:
    space.user.set_deadline(30 + 10 * MOST)
    choice = random.Random(18)
    seen, hashes = [], []
    for number in range(MOST):
        space.run(operations(choice))
        seen.append(space.look())
        made = space.snapshot(f"s{number}", "-m", f"number {number}")
        assert space.look() == seen[-1]
        hashes.append((made, digest(space.directory(made))))
    log = space.log()
    assert [one["name"] for one in log] == [f"s{number}" for number in reversed(range(MOST))]
    assert [one["state"] for one in log] == ["current", *["below"] * (MOST - 1)]
    assert [one["parent"] for one in log] == [*(one["id"] for one in log[1:]), None]
    order = list(range(MOST))
    choice.shuffle(order)
    for number in order:
        assert space.user.succeeds("restore", "--discard", "v", f"s{number}") == ""
        assert space.look() == seen[number]
        space.run("rm -rf /tmp/in-tree; echo other >/tmp/in-other")
    assert [(made, digest(space.directory(made))) for made, _ in hashes] == hashes


@in_workspace
def test_what_was_written_before_a_restore_is_kept_as_a_snapshot(space: Workspace) -> None:
    space.run("echo one >/tmp/in-file")
    first = space.snapshot()
    space.run("echo two >/tmp/in-file")
    saved = space.user.succeeds("restore", "v", first[:4]).strip()
    assert space.run("cat /tmp/in-file") == "one\n"
    assert [(one["id"], one["state"]) for one in space.log()] == [
        (saved, "left"),
        (first, "current"),
    ]
    assert space.user.succeeds("restore", "v", saved) == ""
    assert space.run("cat /tmp/in-file") == "two\n"
    assert space.user.succeeds("restore", "v", "start") == ""
    assert space.run("ls /tmp/in-file 2>&1 || true").endswith("No such file or directory\n")
    assert not os.path.exists(os.path.join(space.user.named_views, "v", "snapshots", "pending"))


@pytest.mark.parametrize("command", ["snapshot", "restore"])
@pytest.mark.parametrize("step", FROZEN_STEPS)
@pytest.mark.one_in(4)
@in_workspace
def test_a_killed_change_is_finished_or_taken_back(
    space: Workspace, command: str, step: str
) -> None:
    space.run("echo one >/tmp/in-file; mkdir /tmp/in-d")
    space.snapshot("first")
    before = space.run(f"echo two >/tmp/in-file; rmdir /tmp/in-d; {LOOK}")
    arguments = (
        ("snapshot", "v") if command == "snapshot" else ("restore", "--discard", "v", "first")
    )
    done = space.user.overlaykit(*arguments, env={**os.environ, "OVERLAYKIT_FAULT": step})
    assert done.returncode == -signal.SIGKILL
    number = len(space.log())
    after = space.look()
    if command == "snapshot":
        assert after == before
        assert number == len(space.log())
        assert number in (1, 2)
    else:
        assert number == 1
        assert after == before or "in-d" in after
    view = NamedView("v")
    assert not os.path.lexists(os.path.join(view.directory, "snapshots", "pending"))
    kept = {one["id"] for one in space.log()} | {"head"}
    assert set(os.listdir(os.path.join(view.directory, "snapshots"))) == kept
    space.snapshot("next")
    assert space.look() == after


@in_workspace
def test_a_branch_goes_on_by_itself_and_shares_what_was_written(space: Workspace) -> None:
    user = space.user
    space.run("echo one >/tmp/in-file; head -c 1000000 /dev/zero >/tmp/in-large")
    made = space.snapshot("s")
    space.run("echo two >/tmp/in-file")
    assert user.succeeds("branch", "v@s", "w") == "w\n"
    assert space.run("cat /tmp/in-file; echo w >/tmp/in-w", "w") == "one\n"
    assert space.run("cat /tmp/in-file; ls /tmp/in-w 2>/dev/null || true") == "two\n"
    refused = f"v: the view w goes on from its snapshot {made}: remove that one first"
    assert user.refused("rm", "v").startswith(refused)
    user.succeeds("rename", "v", "u")
    with removed(user, "w", "u"):
        assert space.run("cat /tmp/in-file", "w") == "one\n"
        assert user.succeeds("branch", "w", "x") == "x\n"
        assert user.succeeds("restore", "--discard", "w", "start") == ""
        assert user.refused("rm", "w").startswith("w: the view x goes on from its snapshot")
        assert space.run("cat /tmp/in-file /tmp/in-w", "x") == "one\nw\n"
        assert [one["name"] for one in space.log("x")] == ["", "s"]
        user.succeeds("rm", "x")
        user.succeeds("rm", "w")
        user.succeeds("rm", "u")


def changes(user: TestUser, point: str) -> dict[str, str]:
    """The changes below /tmp/in-*, and /tmp's own left out."""
    found = json.loads(user.succeeds("diff", "--json", point))
    return {one["path"]: one["kind"] for one in found if one["path"].startswith("/tmp/in-")}


@in_workspace
def test_diff_compares_any_two_points_and_the_present(space: Workspace) -> None:
    user = space.user
    space.run("echo 1 >/tmp/in-a; echo 1 >/tmp/in-b; mkdir /tmp/in-d; echo 1 >/tmp/in-d/e")
    space.snapshot("one")
    space.run("echo 22 >/tmp/in-a; rm /tmp/in-b; echo 2 >/tmp/in-c; mv /tmp/in-d /tmp/in-f")
    space.snapshot("two")
    space.run("rm /tmp/in-c; echo 333 >/tmp/in-a; echo 3 >/tmp/in-f/g")
    now = {f"/tmp/in-{name}": "added" for name in ("a", "f", "f/e", "f/g")}
    assert changes(user, "v") == now
    assert changes(user, "v@start..") == now
    assert changes(user, "v@one") == {f"/tmp/in-{name}": "added" for name in ("a", "b", "d", "d/e")}
    assert changes(user, "v@two..") == {
        "/tmp/in-a": "changed",
        "/tmp/in-c": "deleted",
        "/tmp/in-f/g": "added",
    }
    two = changes(user, "v@one..two")
    assert two["/tmp/in-a"] == "changed"
    assert two["/tmp/in-b"] == "deleted"
    assert two == changes(user, "v@one..v@two")
    assert changes(user, "v@two..one")["/tmp/in-b"] == "added"


@contextmanager
def applied(space: Workspace, below: str, *scripts: str) -> Iterator[Callable[..., str]]:
    """A view of a layer with some files of its own, with a snapshot between scripts."""
    for name, contents in {"a": "a\n", "b": "b\n", "dir/c": "c\n", "dir/d": "d\n"}.items():
        path = os.path.join(below, "srv", name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        space.user.write(path, contents)
    for number, script in enumerate(scripts):
        if number:
            space.snapshot(f"s{number}")
        space.run(f"cd /srv; {script}", "v", "-l", below, "-v", "/usr:/usr:ro")
    yield space.user.succeeds


@only_with(driver="fuse")
@in_workspace
def test_apply_writes_all_that_was_written_since_the_start(space: Workspace) -> None:
    below = space.user.small_system()
    with applied(
        space,
        below,
        "echo 1 >>a; rm b; mv dir moved; echo new >n; mkdir e; echo f >e/f",
        "echo 2 >>a; echo 2 >>moved/c; rm n; echo g >e/g",
        "echo 3 >>a; rm -r e; mkdir e; echo h >e/h",
    ):
        done = space.user.overlaykit("apply", "v", "/srv")
        assert (done.returncode, done.stderr) == (0, ""), done
        found = {}
        for above, _, files in os.walk(os.path.join(below, "srv")):
            for name in files:
                with open(os.path.join(above, name)) as file:
                    found[os.path.relpath(os.path.join(above, name), below)] = file.read()
        assert found == {
            "srv/a": "a\n1\n2\n3\n",
            "srv/moved/c": "c\n2\n",
            "srv/moved/d": "d\n",
            "srv/e/h": "h\n",
        }
        space.user.succeeds("apply", "--undo", "v")
        assert sorted(os.listdir(os.path.join(below, "srv"))) == ["a", "b", "dir"]


@only_with(driver="fuse")
@in_workspace
def test_apply_sees_an_edit_of_the_layer_made_before_the_snapshot(space: Workspace) -> None:
    below = space.user.small_system()
    with applied(space, below, "echo 1 >>a; rm b"):
        for name in "ab":
            space.user.write(os.path.join(below, "srv", name), "edited\n")
        space.snapshot()
        space.run("echo 2 >>/srv/a; echo n >/srv/n")
        refused = space.user.overlaykit("apply", "v", "/srv")
        assert refused.returncode == 1
        assert "srv/a: " in refused.stderr
        assert "srv/b: " in refused.stderr
        assert not os.path.exists(os.path.join(below, "srv", "n"))


@in_workspace
def test_commands_of_a_view_with_snapshots_see_all_of_it(space: Workspace) -> None:
    user = space.user
    space.run("echo one >/tmp/in-file; echo other >/tmp/in-other")
    made = space.snapshot()
    space.run("rm /tmp/in-other; echo two >/tmp/in-more")
    user.succeeds("cp", "v:/tmp/in-file", user.path("copy"))
    assert user.overlaykit("cp", "v:/tmp/in-other", user.path("copy")).returncode != 0
    with open(user.path("copy")) as file:
        assert file.read() == "one\n"
    space._script("exec sleep 1000")
    user.succeeds("start", "v")
    assert user.succeeds("exec", "v", "cat", "/tmp/in-file", "/tmp/in-more") == "one\ntwo\n"
    assert user.succeeds("exec", "v", "sh", "-c", "ls /tmp/in-*").split() == [
        "/tmp/in-file",
        "/tmp/in-more",
    ]
    user.succeeds("rename", "v", "w")
    explained = user.succeeds("explain", "w", "/tmp/in-file")
    assert os.path.join(user.named_views, "w", "snapshots", made, "upper") in explained
    assert changes(user, "w") == {"/tmp/in-file": "added", "/tmp/in-more": "added"}
    assert user.refused("restore", "w", made).startswith("w: the view is running: end it first")
    user.succeeds("stop", "w")
    assert changes(user, "w") == {"/tmp/in-file": "added", "/tmp/in-more": "added"}
    user.succeeds("rename", "w", "v")


@in_workspace
def test_what_cannot_be_done_is_said_in_a_line(space: Workspace) -> None:
    user = space.user
    user.succeeds("create", "--name", "w", "--", "true")
    with removed(user, "w"):
        assert user.refused("snapshot", "w").startswith("w: nothing was written in it yet")
        assert user.refused("restore", "w", "start").startswith("w: nothing was written")
        assert json.loads(user.succeeds("log", "--json", "w")) == []
        assert user.succeeds("branch", "w", "x") == "x\n"
        assert user.refused("branch", "w", "x").startswith("--name x: there is a view of that name")
    assert user.refused("snapshot", "none").startswith("none: there is no view of that name")
    space.run("true")
    made = space.snapshot("s")
    assert user.refused("snapshot", "v", "s").startswith("v@s: there is a snapshot of that name")
    assert user.refused("snapshot", "v", "a/b").startswith("a/b: no name of a snapshot")
    assert user.refused("restore", "v", "t").startswith("v@t: the view has no such snapshot")
    assert user.refused("diff", "v@t").startswith("v@t: the view has no such snapshot")
    for arguments in ("v@s",), ("--undo", "v@s"), ("--dry-run", "v@start"):
        refused = user.refused("apply", *arguments)
        assert refused.startswith(f"{arguments[-1]}: a snapshot is not applied by itself")
    assert user.refused("branch", "v@", "y").startswith("v@: the view has no such snapshot")
    for option, said in (
        ("--read-only", "the view is read-only"),
        ("--upper=u", "without --upper"),
    ):
        with removed(user, "y"):
            user.succeeds("create", "--name", "y", option, "--", "true")
            assert said in user.refused("snapshot", "y")
    os.rename(space.directory(made), space.directory(made) + ".away")
    assert user.refused("start", "-a", "v").startswith(f"v: its snapshot {made} is gone")
    os.rename(space.directory(made) + ".away", space.directory(made))


@only_with(driver="fuse")
@in_workspace
def test_a_running_view_goes_on_while_it_is_frozen(space: Workspace) -> None:
    user = space.user
    space.run("echo one >/tmp/in-file")
    space._script("exec sleep 1000")
    user.succeeds("start", "v")
    user.succeeds("exec", "v", "sh", "-c", "echo two >>/tmp/in-file; echo n >/tmp/in-new")
    made = space.snapshot("s")
    before = digest(space.directory(made))
    show = ("exec", "v", "cat", "/tmp/in-file", "/tmp/in-new")
    assert user.succeeds(*show) == "one\ntwo\nn\n"
    user.succeeds("exec", "v", "sh", "-c", "echo three >>/tmp/in-file; rm /tmp/in-new")
    assert changes(user, "v@s..") == {"/tmp/in-file": "changed", "/tmp/in-new": "deleted"}
    assert changes(user, "v") == {"/tmp/in-file": "added"}
    user.succeeds("stop", "v")
    assert space.run("cat /tmp/in-file; ls /tmp/in-new 2>/dev/null || true") == "one\ntwo\nthree\n"
    assert user.succeeds("restore", "--discard", "v", "s") == ""
    assert space.run("cat /tmp/in-file /tmp/in-new") == "one\ntwo\nn\n"
    assert digest(space.directory(made)) == before
