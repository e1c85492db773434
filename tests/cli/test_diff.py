"""`overlaykit diff`: what a view has changed, for people and for programs."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

from ..views.fixtures import only_as
from ..views.user import TestUser


@contextlib.contextmanager
def mounted(user: TestUser) -> Iterator[str]:
    """A mount in which files were changed, and are not on the disk yet."""
    lower = user.directory("lower", changed="one\n", deleted="x\n", same="same\n")
    for path in "old/in/it", "gone/a", "gone/b":
        os.makedirs(os.path.dirname(os.path.join(lower, path)), exist_ok=True)
        user.write(os.path.join(lower, path), f"{path}\n")
    upper, work, target = map(user.directory, ("upper", "work", "target"))
    user.succeeds("mount", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", target)
    user.write(os.path.join(target, "changed"), "one\ntwo\n")
    os.unlink(os.path.join(target, "deleted"))
    user.write(os.path.join(target, "same"), "same\n")
    for path in "gone/a", "gone/b":
        os.unlink(os.path.join(target, path))
    os.rmdir(os.path.join(target, "gone"))
    os.makedirs(os.path.join(target, "new", "deep"))
    for name in "1", "2":
        user.write(os.path.join(target, "new", "deep", name), name)
    yield target
    user.succeeds("umount", target)


LISTED = """\
M  /changed  (4 -> 8 bytes)
D  /deleted
D  /gone/  (with 2 files)
A  /new/  (with 2 files)
4 added, 1 changed, 4 deleted
"""


def test_the_changes_of_a_mount_are_listed_while_programs_still_write(user: TestUser) -> None:
    with mounted(user) as target:
        assert user.succeeds("diff", target) == LISTED
        # The mount is found by its upper, too.
        assert user.succeeds("diff", user.path("upper")) == LISTED
        lines = user.succeeds("diff", "-a", target).splitlines()
        assert lines[2:8] == [
            "D  /gone/",
            "D  /gone/a",
            "D  /gone/b",
            "A  /new/",
            "A  /new/deep/",
            "A  /new/deep/1",
        ]
        assert user.succeeds("diff", target, "new/deep") == (
            "A  /new/deep/  (with 2 files)\n3 added\n"
        )
        assert user.succeeds("diff", target, "/gone/a") == "D  /gone/a\n1 deleted\n"
        assert user.succeeds("diff", target, "/same") == ""
        assert "no-such: no such file" in user.refused("diff", target, "no-such")


def test_the_changes_of_an_upper_are_those_above_the_layers_that_are_named(user: TestUser) -> None:
    with mounted(user):
        pass
    upper, lower = user.path("upper"), user.path("lower")
    assert user.succeeds("diff", upper, "-l", lower) == LISTED
    done = user.overlaykit("diff", upper, "/changed")
    assert done.stdout == "A  /changed\n1 added\n"
    assert "compared with the host's files: -l names other layers" in done.stderr


def test_scripts_get_objects_and_a_status(user: TestUser) -> None:
    with mounted(user) as target:
        found: list[dict[str, Any]] = json.loads(user.succeeds("diff", "--json", target))
        assert [(one["kind"], one["path"]) for one in found] == [
            ("changed", "/changed"),
            ("deleted", "/deleted"),
            ("deleted", "/gone"),
            ("added", "/new"),
            ("added", "/new/deep"),
            ("added", "/new/deep/1"),
            ("added", "/new/deep/2"),
        ]
        changed = found[0]
        assert changed["what"] == ["content", "size", "times"]
        assert (changed["old"]["size"], changed["new"]["size"]) == (4, 8)
        assert (changed["new"]["type"], changed["new"]["mode"]) == ("file", "0644")
        assert json.loads(user.succeeds("diff", "--json", target, "/same")) == []
        assert user.overlaykit("diff", "--exit-code", target).returncode == 1
        assert user.overlaykit("diff", "--exit-code", target, "/same").returncode == 0


def test_lines_are_counted(user: TestUser) -> None:
    with mounted(user) as target:
        user.write(os.path.join(target, "binary"), b"\0" * 10)
        assert user.succeeds("diff", "--stat", target) == (
            " /binary     | Bin 0 -> 10 bytes\n"
            " /changed    | 1 +\n"
            " /deleted    | 1 -\n"
            " /gone/a     | 1 -\n"
            " /gone/b     | 1 -\n"
            " /new/deep/1 | 1 +\n"
            " /new/deep/2 | 1 +\n"
            " 7 files, 3 lines added, 3 lines removed\n"
        )


def test_a_name_cannot_act_on_the_terminal(user: TestUser) -> None:
    with mounted(user) as target:
        user.write(os.path.join(target, "\033[2Jx\n"), "text\n")
        user.write(os.path.join(target, "gpj.\u202e"), "")
        assert "A  /gpj.\\u202e\n" in user.succeeds("diff", target)
        assert "A  /\\x1b[2Jx\\n\n" in user.succeeds("diff", target)
        assert "b/\\033[2Jx\\n" in user.succeeds("diff", "--patch", target)


def test_a_named_view_is_compared_while_it_runs_and_after(user: TestUser) -> None:
    layers = user.directory("layer", kept="kept\n", gone="gone\n")
    script = "echo more >> /kept; rm /gone; echo ready; exec sleep 1000"
    view = user.start(
        "run", "--name", "work", "-l", layers, "-l", "host", "--", "sh", "-c", script, stdout=-1
    )
    assert view.stdout is not None
    assert view.stdout.readline() == "ready\n"
    listed = user.succeeds("diff", "work")
    assert "M  /kept  (5 -> 10 bytes)\n" in listed
    assert "D  /gone\n" in listed
    user.succeeds("kill", "work")
    view.wait()
    assert user.succeeds("diff", "work") == listed
    assert user.succeeds("diff", os.path.join(user.named_views, "work", "upper")) == listed
    user.succeeds("rm", "work")


@only_as("ordinary user")
def test_a_copy_of_roots_file_is_no_change_of_its_owner(user: TestUser) -> None:
    script = "echo >> /etc/passwd; touch /etc/group"
    user.succeeds("run", "--name", "work", "--", "sh", "-c", script)
    found = json.loads(user.succeeds("diff", "--json", "work", "/etc"))
    assert [(one["path"], one["what"]) for one in found] == [
        ("/etc/passwd", ["content", "size", "times"])
    ]
    user.succeeds("rm", "work")


def test_two_uppers_are_compared_over_the_same_layers(user: TestUser) -> None:
    lower = user.directory("lower", a="a\n", b="b\n", c="c\n")
    work = user.directory("work")
    target = user.directory("target")
    for name, text in ("one", "1"), ("two", "2"):
        upper = user.directory(name)
        user.succeeds("mount", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", target)
        user.write(os.path.join(target, "a"), text)
        os.unlink(os.path.join(target, "b"))
        user.write(os.path.join(target, name), "own\n")
        user.succeeds("umount", target)
    both = f"{user.path('one')}..{user.path('two')}"
    assert user.succeeds("diff", "-l", lower, both) == (
        "M  /a  (content)\nD  /one\nA  /two\n1 added, 1 changed, 1 deleted\n"
    )


def test_two_directories_are_compared(user: TestUser) -> None:
    user.directory("before", a="a\n", b="b\n")
    user.directory("after", a="a\n", b="c\n")
    both = f"{user.path('before')}..{user.path('after')}"
    assert user.succeeds("diff", both) == "M  /b  (content)\n1 changed\n"


def test_a_view_that_was_not_started_has_no_changes(user: TestUser) -> None:
    user.succeeds("create", "--name", "v", "--", "true")
    assert user.succeeds("diff", "v") == user.succeeds("diff", "--exit-code", "v", "/etc") == ""
    assert json.loads(user.succeeds("diff", "--json", "v")) == []
    user.succeeds("rm", "v")


def test_what_cannot_be_compared_is_said(user: TestUser) -> None:
    missing = user.refused("diff", "missing")
    assert missing.startswith("missing: no view, mount, directory or layer of that name")
    assert "there is no layer" in user.refused("diff", "a..b")
    assert "-a is for the list" in user.refused("diff", "-a", "--stat", "missing")
