"""`overlaykit cp`: files into views and out of them, that run or are stopped."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ..views.fixtures import only_as, only_with, with_both_drivers
from ..views.test_identities import subordinate_ids
from ..views.user import AS_ORDINARY, TestUser, command

pytestmark = with_both_drivers


@contextmanager
def view(user: TestUser, *options: str, running: bool = True) -> Iterator[None]:
    """A named view `v`, of which a file /w/f was written, until the end of the block."""
    script = "mkdir -p /w; echo inside > /w/f; " + ("exec sleep 1000" if running else "")
    try:
        detach = ("-d",) if running else ()
        user.succeeds("run", *detach, "--name", "v", *options, "--", "sh", "-c", script)
        if running:
            user.succeeds("exec", "v", "sh", "-c", "until grep -q inside /w/f; do :; done 2>&-")
        yield
    finally:
        user.overlaykit("rm", "-f", "v")


def look(user: TestUser, *command: str, running: bool = True) -> str:
    """What a command in the view prints."""
    if running:
        return user.succeeds("exec", "v", "--", *command)
    archive = user.overlaykit("cp", "v:" + command[-1], "-", text=False, errors=None).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:  # type: ignore[arg-type]
        member = tar.extractfile(tar.getmembers()[0])
        assert member is not None
        return member.read().decode()


@pytest.mark.parametrize("running", [True, False])
def test_a_file_goes_in_and_comes_out(user: TestUser, running: bool) -> None:
    file = user.write(user.path("file"), "outside\n")
    os.chmod(file, 0o640)
    os.utime(file, ns=(1, 1_234_567_890_123_456_789))
    with view(user, running=running):
        user.succeeds("cp", file, "v:/w")
        user.succeeds("cp", file, "v:/w/named")
        user.succeeds("cp", file, "v:/w/f")
        for name in ("file", "named", "f"):
            assert look(user, "cat", f"/w/{name}", running=running) == "outside\n"
            user.succeeds("cp", f"v:/w/{name}", user.path("back"))
            found = os.stat(user.path("back"))
            assert (found.st_mode & 0o7777, found.st_uid) == (0o640, os.getuid())
            assert found.st_mtime_ns == 1_234_567_890_123_456_789
    assert not os.path.exists("/w")


@pytest.mark.parametrize("running", [True, False])
def test_a_directory_is_copied_as_cp_does(user: TestUser, running: bool) -> None:
    tree = user.directory("tree", file="1\n")
    user.directory("tree", "deep", "er", other="2\n")
    os.symlink("er", user.path("tree", "deep", "link"))
    os.symlink("/nowhere", user.path("tree", "dangling"))
    os.mkfifo(user.path("tree", "fifo"))
    odd = os.fsencode(tree) + b"/\xff\n'"
    with open(odd, "w"):
        pass
    os.chmod(user.path("tree", "deep"), 0o555)
    with view(user, running=running):
        user.succeeds("cp", tree, "v:/w")  # as /w/tree
        user.succeeds("cp", tree, "v:/w/new")  # which is not there
        user.succeeds("cp", f"{tree}/.", "v:/w/tree")  # once more
        out = user.directory("out")
        for name in ("tree", "new"):
            user.succeeds("cp", f"v:/w/{name}", out)
            user.program(["diff", "-r", "--no-dereference", "-x", "fifo", tree, f"{out}/{name}"])
            assert os.readlink(f"{out}/{name}/deep/link") == "er"
            assert os.stat(f"{out}/{name}/deep").st_mode & 0o777 == 0o555
            assert os.path.exists(os.fsencode(f"{out}/{name}") + b"/\xff\n'")
        user.succeeds("cp", "v:/w/.", user.path("made"))
        assert sorted(os.listdir(user.path("made"))) == ["f", "new", "tree"]


@pytest.mark.parametrize("running", [True, False])
def test_archives_are_standard_input_and_output(user: TestUser, running: bool) -> None:
    with view(user, running=running):
        user.directory("tree", "sub", file="1\n")
        archive = subprocess.run(
            ["tar", "-C", user.scratch, "-c", "tree"], check=True, stdout=subprocess.PIPE
        ).stdout
        packed = user.write(user.path("archive"), archive)
        with open(packed) as file:
            user.succeeds("cp", "-", "v:/w", stdin=file)
        assert look(user, "cat", "/w/tree/sub/file", running=running) == "1\n"
        listed = user.overlaykit("cp", "v:/w", "-", text=False, errors=None).stdout
        with tarfile.open(fileobj=io.BytesIO(listed)) as tar:  # type: ignore[arg-type]
            names = ["w", "w/f", "w/tree", "w/tree/sub", "w/tree/sub/file"]
            assert tar.getnames() == names


def test_no_link_of_a_view_leads_out_of_it(user: TestUser) -> None:
    secret = user.write(user.path("secret"), "the host's\n")
    user.directory("out")
    links = f"ln -s {secret} /w/file; ln -s {user.scratch} /w/up; ln -s ../../../../.. /w/root"
    with view(user):
        user.succeeds(
            "exec", "v", "sh", "-c", f"{links}; rm -f {secret} || mkdir -p {user.scratch}"
        )
        for path in ("/w/file", "/w/up/secret", f"/w/root{secret}", "/w/../../.." + secret):
            line = user.refused("cp", f"v:{path}", user.path("out"))
            assert line == f"{path}: No such file or directory"
        new = user.write(user.path("new"), "new\n")
        user.succeeds("cp", new, "v:/w/up/secret")
        user.succeeds("cp", new, "v:/w/up/another")
        with open(secret) as file:
            assert file.read() == "the host's\n"
        assert not os.path.exists(user.path("another"))
        assert user.succeeds("exec", "v", "cat", secret) == "new\n"


def test_no_link_that_was_copied_before_is_written_through(user: TestUser) -> None:
    out = user.directory("out")
    secret = user.write(user.path("secret"), "the host's\n")
    with view(user):
        user.succeeds("exec", "v", "ln", "-s", user.scratch, "/w/link")
        user.succeeds("exec", "v", "ln", "-s", secret, "/w/file")
        user.succeeds("cp", "v:/w", out)
        again = "rm /w/link /w/file; mkdir /w/link; echo evil > /w/link/secret; echo evil > /w/file"
        user.succeeds("exec", "v", "sh", "-c", again)
        line = user.refused("cp", "v:/w", out)
        assert line.startswith(f"{out}/w/link: no directory, which the source is")
        user.succeeds("cp", "v:/w/file", f"{out}/w/file")
        user.succeeds("cp", "--overwrite", "v:/w", out)
    with open(secret) as file:
        assert file.read() == "the host's\n"
    with open(f"{out}/w/link/secret") as file:
        assert file.read() == "evil\n"


def test_an_archive_does_not_lead_out(user: TestUser) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../../up"))
    file = user.write(user.path("archive"), packed.getvalue())
    with view(user):
        with open(file) as archive:
            line = user.refused("cp", "-", "v:/w", stdin=archive)
        assert line.startswith("../../up: a member of the archive that would lie outside of /w")
        with open(user.write(file, b"no archive" * 1000)) as archive:
            assert user.refused("cp", "-", "v:/w", stdin=archive).startswith("the archive is dama")
        with open(file) as archive:
            line = user.refused("cp", "-", "v:/w/f", stdin=archive)
        assert line.startswith("/w/f: no directory, in which the archive")


def test_set_user_id_bits_and_devices_do_not_come_out(user: TestUser) -> None:
    with view(user):
        user.succeeds("exec", "v", "chmod", "6755", "/w/f")
        user.succeeds("cp", "v:/w/f", user.path("f"))
        assert os.stat(user.path("f")).st_mode & 0o7777 == 0o755
        done = user.overlaykit("cp", "v:/dev/null", user.path("null"))
        assert done.stderr == "overlaykit: /dev/null: left out: a device or a socket\n"
        assert not os.path.exists(user.path("null"))


def test_nothing_is_written_into_a_lower(user: TestUser) -> None:
    layer = user.directory("layer", file="lower\n")
    new = user.write(user.path("new"), "new\n")
    with view(user, "-l", layer, "-l", "host") if user.has_host else view(user, "-l", layer):
        user.succeeds("cp", new, "v:/file")
        assert user.succeeds("exec", "v", "cat", "/file") == "new\n"
    with open(f"{layer}/file") as file:
        assert file.read() == "lower\n"


@only_as("root")
def test_what_goes_in_belongs_to_the_views_user(user: TestUser) -> None:
    file = user.write(user.path("file"), "")
    os.chown(file, 77, 78)
    user.directory("own")
    for running in (True, False):
        with view(user, "-u", "33:34", "--tmpfs", "/w:mode=1777", running=running):
            user.succeeds("cp", user.path("own"), "v:/tmp/own")
            user.succeeds("cp", file, "v:/tmp/own/in")
            user.succeeds("cp", "--archive=false", file, "v:/tmp/own/kept")
            owners = {}
            archive = user.overlaykit("cp", "v:/tmp/own", "-", text=False, errors=None).stdout
            with tarfile.open(fileobj=io.BytesIO(archive)) as tar:  # type: ignore[arg-type]
                for name in ("in", "kept"):
                    member = tar.getmember(f"own/{name}")
                    owners[name] = (member.uid, member.gid)
            assert owners == {"in": (33, 34), "kept": (77, 78)}
            user.succeeds("cp", "v:/tmp/own/kept", user.path("out"))
            assert os.stat(user.path("out")).st_uid == 0
            os.unlink(user.path("out"))


@only_as("root")
@only_with(driver="fuse", server=False)
def test_subordinate_ids_are_the_views_own_numbers(user: TestUser) -> None:
    with subordinate_ids(user) as home:
        run = [*AS_ORDINARY, command()]
        user.write(f"{home}/file", "x\n")
        os.chmod(f"{home}/file", 0o644)
        user.program([*run, "run", "-d", "--name", "v", "-u", "33", "sleep", "1000"])
        try:
            user.program([*run, "cp", f"{home}/file", "v:/tmp/in"])
            shown = user.program([*run, "exec", "v", "stat", "-c", "%u", "/tmp/in"])
            assert shown == "33\n"
            user.program([*run, "cp", "v:/tmp/in", f"{home}/out"])
            assert os.stat(f"{home}/out").st_uid == os.stat(home).st_uid
        finally:
            user.program([*run, "rm", "-f", "v"])


def test_a_copy_goes_from_view_to_view(user: TestUser) -> None:
    with view(user):
        user.succeeds("run", "--name", "w", "true")
        try:
            user.succeeds("cp", "v:/w/f", "w:/tmp/g")
            user.succeeds("cp", "w:/tmp/g", user.path("g"))
        finally:
            user.succeeds("rm", "w")
    with open(user.path("g")) as file:
        assert file.read() == "inside\n"


def test_what_cannot_be_copied_is_named(user: TestUser) -> None:
    file, directory = user.write(user.path("file"), ""), user.directory("directory")
    assert user.refused("cp", file, "v:/x").startswith("v: there is no view of that name")
    assert user.refused("cp", file, directory).startswith("cp: neither path is of a view")
    assert user.refused("cp", "", "v:/x") == "cp: a path is empty: see 'overlaykit cp --help'"
    with view(user):
        assert user.refused("cp", "v:/nope", file) == "/nope: No such file or directory"
        assert user.refused("cp", user.path("nope"), "v:/w").endswith("No such file or directory")
        assert user.refused("cp", file, "v:/no/x") == "/no: No such file or directory"
        assert user.refused("cp", file, "v:/no/") == "/no/: Not a directory"
        assert user.refused("cp", directory, "v:/w/f").startswith("/w/f: no directory, which the")
        user.succeeds("exec", "v", "mkdir", "/w/file")
        assert user.refused("cp", file, "v:/w").startswith("/w/file: a directory, which the source")
        user.succeeds("cp", "--overwrite", file, "v:/w")
        user.succeeds("cp", "--overwrite", directory, "v:/w/f")
        assert user.refused("cp", "v:/w/file", "/dev/null").startswith("/dev/null: neither a file")
        assert user.refused("cp", "v:/w/f/.", file).startswith(f"{file}: no directory, which")
    with view(user, "-v", f"{directory}:/mnt", running=False):
        for path in ("/mnt/x", "/mnt", "/proc/1", "/dev"):
            line = user.refused("cp", file, f"v:{path}")
            assert "the view has what is at" in line
    lower, target = user.directory("lower"), user.directory("target")
    user.succeeds("mount", "-o", f"lowerdir={lower}", "--name", "m", target)
    assert user.refused("cp", "m:/x", file).startswith("m: a mount, in which no command runs")
    user.succeeds("umount", target)


def test_a_read_only_view_takes_nothing(user: TestUser) -> None:
    file = user.write(user.path("file"), "")
    try:
        user.succeeds("run", "-d", "--name", "v", "--read-only", "sleep", "1000")
        assert user.refused("cp", file, "v:/x") == "/x: Read-only file system"
    finally:
        user.overlaykit("rm", "-f", "v")
