"""`overlaykit apply`: what a view has changed gets into the directory below it, and out of it again."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator

from ..views.user import TestUser

SCRIPT = "cd /w; echo two > changed; rm deleted; mkdir new; echo 1 > new/1; printf e > \"$(printf 'esc\\033[31m')\""

LISTED = """\
M  /w/changed
D  /w/deleted
A  /w/esc\\x1b[31m
A  /w/new
A  /w/new/1
3 added, 1 changed, 1 deleted
"""


@contextlib.contextmanager
def changed(user: TestUser) -> Iterator[str]:
    """The directory below a stopped view `v`, in which files were changed."""
    lower = user.small_system()
    os.mkdir(os.path.join(lower, "w"))
    for name, content in {"changed": "one\n", "deleted": "x\n", "same": "same\n"}.items():
        user.write(os.path.join(lower, "w", name), content)
    user.succeeds("run", "--name", "v", "-l", lower, "-v", "/usr:/usr:ro", "--", "sh", "-c", SCRIPT)
    try:
        yield lower
    finally:
        user.succeeds("rm", "-f", "v")


def found(layer: str) -> list[str]:
    return sorted(os.listdir(os.path.join(layer, "w")))


def content(layer: str, *names: str) -> str:
    with open(os.path.join(layer, "w", *names), encoding="utf-8") as file:
        return file.read()


def test_a_view_is_applied_and_taken_back_and_applied_for_good(user: TestUser) -> None:
    with changed(user) as layer:
        assert user.succeeds("apply", "--dry-run", "v") == LISTED
        assert found(layer) == ["changed", "deleted", "same"]
        *summary, hint = user.succeeds("apply", "v").splitlines()
        assert summary == ["3 added, 1 changed, 1 deleted"]
        assert f"'overlaykit apply --undo {layer}' takes it back" in hint
        assert found(layer) == ["changed", "esc\033[31m", "new", "same"]
        assert content(layer, "changed") == "two\n"
        assert content(layer, "new", "1") == "1\n"
        assert user.succeeds("diff", "v") == ""

        assert user.succeeds("apply", "--undo", layer) == ""
        assert found(layer) == ["changed", "deleted", "same"]
        assert user.succeeds("apply", "--dry-run", "v") == LISTED

        user.succeeds("apply", "v")
        assert user.succeeds("apply", "--drop", "v") == ""
        assert content(layer, "changed") == "two\n"
        assert ".overlaykit-apply" not in os.listdir(layer)
        assert "there is nothing to take back" in user.refused("apply", "--undo", "v")


def test_some_paths_are_applied(user: TestUser) -> None:
    with changed(user) as layer:
        assert (
            user.succeeds("apply", "--dry-run", "v", "/w/new")
            == "A  /w/new\nA  /w/new/1\n2 added\n"
        )
        user.succeeds("apply", "v", "w/new", "/w/changed")
        assert found(layer) == ["changed", "deleted", "new", "same"]
        assert "the view has changed nothing there" in user.refused("apply", "v", "/w/same")
        assert "a path stands for all" in user.refused("apply", "v", "/")


def test_a_conflict_is_named_with_the_choices(user: TestUser) -> None:
    with changed(user) as layer:
        user.write(os.path.join(layer, "w", "changed"), "of the layer\n")
        done = user.overlaykit("apply", "v")
        assert done.returncode == 1
        assert "/w/changed: the layer's file has changed" in done.stderr
        assert "nothing is applied: --theirs" in done.stderr
        assert "--ours" in done.stderr
        assert found(layer) == ["changed", "deleted", "same"]

        printed = user.succeeds("apply", "--ours", "v")
        assert "kept: /w/changed" in printed
        assert content(layer, "changed") == "of the layer\n"
        assert "new" in found(layer)
        user.succeeds("apply", "--undo", "v")

        user.write(os.path.join(layer, "w", "changed"), "of the layer again\n")
        printed = user.succeeds("apply", "--theirs", "v")
        assert "overwritten: /w/changed" in printed
        assert content(layer, "changed") == "two\n"
        user.succeeds("apply", "--undo", "v")
        assert content(layer, "changed") == "of the layer again\n"


def test_programs_get_an_object(user: TestUser) -> None:
    with changed(user) as layer:
        outcome = json.loads(user.succeeds("apply", "--json", "v"))
        assert [(one["kind"], one["path"]) for one in outcome["written"]] == [
            ("changed", "/w/changed"),
            ("deleted", "/w/deleted"),
            ("added", "/w/esc\033[31m"),
            ("added", "/w/new"),
            ("added", "/w/new/1"),
        ]
        assert outcome["conflicts"] == []
        assert os.path.isdir(os.path.join(layer, "w", "new"))


def test_what_was_applied_is_said_where_the_list_of_it_is_lost(user: TestUser) -> None:
    with changed(user) as layer, open("/dev/full", "w") as full:
        for arguments, status in ((["--dry-run"], 125), ([], 0)):
            done = subprocess.run(
                [sys.executable, "-m", "overlaykit", "apply", *arguments, "v"],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
            assert done.returncode == status
            assert "standard output cannot be written to" in done.stderr
            assert ("the changes are applied" in done.stderr) == (not arguments)
        assert content(layer, "changed") == "two\n"


def test_a_copy_of_the_layer_is_written_to(user: TestUser) -> None:
    with changed(user) as layer:
        target = user.path("copy")
        subprocess.run(["cp", "-a", layer, target], check=True)
        user.succeeds("apply", "v", "--to", target)
        assert content(target, "changed") == "two\n"
        assert content(layer, "changed") == "one\n"
        user.succeeds("apply", "--undo", target)
        assert content(target, "changed") == "one\n"
        assert "there is nothing to take back" in user.refused("apply", "--undo", target)


def test_an_application_that_was_killed_is_finished(user: TestUser) -> None:
    with changed(user) as layer:
        killed = subprocess.run(
            [sys.executable, "-m", "overlaykit", "apply", "v"],
            check=False,
            env={**os.environ, "OVERLAYKIT_FAULT": "apply.step:9"},
        )
        assert killed.returncode == -9
        assert "was cut off: finish it" in user.refused("apply", "v")
        user.succeeds("apply", "--resume", "v")
        assert found(layer) == ["changed", "esc\033[31m", "new", "same"]
        user.succeeds("apply", "--undo", "v")
        assert found(layer) == ["changed", "deleted", "same"]


def test_what_cannot_be_applied_is_refused(user: TestUser) -> None:
    with changed(user) as layer:
        other = user.directory("other")
        user.succeeds(
            "run", "-d", "--name", "w", "-l", layer, "-v", "/usr:/usr:ro", "--", "sleep", "1000"
        )
        try:
            assert "the view is running" in user.refused("apply", "w")
            assert "the view is running" in user.refused("apply", "--undo", "w")
        finally:
            user.succeeds("rm", "-f", "w")
        upper = user.directory("upper")
        assert "nothing says what it lies on" in user.refused("apply", upper)
        assert "it has 2 layers" in user.refused("apply", upper, "-l", layer, "-l", other)
        assert "--force is for --undo" in user.refused("apply", "--force", "v")
        assert "no view" in user.refused("apply", "no-such")


def test_texts_that_both_have_changed_are_merged(user: TestUser) -> None:
    lower = user.small_system()
    os.mkdir(os.path.join(lower, "w"))
    path = os.path.join(lower, "w", "text")
    user.write(path, "1\n2\n3\n")
    edit = ("-v", "/usr:/usr:ro", "--", "sh", "-c", "echo x >> /w/text")
    for name, *more in (["kept", "--keep-originals"], ["plain"]):
        user.succeeds("run", "--name", name, *more, "-l", lower, *edit)
    temporary = user.overlaykit("run", "--keep-originals", "-l", lower, *edit)
    assert "no originals are kept: the changes are dropped at the end" in temporary.stderr
    if user.is_root:
        kernel = ("--driver", "kernel", "--upper", user.path("upper"), "--keep-originals")
        user.directory("upper")
        done = user.overlaykit("run", *kernel, "-l", lower, *edit)
        assert "no originals are kept: the kernel's driver keeps none" in done.stderr
    user.write(path, "host\n2\n3\n")
    assert "--merge first merges texts" in user.overlaykit("apply", "kept").stderr
    assert "--merge" not in user.overlaykit("apply", "plain").stderr
    refused = user.overlaykit("apply", "--merge", "plain")
    assert refused.returncode == 1
    assert "/w/text: the layer's file has changed: no original was kept" in refused.stderr
    assert user.succeeds("apply", "--merge", "-n", "kept").splitlines()[:2] == [
        "M  /w/text",
        "merged: /w/text: both have changed it",
    ]
    assert content(lower, "text") == "host\n2\n3\n"
    user.succeeds("apply", "--merge", "kept")
    assert content(lower, "text") == "host\n2\n3\nx\n"
    user.succeeds("apply", "--undo", lower)
    assert content(lower, "text") == "host\n2\n3\n"
    user.succeeds("rm", "kept", "plain")
