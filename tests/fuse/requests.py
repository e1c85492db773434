"""The handlers of `Operations`, called as by pyfuse3 but without a kernel: the test decides their order."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pyfuse3
import pytest
import trio

from overlaykit import inodes
from overlaykit.fuse import copying
from overlaykit.fuse.operations import Operations
from overlaykit.fuse.poller import Poller
from overlaykit.fuse.spec import MountOptions
from overlaykit.overlay.copyup import CopyUp
from overlaykit.overlay.filesystem import Filesystem

Tasks = AsyncIterator[trio.Nursery]

_FIELDS = ("mode", "uid", "gid", "size", "atime", "mtime", "ctime")


class Requests:
    """The requests of one mount, with paths in place of nodeids. The kernel's references are never given back."""

    def __init__(self, filesystem: Filesystem, options: MountOptions | None = None) -> None:
        self.filesystem = filesystem
        # Any: pyfuse3's types of nodeids, handles and contexts can only come from a request.
        self.operations = cast(Any, Operations(filesystem, options or MountOptions(), Poller()))
        self.context = SimpleNamespace(uid=os.geteuid(), gid=os.getegid(), umask=0, pid=0)

    async def nodeid(self, path: str) -> int:
        nodeid = pyfuse3.ROOT_INODE
        for name in filter(None, path.split("/")):
            entry = await self.operations.lookup(nodeid, os.fsencode(name), self.context)
            nodeid = entry.st_ino
        return nodeid

    async def open(self, path: str, flags: int = os.O_RDONLY) -> int:
        info = await self.operations.open(await self.nodeid(path), flags, self.context)
        return cast(int, info.fh)

    async def read(self, handle: int) -> bytes:
        return cast(bytes, await self.operations.read(handle, 0, 1 << 20))

    async def write(self, handle: int, offset: int, data: bytes) -> None:
        assert await self.operations.write(handle, offset, data) == len(data)

    async def getattr(self, path: str) -> Any:
        return await self.operations.getattr(await self.nodeid(path), self.context)

    async def chmod(self, path: str, mode: int) -> None:
        await self.setattr(await self.nodeid(path), st_mode=mode)

    async def setattr(self, nodeid: int, **changes: int) -> None:
        """Change attributes, given under pyfuse3's names."""
        attributes = await self.operations.getattr(nodeid, self.context)
        for name, value in changes.items():
            setattr(attributes, name, value)
        changed = {name.removeprefix("st_").removesuffix("_ns") for name in changes}
        fields = SimpleNamespace(**{f"update_{name}": name in changed for name in _FIELDS})
        await self.operations.setattr(nodeid, attributes, fields, None, self.context)

    async def unlink(self, directory: str, name: bytes) -> None:
        await self.operations.unlink(await self.nodeid(directory), name, self.context)

    async def rmdir(self, directory: str, name: bytes) -> None:
        await self.operations.rmdir(await self.nodeid(directory), name, self.context)

    async def link(self, path: str, directory: str, name: bytes) -> None:
        nodeids = await self.nodeid(path), await self.nodeid(directory)
        await self.operations.link(*nodeids, name, self.context)

    async def rename(self, old: str, old_name: bytes, new: str, new_name: bytes) -> None:
        nodeids = await self.nodeid(old), await self.nodeid(new)
        await self.operations.rename(nodeids[0], old_name, nodeids[1], new_name, 0, self.context)


class Stalled:
    """A function that worker threads stay in until the test releases them; then it does what the original does.

    Attributes: `calls` counts the threads; `entered` is set by the first; each of `failures`, an errno, fails one call.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
        self.calls = 0
        self.entered = trio.Event()
        self.failures: list[int] = []
        self._released = threading.Event()
        self._token: trio.lowlevel.TrioToken
        self._original = getattr(owner, name)
        monkeypatch.setattr(owner, name, self._call)

    @contextlib.asynccontextmanager
    async def during(self, function: Callable[..., Awaitable[object]], *args: object) -> Tasks:
        """Run the body while a task is stalled in `function`, and release it at the end. Yields a nursery for more."""
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(function, *args)
            try:
                await self.entered.wait()
                yield nursery
            finally:
                self._released.set()

    def _call(self, *args: Any, **keywords: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            self.calls += 1
            self._token.run_sync_soon(self.entered.set)
            self._released.wait()
            if self.failures:
                number = self.failures.pop(0)
                raise OSError(number, os.strerror(number))
        return self._original(*args, **keywords)


def stalled_copies(monkeypatch: pytest.MonkeyPatch) -> Stalled:
    """Copy-ups that stall in their threads, where also those of small files run."""
    for bound in ("_INLINE_SYNCED_BYTES", "_INLINE_BYTES"):
        monkeypatch.setattr(copying, bound, -1)
    return Stalled(monkeypatch, inodes, "copy")


def stalled_syncs(monkeypatch: pytest.MonkeyPatch, filesystem: Filesystem) -> Stalled:
    """Copy-ups of small files that stall in their syncs, once the first one has been found to be slow."""
    monkeypatch.setattr(copying, "_QUICK_SECONDS", -1)
    monkeypatch.setattr(CopyUp, "syncs", True)  # the tests may run in memory
    return Stalled(monkeypatch, filesystem.copyup, "sync")
