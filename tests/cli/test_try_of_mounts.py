"""`overlaykit try` where file systems and files are mounted below the directory, or files have moved since."""

from __future__ import annotations

import os
import subprocess

from ..views.user import TestUser
from .test_try import content, kept_views, tried


def in_machine(
    user: TestUser, arrange: str, script: str, then: str
) -> subprocess.CompletedProcess[str]:
    """Try a shell command in the directory `w`, with mounts of the test's own; then run another one there."""
    path = user.path("w")
    os.makedirs(os.path.join(path, "m"), exist_ok=True)
    command = ("try", "--yes", "-D", path, "--", "sh", "-ec", script)
    drop = 'for one in m .; do test ! -d "$one/.overlaykit-apply" || rm -r "$one/.overlaykit-apply"; done'
    return user.changed_machine(f"cd {path}; {arrange}", *command, then=f"{then}; {drop}")


def test_files_are_renamed_from_one_file_system_to_another(user: TestUser) -> None:
    with tried(user):
        arrange = "mount -t tmpfs t m; echo 1 > m/f"
        script = "mv m/f here; mv same m/there; cat here m/there"
        done = in_machine(user, arrange, script, "cat here m/there; ls . m")
        assert done.returncode == 0, done
        assert done.stdout == "1\nsame\n" * 2 + ".:\nchanged\ndeleted\nhere\nm\n\nm:\nthere\n", done


def test_a_file_that_is_a_mountpoint_is_named_and_stays(user: TestUser) -> None:
    with tried(user) as path:
        arrange = "mount --bind same deleted"
        for script in ("echo 2 > deleted", "rm changed; echo 2 > new; echo 2 > deleted"):
            done = in_machine(user, arrange, script, "true")
            assert done.returncode == 125, done
            assert "overlaykit: deleted: a file system is mounted there, which stays" in done.stderr
            assert content(path, "deleted") == "x\n"
            assert content(path, "changed") == "one\n"
        user.succeeds("rm", *kept_views(user))


def test_a_directory_that_holds_a_mount_is_not_deleted(user: TestUser) -> None:
    with tried(user) as path:
        user.directory("w", "d", f="1\n")
        user.directory("outside", f="2\n")
        arrange = "mkdir d/m; mount --bind ../outside d/m"
        done = in_machine(user, arrange, "rm -r d || true; rm changed; test ! -e d", "true")
        assert done.returncode == 125, done
        assert "d/m: a file system is mounted there, which stays" in done.stderr
        assert content(path, "d", "f") == "1\n"
        assert content(path, "../outside", "f") == "2\n"
        assert content(path, "changed") == "one\n"
        user.succeeds("rm", *kept_views(user))


def test_what_the_host_has_renamed_is_a_conflict_and_not_made_again(user: TestUser) -> None:
    with tried(user) as path:
        user.directory("w", "d", f="1\n", g="2\n")
        script = "rm d/f; echo two >> changed"
        user.overlaykit("try", "--keep", "name", "-D", path, "--", "sh", "-c", script)
        for name in ("d", "changed"):
            os.rename(os.path.join(path, name), os.path.join(path, f"{name}2"))
        done = user.overlaykit("apply", "name")
        assert done.returncode == 1, done
        for name in ("d", "changed"):
            assert f"{path}/{name}: the layer " in done.stderr
        assert sorted(os.listdir(path)) == ["changed2", "d2", "deleted", "same"]
        user.succeeds("rm", "name")
