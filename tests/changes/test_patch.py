"""A patch of a view makes its text files out of the lowers', by `patch -p1` and by `git apply`."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlaykit.changes.lines import hunks
from overlaykit.changes.patch import patches

from ..posix.table import Dir, File, Symlink
from .workspace import Workspace

APPLIERS = {
    "patch": ["patch", "-p1", "--batch", "-s"],
    "git": ["git", "apply", "--whitespace=nowarn"],
}
ODD = 'quote" back\\slash\ttab\nline é'


def apply(workspace: Workspace, how: str) -> str:
    """Apply the workspace's patch to a copy of its only lower. Returns: the copy's path."""
    with workspace.compared() as comparison:
        text = b"".join(one.text for one in patches(comparison, list(comparison.changes())))
    copy = os.path.join(os.path.dirname(workspace.upper), "copy")
    shutil.copytree(workspace.lowers[0], copy, symlinks=True)
    environment = os.environ | {
        "GIT_CEILING_DIRECTORIES": os.path.dirname(copy),
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    done = subprocess.run(
        APPLIERS[how], input=text, cwd=copy, env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, (done.stderr + done.stdout + text).decode("utf-8", "replace")
    return copy


def contents(root: str) -> dict[str, tuple[bool, str | bytes]]:
    """The files below a directory: whether they can be executed, and what they hold."""
    found: dict[str, tuple[bool, str | bytes]] = {}
    for directory, _, names in os.walk(root):
        for name in names + [
            one for one in os.listdir(directory) if os.path.islink(os.path.join(directory, one))
        ]:
            path = os.path.join(directory, name)
            if os.path.islink(path):
                found[os.path.relpath(path, root)] = False, os.readlink(path)
                continue
            with open(path, "rb") as file:
                found[os.path.relpath(path, root)] = os.access(path, os.X_OK), file.read()
    return found


@pytest.mark.parametrize("how", APPLIERS)
def test_a_patch_makes_the_views_files_out_of_the_lowers(workspace: Workspace, how: str) -> None:
    text = b"".join(b"line %d\n" % number for number in range(100))
    workspace.add(
        {
            "text": File(text),
            "no newline": File(b"last line has none"),
            "gone": File(b"gone\n"),
            "emptied": File(b"text\n"),
            "empty": File(b""),
            "program": File(b"#!/bin/sh\n"),
            "moved": File(text),
            "link": Symlink("text"),
            "becomes a link": File(b"file\n"),
            "d": Dir(),
            "d/one": File(text),
            "d/two": File(b"two\n"),
            "d/e": Dir(),
            "d/e/three": File(b"three\n"),
            "old": Dir(),
            "old/x": File(b"x\n"),
            ODD: File(b"odd\n"),
        }
    )
    with workspace.mounted() as target:
        write("text", text.replace(b"line 5\n", b"LINE 5\nmore\n").replace(b"line 90\n", b""))
        write("no newline", b"last line has none now either")
        os.unlink("gone")
        write("emptied", b"")
        os.unlink("empty")
        write("new empty", b"")
        os.chmod("program", 0o755)
        os.rename("moved", "moved away")
        write("moved away", text + b"more\n")
        os.unlink("link")
        os.symlink("d/one", "link")
        os.unlink("becomes a link")
        os.symlink("text", "becomes a link")
        if workspace.unprivileged:  # it cannot be renamed without redirects
            write("d/one", text + b"more\n")
        else:
            os.rename("d", "moved d")
            write("moved d/one", text + b"more\n")
            os.unlink("moved d/two")
            write("moved d/e/four", b"four\n")
        shutil.rmtree("old")
        os.mkdir("old")
        write("old/y", b"y\n")
        write(ODD, b"odd\nchanged\n")
        write("new " + ODD, b"new\n")
        expected = contents(target)
    assert contents(apply(workspace, how)) == expected


@pytest.mark.parametrize("how", APPLIERS)
def test_what_a_patch_cannot_hold_is_named_and_skipped(workspace: Workspace, how: str) -> None:
    workspace.add({"binary": File(b"\0one"), "text": File(b"one\n"), "mode": File(b"m\n")})
    with workspace.mounted():
        write("binary", b"\0two")
        write("new", b"\0")
        write("text", b"two\n")
        os.chmod("mode", 0o600)
        os.mkfifo("fifo")
    with workspace.compared() as comparison:
        found = list(patches(comparison, list(comparison.changes())))
    assert [one.text.splitlines()[0] for one in found] == [
        b"Binary files a/binary and b/binary differ",
        b"Special file fifo",
        b"Binary files /dev/null and b/new differ",
        b"diff --git a/text b/text",
    ]
    copy = apply(workspace, how)
    assert contents(copy)["text"] == (False, b"two\n")
    assert contents(copy)["binary"] == (False, b"\0one")


_LINES = st.lists(
    st.sampled_from([b"a", b"b", b"c", b"", b"@@", b"-x", b"\\ No", b"\r"]), max_size=30
)
_TEXTS = st.builds(
    lambda lines, end: b"\n".join(lines) + end, _LINES, st.sampled_from([b"", b"\n"])
)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(old=_TEXTS, new=_TEXTS)
def test_hunks_make_one_text_out_of_another(
    old: bytes, new: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    found = hunks(old, new)
    if old == new:
        assert found == (b"", 0, 0, 100)
        return
    path = tmp_path_factory.mktemp("hunks") / "file"
    path.write_bytes(old)
    patch = b"--- a/file\n+++ b/file\n" + found.text
    subprocess.run(
        ["patch", "-p1", "-s", "--binary", "--no-backup-if-mismatch"],
        input=patch,
        cwd=path.parent,
        check=True,
    )
    assert (path.read_bytes() if path.exists() else b"") == new


def write(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
