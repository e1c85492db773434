"""Progress of long work: on a terminal alone, gone when the work is done; other output is not touched."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator

import pytest

from overlaykit import progress
from overlaykit.cli import progress as line
from overlaykit.layers import Store, resolve

from ..views.user import TestUser
from .test_try import kept_views, tried


class Recorded:
    """What is counted, and how often it was said to be done."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int]] = []
        self.ended = 0

    def show(self, what: str, done: int, total: int) -> None:
        self.seen.append((what, done, total))

    def end(self) -> None:
        self.ended += 1


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "_SECONDS_BEFORE", 0)
    monkeypatch.setattr(line, "_SECONDS_BETWEEN", 0)


@contextlib.contextmanager
def on_terminal() -> Iterator[int]:
    """The other end of a terminal as standard error. No fixture: pytest sets sys.stderr after these."""
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as file, contextlib.redirect_stderr(file):
        yield master
    os.close(master)


def read(terminal: int, *texts: str) -> str:
    """Read until each text has been shown, one after the other."""
    found, at = "", 0
    for text in texts:
        while (place := found.find(text, at)) < 0:
            found += os.read(terminal, 65536).decode()
        at = place + len(text)
    return found


def test_a_bar_is_drawn_on_a_terminal_and_erased(at_once: None) -> None:
    with on_terminal() as terminal, line.shown():
        assert list(progress.counted_all("ab", "copying")) == ["a", "b"]
        empty = f"\rcopying: [{' ' * 30}] 0 of 2\x1b[K"
        half = f"\rcopying: [{'#' * 15}{' ' * 15}] 1 of 2\x1b[K"
        assert read(terminal, empty, half, "\r\x1b[K") == empty + half + "\r\x1b[K"


def test_a_bar_is_erased_when_the_work_fails(at_once: None) -> None:
    with on_terminal() as terminal:
        with pytest.raises(ZeroDivisionError), line.shown():
            list(map((1).__floordiv__, progress.counted([0], "reading")))
        assert read(terminal, "reading: 0", "\r\x1b[K")


def test_nothing_is_drawn_in_a_pipe(at_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stderr", pipe)
    with line.shown():
        assert list(progress.counted_all("ab", "copying")) == ["a", "b"]
    assert pipe.getvalue() == ""


def test_a_layer_that_is_made_is_counted(user: TestUser) -> None:
    source = user.directory("source", a="1\n", b="2\n")
    recorded = Recorded()
    store = Store(user.directory("store"))
    with progress.shown(recorded):
        store.add("layer", f"dir:{source}", base=resolve("host", store))
    assert recorded.seen == [("copying files", 0, 0), ("copying files", 1, 0)]
    assert recorded.ended == 1
    store.remove("layer")


def test_a_diff_and_an_application_are_counted(user: TestUser, at_once: None) -> None:
    from overlaykit.cli import apply, diff

    with tried(user) as path, on_terminal() as terminal:
        script = "echo 1 > a; echo 2 > changed"
        user.overlaykit("try", "--keep", "name", "-D", path, "--", "sh", "-c", script)
        assert kept_views(user) == ["name"]
        assert diff.main(["name"]) == 0
        assert read(terminal, "comparing files: 0")
        assert apply.main(["name"]) == 0
        assert read(terminal, "preparing files: [", "applying steps: [")
        user.succeeds("rm", "name")
