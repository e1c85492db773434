"""Binds by `-v` and `--mount`, in any order and with any names."""

from __future__ import annotations

import os
import subprocess

import pytest

from overlaykit.errors import Error
from overlaykit.namespace import Bind
from overlaykit.views import View

from ..views.fixtures import only_as
from ..views.user import TestUser, command


def test_nested_binds_are_visible_in_any_order(user: TestUser) -> None:
    for name in ("outer", "inner", "innermost"):
        user.directory(name, name="")
        user.write(user.path(name, name), "")
    targets = {"outer": "/mnt", "inner": "/mnt/a", "innermost": "/mnt/a/b"}
    for order in (targets, reversed(targets)):
        binds = [word for n in order for word in ("-v", f"{user.path(n)}:{targets[n]}")]
        printed = user.succeeds("run", *binds, "ls", *targets.values())
        assert {"outer", "inner", "innermost"} <= set(printed.split()), order


def test_a_bind_below_a_symbolic_link_is_mounted_after_the_links_target(
    user: TestUser,
) -> None:
    outer, inner = user.directory("outer", o=""), user.directory("inner", i="")
    deep = user.directory("deep", "er")
    os.symlink(os.path.join(deep, "x"), user.path("l"))
    binds = ("-v", f"{inner}:{user.path('l')}", "-v", f"{outer}:{deep}")
    assert user.succeeds("run", *binds, "ls", deep, f"{deep}/x").split() == [
        *(f"{deep}:", "o", "x"),
        *(f"{deep}/x:", "i"),
    ]


def test_two_binds_with_one_target_are_refused(user: TestUser) -> None:
    one, two = user.directory("one"), user.directory("two")
    complaint = "two paths cannot be shared at one place; name another for one of them"
    line = user.refused("run", "-v", f"{one}:/mnt", "-v", f"{two}:/mnt/../mnt/", "true")
    assert line == f"-v /mnt: {one} and {two}: {complaint}"
    os.symlink("/mnt", user.path("link"))
    link = user.path("link")
    line = user.refused("run", "-v", f"{one}:/mnt", "-v", f"{two}:{link}", "true")
    assert line == f"-v {link}: the same place in this view as /mnt: {complaint}"
    with pytest.raises(Error, match=complaint):
        View(binds=[Bind(source=one, target="/mnt"), Bind(source=two, target="/mnt")])


def test_names_with_colons_and_commas_can_be_shared(user: TestUser) -> None:
    shared = user.directory('with:colon, comma and "quote"', file="contents\n")
    quoted = shared.replace('"', '""')
    mount = f'type=bind,"src={quoted}","dst={quoted}",ro'
    script = 'cat "$0/file"; echo >"$0/file"'
    target = os.path.join(os.path.dirname(shared), "elsewhere:x")
    done = user.overlaykit("run", "--mount", mount, "sh", "-c", script, shared)
    assert done.stdout == "contents\n"
    assert "Read-only file system" in done.stderr
    mount = f'"source={quoted}",destination={target},readonly=false,type=bind'
    assert user.succeeds("run", "--mount", mount, "cat", f"{target}/file") == "contents\n"


@only_as("ordinary user")  # the same for root
@pytest.mark.parametrize("target", ["/proc", "/proc/self", "/proc/1/root", "/usr/../proc/"])
def test_the_processes_of_a_view_cannot_be_covered(user: TestUser, target: str) -> None:
    line = user.refused("run", "-v", f"/etc:{target}", "true")
    assert line.startswith(f"-v /etc:{target}: {os.path.normpath(target)} cannot be covered")


def test_other_pseudo_file_systems_can_be_covered(user: TestUser) -> None:
    shared = user.directory("shared", file="contents\n")
    targets = {target: f"{target}/file" for target in ("/sys", "/dev", "/run")}
    binds = [word for target in targets for word in ("-v", f"{shared}:{target}")]
    binds += ["-v", f"{shared}/file:/proc/uptime"]
    printed = user.succeeds("run", *binds, "cat", *targets.values(), "/proc/uptime")
    assert printed == "contents\n" * 4


def test_a_descriptor_of_the_callers_can_be_shared(user: TestUser) -> None:
    shared = user.directory("shared", file="contents\n")
    script = f"exec 3<{shared}; exec {command()} run -v /proc/self/fd/3:/mnt cat /mnt/file"
    assert user.program(["sh", "-c", script]) == "contents\n"


@pytest.mark.parametrize(
    "arguments",
    [("run", "true"), ("run", "-l", "./layer", "true"), ("umount", "m")],
    ids=" ".join,
)
def test_a_deleted_working_directory_is_reported_by_name(
    user: TestUser, arguments: tuple[str, ...]
) -> None:
    gone = user.directory("gone")
    line = ["sh", "-c", 'rmdir "$PWD"; exec "$@"', "sh", command(), *arguments]
    done = subprocess.run(line, cwd=gone, capture_output=True, text=True, check=False)
    complaint = (
        f"overlaykit: {gone}: the working directory has been deleted; change to another one\n"
    )
    assert (done.returncode, done.stderr) == (125, complaint)


def test_a_command_with_a_given_directory_runs_from_a_deleted_one(user: TestUser) -> None:
    gone = user.directory("gone")
    line = ["sh", "-c", 'rmdir "$PWD"; exec "$@"', "sh", command(), "run", "-w", "/usr", "pwd"]
    assert user.program(line, cwd=gone) == "/usr\n"


def test_a_new_mountpoint_is_not_writable_for_others(user: TestUser) -> None:
    outer, inner, file = (
        user.directory("outer"),
        user.directory("inner"),
        user.path("file"),
    )
    user.write(file, "")
    upper = user.directory("upper")
    binds = (
        "-v",
        f"{outer}:/mnt/made",
        "-v",
        f"{inner}:/mnt/made/more/most",
        "-v",
        f"{file}:/mnt/f",
    )
    os.umask(0)
    assert user.succeeds("run", "--upper", upper, *binds, "sh", "-c", "umask") == "0000\n"
    made = [f"{upper}/mnt/made", f"{upper}/mnt/f", f"{outer}/more", f"{outer}/more/most"]
    assert [oct(os.stat(path).st_mode & 0o777) for path in made] == [
        "0o755",
        "0o644",
        *["0o755"] * 2,
    ]


def test_a_bind_of_another_kind_than_its_target_is_refused(user: TestUser) -> None:
    shared = user.directory("shared", file="contents\n")
    file = os.path.join(shared, "file")
    assert user.refused("run", "-v", f"{shared}:/etc/passwd", "true") == (
        "-v /etc/passwd: is no directory in the view, and what is to be shared there is one;"
        " name another target"
    )
    assert user.refused("run", "-v", f"{file}:/etc", "true") == (
        "-v /etc: is a directory in the view, and what is to be shared there is none;"
        " name another target"
    )


def test_a_bind_of_a_pipe_is_refused(user: TestUser) -> None:
    script = '"$0" run -v <(echo):/mnt/file -- true'
    done = subprocess.run(
        ["bash", "-c", script, command()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 125
    assert "has no name that the view could share, as a pipe has none" in done.stderr


def test_podmans_redundant_bind_options_are_accepted(user: TestUser) -> None:
    shared = user.directory("shared", file="contents\n")
    script = "cat /mnt/file; touch /mnt/new 2>/dev/null || echo read-only"
    for mode, is_read_only in {"ro,z": True, "Z": False, "rw,rbind,rprivate": False}.items():
        found = user.succeeds("run", "-v", f"{shared}:/mnt:{mode}", "sh", "-c", script)
        assert found == "contents\n" + "read-only\n" * is_read_only
    assert "it cannot be ro and rw" in user.refused("run", "-v", f"{shared}:/mnt:ro,rw", "true")
    twice = f"type=bind,src={shared},source=/etc,dst=/mnt"
    assert "'source=/etc' is a second source" in user.refused("run", "--mount", twice, "true")
