"""`overlaykit try` of an ordinary user: what the user's view cannot hold is not lost by applying it."""

from __future__ import annotations

import contextlib
import os

import pytest

from overlaykit.changes.run import Request
from overlaykit.cli import areas, stacks
from overlaykit.reader import Reader

from ..changes.application import BACKWARD, Picture, at_step, picture
from ..changes.test_apply_killed import EVERY, Killed
from ..test_inode_metadata import ACCESS, DEFAULT, GROUP_OBJ, MASK, OTHER, USER, USER_OBJ, acl
from ..views.fixtures import only_as
from ..views.user import ORDINARY, TestUser, command, reachable_by_others
from .test_try import content, tried

LIST = acl((USER_OBJ, 6), (USER, 6, 7), (GROUP_OBJ, 4), (MASK, 6), (OTHER, 4))
"""user::rw-, user:7:rw-, group::r--, other::r--: of a user whom the view does not have."""


SECONDS = 600

STATE = ".overlaykit-apply"


def acls(path: str) -> dict[str, bytes]:
    return {name: os.getxattr(path, name) for name in (ACCESS, DEFAULT) if has(path, name)}


def has(path: str, name: str) -> bool:
    return name in os.listxattr(path)


@only_as("ordinary user")
def test_a_file_that_was_written_keeps_the_acl_that_names_others(user: TestUser) -> None:
    with tried(user) as path:
        file, directory, other = (os.path.join(path, name) for name in ("changed", "d", "same"))
        os.mkdir(directory)
        os.setxattr(file, ACCESS, LIST)
        os.setxattr(other, ACCESS, LIST)
        os.setxattr(directory, DEFAULT, LIST)
        script = "echo two > changed; chmod 600 same; echo 1 > d/new; rm deleted"
        done = user.overlaykit("try", "--yes", "-D", path, "--", "sh", "-c", script)
        assert done.returncode == 0, done
        assert "ACL" not in done.stderr
        assert content(file) == "two\n"
        assert acls(file) == {ACCESS: LIST}
        assert acls(directory) == {DEFAULT: LIST}
        closed = acl((USER_OBJ, 6), (USER, 6, 7), (GROUP_OBJ, 4), (MASK, 0), (OTHER, 0))
        assert acls(other) == {ACCESS: closed}  # chmod(2) of a file with a list sets its mask
        user.succeeds("apply", "--undo", path)
        assert content(file) == "one\n"
        assert acls(other) == {ACCESS: LIST}


GROUP = 4242
"""A supplementary group of the ordinary user."""


@only_as("root")
def test_files_of_a_supplementary_group_are_written_and_keep_it(user: TestUser) -> None:
    """As in a shared directory: on the host a new file gets the group of a directory with set-group-ID."""
    os.chmod(user.scratch, 0o755)
    path = user.directory("home", "p", file="one\n", gone="x\n", plain="x\n")
    user.directory("home", "p", "sub", f="y\n")
    user.directory("home", "p", "other", f="y\n")
    for above, _, files in os.walk(user.home):
        group = GROUP if above.startswith(path) else ORDINARY
        for name in (above, *(os.path.join(above, file) for file in files)):
            os.chown(name, ORDINARY, group)
    os.chown(os.path.join(path, "plain"), ORDINARY, ORDINARY)
    for name in (".", "sub"):
        os.chmod(os.path.join(path, name), 0o2775)
    script = (
        "rm gone; echo two > file; echo 1 > new; mkdir made; echo 1 > made/f; chmod 600 sub/f;"
        " echo x > other/new; echo two > plain; mv sub/f sub/g"
    )
    groups = ("setpriv", f"--reuid={ORDINARY}", f"--regid={ORDINARY}", f"--groups={GROUP}")
    home = {"HOME": user.home, "XDG_RUNTIME_DIR": "", "XDG_DATA_HOME": ""}
    with reachable_by_others():
        user.program(
            [*groups, command(), "try", "--yes", "--", "sh", "-ec", script],
            cwd=path,
            env={**os.environ, **home},
        )
    found = {
        os.path.relpath(os.path.join(above, name), path): os.lstat(os.path.join(above, name)).st_gid
        for above, directories, files in os.walk(path)
        for name in (*directories, *files)
    }
    assert found == {
        "file": GROUP,
        "new": GROUP,
        "made": GROUP,
        "made/f": GROUP,
        "sub": GROUP,
        "sub/g": GROUP,
        "other": GROUP,
        "other/f": GROUP,
        "other/new": ORDINARY,
        "plain": ORDINARY,
    }
    assert content(path, "file") == "two\n"


@only_as("ordinary user")
def test_an_acl_goes_with_the_file_that_another_one_replaces(user: TestUser) -> None:
    with tried(user) as path:
        file = os.path.join(path, "changed")
        os.setxattr(file, ACCESS, LIST)
        script = "rm changed; echo two > changed"
        done = user.overlaykit("try", "--yes", "-D", path, "--", "sh", "-c", script)
        assert done.returncode == 0, done
        assert acls(file) == {}
        user.succeeds("apply", "--undo", path)
        assert acls(file) == {ACCESS: LIST}


@only_as("ordinary user")
def test_a_try_in_a_try_needs_no_runtime_directory(user: TestUser) -> None:
    bare = {name: value for name, value in os.environ.items() if name != "XDG_RUNTIME_DIR"}
    with tried(user) as path:
        inner = (command(), "try", "--yes", "-D", path, "--", "rm", "deleted")
        done = user.overlaykit("try", "--yes", "-D", path, "--", *inner, env=bare)
        assert done.returncode == 0, done
        assert sorted(os.listdir(path)) == [".overlaykit-apply", "changed", "same"]


def seen(path: str) -> dict[str, tuple[int, str]]:
    """The mode and the content of each file of the user's below a directory, also of those that modes close."""

    def look() -> dict[str, tuple[int, str]]:
        found = {}
        for above, directories, files in os.walk(path):
            if STATE in directories:
                directories.remove(STATE)
            for name in (*directories, *files):
                one = os.path.join(above, name)
                data = content(one) if name in files and os.path.isfile(one) else ""
                found[os.path.relpath(one, path)] = os.lstat(one).st_mode & 0o777, data
        return found

    return Reader().run(look)


CLOSED = """
mkdir -p closed/in/deep; echo 1 >closed/f; echo 2 >closed/in/g; ln -s f closed/l; ln closed/f closed/h; echo 3 >new
echo two >changed; chmod 700 shut; echo 4 >shut/x; rm shut/y; echo Z >shut/z
chmod 0 closed/f new changed closed/in/deep closed/in closed old shut
"""


@only_as("ordinary user")
def test_changes_that_modes_close_to_the_user_are_seen_applied_and_taken_back(
    user: TestUser,
) -> None:
    with tried(user) as path:
        user.directory("w", "old", f="1\n")
        shut = user.directory("w", "shut", y="y\n", z="z\n")
        os.chmod(shut, 0)
        before = seen(path)
        try:
            arguments = ("--keep", "kept", "-D", path, "--", "sh", "-c", CLOSED)
            done = user.overlaykit("try", *arguments)
            assert done.returncode == 0, done
            assert seen(path) == before
            listed = user.succeeds("diff", "-a", "kept")
            for line in ("closed/in/g", "closed/l", "closed/h", "shut/x", "shut/y", "changed"):
                assert f"{path}/{line}" in listed
            assert "\n+2\n" in user.succeeds("diff", "--patch", "kept")
            for options in (["--keep"], ["--theirs"]):
                assert user.overlaykit("apply", *options, "kept").returncode == 0
                applied = seen(path)
                assert applied["closed"][0] == applied["closed/in"][0] == applied["old"][0] == 0
                assert applied["closed/in/deep"][0] == applied["shut"][0] == 0
                assert applied["closed/in/g"] == (0o644, "2\n")
                assert applied["closed/f"] == applied["closed/h"] == (0, "1\n")
                assert applied["changed"] == (0, "two\n")
                assert applied["new"] == (0, "3\n")
                assert applied["shut/x"] == (0o644, "4\n")
                assert applied["shut/z"] == (0o644, "Z\n")
                assert "shut/y" not in applied
                user.succeeds("apply", "--undo", path)
                assert seen(path) == before
            user.succeeds("rm", "kept")
        finally:
            os.chmod(shut, 0o700)
            os.chmod(os.path.join(path, "old"), 0o700)


class Closed(Killed):
    """What a try has changed, with files and directories that their modes close to the user."""

    def __init__(self, path: str) -> None:
        self._stack = stacks.find("kept", disks=stacks.Disks(contextlib.ExitStack()))
        assert self._stack.upper is not None
        self.asked = Request(upper=self._stack.upper, lowers=("/",), within=path.strip("/"))
        self.lower = path
        self.before, self.upper = map(self.picture, (path, self.asked.upper))
        self.apply()
        self.wanted = self.picture(path)
        self.take_back()

    def picture(self, path: str) -> Picture:
        return Reader().run(lambda: picture(path))

    def apply(self) -> None:
        assert not areas.apply(self._stack)[0].conflicts


@pytest.mark.parametrize("step", ["apply.unstep", "apply.step", "apply.staged"])
@pytest.mark.one_in(3)
@only_as("ordinary user")
def test_an_application_of_closed_files_that_is_killed_is_finished_and_taken_back(
    user: TestUser, step: str
) -> None:
    user.set_deadline(SECONDS)
    with tried(user) as path:
        closed = user.directory("w", "old", f="1\n"), user.directory("w", "shut", y="y\n", z="z\n")
        os.chmod(closed[1], 0)
        try:
            user.overlaykit("try", "--keep", "kept", "-D", path, "--", "sh", "-c", CLOSED)
            case = Closed(path)
            ends = case.end_of_undo if step in BACKWARD else case.end_of_application
            number = 1
            while ends(at_step(f"{step}:{number}")):
                number += EVERY if EVERY == 1 else 60  # each takes a second
            assert number > 1
            user.succeeds("rm", "kept")
        finally:
            for directory in closed:
                os.chmod(directory, 0o700)


@only_as("ordinary user")
def test_changes_below_a_directory_that_its_mode_closes_are_applied_and_taken_back(
    user: TestUser,
) -> None:
    """A program that was there before goes on writing below it."""
    with tried(user) as path:
        shut = user.directory("w", "shut")
        inner = user.directory("w", "shut", "in", f="one\n")
        script = "cd shut/in; chmod 0 ..; echo two >f; echo new >new"
        done = user.overlaykit("try", "--keep", "kept", "-D", path, "--", "sh", "-c", script)
        assert done.returncode == 0, done
        os.chmod(shut, 0)
        try:
            before = seen(path)
            assert user.overlaykit("apply", "--theirs", "kept").returncode == 0
            applied = seen(path)
            assert applied["shut/in/f"] == (0o644, "two\n")
            assert applied["shut/in/new"] == (0o644, "new\n")
            assert applied["shut"][0] == 0
            user.succeeds("apply", "--undo", path)
            assert seen(path) == before
            user.succeeds("rm", "kept")
            # Where the directory itself cannot be reached, that is said, and the changes stay.
            os.chmod(shut, 0o700)
            assert (
                user.overlaykit(*("try", "--keep", "kept", "-D", inner, "--", "rm", "f")).returncode
                == 0
            )
            os.chmod(shut, 0)
            done = user.overlaykit("apply", "kept")
            assert done.returncode == 125, done
            assert f"{inner}: Permission denied" in done.stderr
            user.succeeds("rm", "kept")
        finally:
            os.chmod(shut, 0o700)


@only_as("ordinary user")
def test_changes_in_directories_that_are_read_only_are_taken_back(user: TestUser) -> None:
    with tried(user) as path:
        user.directory("w", "d", "e", f="1\n")
        for name in ("d/e", "d"):
            os.chmod(os.path.join(path, name), 0o555)
        script = (
            "chmod 755 d d/e; rm d/e/f; echo 2 > d/e/g; chmod 555 d/e d; mv d D; "
            "mkdir -p n/m; echo 3 > n/m/f; chmod 500 n/m n"
        )
        done = user.overlaykit("try", "--yes", "-D", path, "--", "sh", "-c", script)
        assert done.returncode == 0, done
        assert os.listdir(os.path.join(path, "D/e")) == ["g"]
        assert os.stat(os.path.join(path, "n/m")).st_mode & 0o777 == 0o500
        user.succeeds("apply", "--undo", path)
        assert sorted(os.listdir(path)) == ["changed", "d", "deleted", "same"]
        assert content(path, "d/e/f") == "1\n"
        assert {os.stat(os.path.join(path, name)).st_mode & 0o777 for name in ("d", "d/e")} == {
            0o555
        }
        for name in ("d", "d/e"):  # so that the test's end can remove them
            os.chmod(os.path.join(path, name), 0o755)


@only_as("ordinary user")
def test_changes_that_are_not_applied_are_counted(user: TestUser) -> None:
    with tried(user) as path:
        before = os.getcwd()
        script = f"echo two >{path}/changed; echo new >/opt/new; echo new >/opt/more"
        done = user.overlaykit("run", "--name", "v", "--", "sh", "-c", script)
        assert done.returncode == 0, done
        try:
            os.chdir(path)
            done = user.overlaykit("apply", "--dry-run", "v")
            assert "2 more outside of " in done.stderr
            assert f"M  {path}/changed\n" in done.stdout
            assert "/opt/new: only changes in " in user.refused("apply", "v", "/opt/new")
        finally:
            os.chdir(before)
            user.succeeds("rm", "v")
        user.overlaykit("try", "--keep", "v", "-D", path, "--", "touch", "/var/tmp/of-the-view")
        done = user.overlaykit("apply", "v")
        user.succeeds("rm", "v")
        assert f"1 more outside of {path}, which are never applied" in done.stderr


@only_as("ordinary user")
def test_directories_are_compared_and_taken_back_without_a_home(user: TestUser) -> None:
    with tried(user) as path:
        done = user.overlaykit("try", "--yes", "-D", path, "--", "rm", "deleted")
        assert done.returncode == 0, done
        bare = {name: one for name, one in os.environ.items() if not name.startswith("XDG_")}
        bare["HOME"] = "/nonexistent"
        done = user.overlaykit("apply", "--undo", path, env=bare)
        assert done.returncode == 0, done
        assert content(os.path.join(path, "deleted")) == "x\n"
        done = user.overlaykit("diff", path, env=bare)
        assert done.returncode == 0, done
        done = user.overlaykit("apply", "--undo", path, env=bare)
        assert "there is nothing to take back" in done.stderr
