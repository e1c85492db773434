"""Which layer answers for a path, and what it shadows."""

from __future__ import annotations

import errno
import os

import pytest

from overlaykit.overlay.attributes import Changes
from overlaykit.overlay.explain import explain
from overlaykit.overlay.explanation import Explanation
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


def _hidden(explanation: Explanation, stack: Stack) -> dict[str, tuple[str, str]]:
    """By the path of each hidden entry: the reason, and the path of what hides it."""
    return {
        os.path.relpath(hit.path, stack.directory): (
            hit.hidden.reason,
            os.path.relpath(hit.hidden.path, stack.directory),
        )
        for hit in explanation.hits
        if hit.hidden is not None
    }


def test_each_layers_entry_says_why_it_is_hidden(stack: Stack) -> None:
    stack.add({"d": Dir()})
    stack.add({"d": File(b"between")})
    stack.add({"d/f": File()})
    with stack.open() as view:
        assert _hidden(_ask(view, "/d"), stack) == {
            "lower1/d": ("covered", "lower0/d"),
            "lower2/d": ("covered", "lower1/d"),
        }
        # Nothing is at the path in the view; the layer at the bottom would have it.
        assert _hidden(_ask(view, "/d/f"), stack) == {"lower2/d/f": ("covered", "lower1/d")}


def test_what_an_opaque_directory_and_a_whiteout_hide_is_listed_at_any_depth(stack: Stack) -> None:
    stack.add({"d/e/f": File(b"1"), "w": Whiteout()})
    stack.add({"d/e/f": File(b"2"), "w/x": File()})
    with stack.open() as view:
        view.unlink("d/e/f")
        view.rmdir("d/e")
        view.mkdir("d/e")
        view.create("d/e/f", b"3")
        assert _hidden(_ask(view, "/d/e/f"), stack) == {
            "lower0/d/e/f": ("opaque", "upper/d/e"),
            "lower1/d/e/f": ("opaque", "upper/d/e"),
        }
        assert _hidden(_ask(view, "/w"), stack) == {"lower1/w": ("whiteout", "lower0/w")}


@as_root
def test_a_redirect_says_where_it_leads_and_hides_what_has_the_name(stack: Stack) -> None:
    stack.add({"old/f": File(b"1"), "new/g": File(b"2")})
    with stack.open() as view:
        view.unlink("new/g")
        view.rmdir("new")
        view.rename("old", "new")
        found = _ask(view, "/new")
        assert _roles(found, stack) == [
            ("upper/new", "answers"),
            ("lower0/old", "merged"),
            ("lower0/new", "shadowed"),
        ]
        assert found.hits[0].redirect == "old"
        assert _hidden(found, stack) == {"lower0/new": ("redirect", "upper/new")}
        copied = found.hits[0].copied
        assert copied is not None
        assert copied.lower.path == os.path.join(stack.lowers[0], "old")


@as_root
def test_a_file_that_was_renamed_says_what_it_was(stack: Stack) -> None:
    lower = stack.add({"old": File(b"1"), "d": Dir()})
    with stack.open() as view:
        view.write("old", b"12")
        view.rename("old", "d/new")
        (hit,) = _ask(view, "/d/new").hits
        assert hit.copied is not None
        assert (hit.copied.lower.path, hit.copied.lower.size) == (os.path.join(lower, "old"), 1)


def test_a_hard_link_that_was_copied_up_under_another_name_is_followed(stack: Stack) -> None:
    lower = stack.add({"a": File(b"1")})
    os.link(os.path.join(lower, "a"), os.path.join(lower, "b"))
    with stack.open(as_kernel=False) as view:
        view.write("a", b"2")
        if view.filesystem.lookup.require(view.filesystem.root, b"a") is not (
            view.filesystem.lookup.require(view.filesystem.root, b"b")
        ):
            pytest.skip("the file system has no lasting file handles")
        found = _ask(view, "/b")
        answer, below = found.hits
        assert (answer.role, below.role) == ("answers", "shadowed")
        with open(answer.path, "rb") as file:
            assert file.read() == b"2"
        assert _hidden(found, stack) == {
            "lower0/b": ("index", os.path.relpath(answer.path, stack.directory))
        }
        assert (found.links, found.names) == (2, ("/a",))
