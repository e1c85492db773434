"""Bounds on the system calls that look for names and attributes: each takes as long as half of a request in C."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from overlaykit.overlay.merge import Found
from overlaykit.overlay.nodes import Directory

from ..overlay.stack import Stack
from ..posix.table import Dir, File
from .requests import Requests


def counted(
    stack: Stack,
    monkeypatch: pytest.MonkeyPatch,
    body: Callable[[Requests, Counter[str]], Awaitable[None]],
) -> None:
    """Run `body` on the requests of a mount of the stack, and count the calls that the overlay makes meanwhile."""
    calls: Counter[str] = Counter()

    def count(owner: object, name: str) -> None:
        original = getattr(owner, name)

        def call(*args: Any, **keywords: Any) -> Any:
            calls["stat"] += 1
            return original(*args, **keywords)

        monkeypatch.setattr(owner, name, call)

    for name in ("stat", "fstat"):
        count(os, name)
    with stack.bare() as view:
        trio.run(body, Requests(view.filesystem), calls)


def test_a_file_in_a_new_directory_is_made_with_two_looks(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its directory, before, and at the file, after."""
    stack.add({})

    async def body(requests: Requests, calls: Counter[str]) -> None:
        operations, context = requests.operations, requests.context
        entry = await operations.mkdir(1, b"d", 0o755, context)
        await operations.create(entry.st_ino, b"first", 0o644, os.O_RDWR, context)
        calls.clear()
        await operations.create(entry.st_ino, b"f", 0o644, os.O_RDWR, context)
        assert calls["stat"] == 2

    counted(stack, monkeypatch, body)


def test_the_times_of_a_removed_lower_file_are_set_with_one_look(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel sets the change time of each file after its removal (fs/fuse/dir.c: fuse_update_ctime)."""
    stack.add({"d": Dir(), "d/f": File(b"x")})

    async def body(requests: Requests, calls: Counter[str]) -> None:
        nodeid = await requests.nodeid("d/f")
        await requests.unlink("d", b"f")
        times = await requests.operations.getattr(nodeid, requests.context)
        changed = {"st_ctime_ns": times.st_ctime_ns + 1, "st_mtime_ns": times.st_mtime_ns}
        calls.clear()
        await requests.setattr(nodeid, **changed)
        assert calls["stat"] == 2  # one by `Requests.setattr`

    counted(stack, monkeypatch, body)


def test_a_file_is_renamed_with_one_look_at_its_new_name(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In each layer: nobody else changes the directory in between."""
    stack.add({"d/f": File(), "d/first": File()})

    async def body(requests: Requests, calls: Counter[str]) -> None:
        await requests.rename("d", b"first", "d", b"g")
        await requests.nodeid("d/f")
        names: list[bytes] = []
        find = requests.filesystem.tree.merge.find

        def note(directory: Directory, name: bytes) -> Found | None:
            names.append(name)
            return find(directory, name)

        monkeypatch.setattr(requests.filesystem.tree.merge, "find", note)
        await requests.rename("d", b"f", "d", b"new")
        assert names == [b"new"]

    counted(stack, monkeypatch, body)
