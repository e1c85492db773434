"""Which layer answers for a path, and what it shadows."""

from __future__ import annotations

import errno
import os

import pytest

from overlaykit.overlay.attributes import Changes
from overlaykit.overlay.explain import Explanation, explain
from overlaykit.overlay.stack import MergeOptions

from ..posix.table import Dir, File, Symlink, Whiteout
from .inside import as_root
from .stack import Stack
from .view import View, refused


def _ask(view: View, path: str) -> Explanation:
    return explain(view.filesystem, path.encode())


def _roles(explanation: Explanation, stack: Stack) -> list[tuple[str, str]]:
    """(path below the stack's directory, role), top first."""
    hits = explanation.hits
    return [(os.path.relpath(hit.path, stack.directory), hit.role) for hit in hits]


def test_the_layer_that_answers_is_named_with_what_it_shadows(stack: Stack) -> None:
    stack.add({"f": File(b"1")})
    stack.add({})
    stack.add({"f": File(b"2")})
    with stack.open() as view:
        assert _roles(_ask(view, "/f"), stack) == [
            ("lower0/f", "answers"),
            ("lower2/f", "shadowed"),
        ]
        view.write("f", b"3")
        assert _roles(_ask(view, "/f"), stack)[0] == ("upper/f", "answers")


@as_root
def test_the_layer_that_holds_the_data_of_a_file_is_named(stack: Stack) -> None:
    stack.add({"f": File(b"1"), "d": Dir()})
    stack.add({"f": File(b"2"), "g": File(b"3")})
    with stack.open(options=MergeOptions(metacopy=True)) as view:
        view.change("f", Changes(mode=0o600))
        view.rename("g", "d/n")
        assert _roles(_ask(view, "/f"), stack) == [
            ("upper/f", "answers"),
            ("lower0/f", "data"),
            ("lower1/f", "shadowed"),
        ]
        assert _roles(_ask(view, "/d/n"), stack) == [("upper/d/n", "answers"), ("lower1/g", "data")]
        view.write("f", b"x")
        assert _roles(_ask(view, "/f"), stack) == [
            ("upper/f", "answers"),
            ("lower0/f", "shadowed"),
            ("lower1/f", "shadowed"),
        ]


def test_a_merged_directory_names_all_its_layers(stack: Stack) -> None:
    stack.add({"d": Dir()})
    stack.add({"d/f": File()})
    stack.add({"d": File()})
    with stack.open() as view:
        assert _roles(_ask(view, "/d/"), stack) == [
            ("lower0/d", "answers"),
            ("lower1/d", "merged"),
            ("lower2/d", "shadowed"),
        ]
        assert [role for _, role in _roles(_ask(view, "/"), stack)] == ["answers"] + ["merged"] * 3


def test_a_removed_name_is_explained_by_its_whiteout(stack: Stack) -> None:
    stack.add({"f": File(), "g": Whiteout()})
    stack.add({"g": File()})
    with stack.open() as view:
        view.unlink("f")
        assert _roles(_ask(view, "/f"), stack) == [
            ("upper/f", "whiteout"),
            ("lower0/f", "shadowed"),
        ]
        assert _roles(_ask(view, "/g"), stack) == [
            ("lower0/g", "whiteout"),
            ("lower1/g", "shadowed"),
        ]


def test_a_directory_that_moved_is_found_where_it_lies(stack: Stack) -> None:
    stack.add({"old/f": File()})
    with stack.open(as_kernel=not stack.unprivileged) as view:
        view.rename("old", "new")
        assert _roles(_ask(view, "/new/f"), stack) == [("lower0/old/f", "answers")]


def test_symlinks_above_the_last_name_are_resolved_in_the_view(stack: Stack) -> None:
    stack.add({"bin": Symlink("usr/bin"), "abs": Symlink("/usr/../usr")})
    stack.add({"usr/bin/python": Symlink("python3")})
    with stack.open() as view:
        explained = _ask(view, "/bin/python")
        assert (explained.path, explained.target) == ("/usr/bin/python", "python3")
        assert _roles(explained, stack) == [("lower1/usr/bin/python", "answers")]
        assert _ask(view, "/abs/bin/../bin/python").path == "/usr/bin/python"
        assert _ask(view, "/bin").target == "usr/bin"


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("/missing", errno.ENOENT),
        ("/missing/f", errno.ENOENT),
        ("/f/x", errno.ENOTDIR),
        ("/loop/x", errno.ELOOP),
    ],
)
def test_a_path_that_leads_nowhere_has_the_system_calls_error(
    stack: Stack, path: str, number: int
) -> None:
    stack.add({"f": File(), "loop": Symlink("loop")})
    with stack.open() as view, refused(number):
        _ask(view, path)


def test_explain_leaves_nothing_in_memory(stack: Stack) -> None:
    stack.add({"a/b/c": File(), "link": Symlink("a/b"), "loop": Symlink("loop")})
    with stack.open() as view:
        _ask(view, "/a/b/c")
        _ask(view, "/link/c")
        with refused(errno.ENOENT):
            _ask(view, "/a/b/missing")
        assert view.filesystem.counts()["nodes"] == 1
