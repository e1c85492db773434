"""The scheduling of copy-ups: which file is being copied, which requests wait for it, how many copies run at once.

`overlaykit.fuse` states the rules that this keeps.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Final

import trio

from overlaykit.overlay.nodes import File
from overlaykit.overlay.smallcopy import SmallCopy

if TYPE_CHECKING:
    from overlaykit.fuse.poller import Poller
    from overlaykit.overlay.copyup import Copy
    from overlaykit.overlay.filesystem import Filesystem
    from overlaykit.overlay.nodes import Directory, Node

_INLINE_BYTES: Final = 1 << 20
"""Size up to which a copy that is not synced blocks the other requests; larger ones run in a thread."""

_INLINE_SYNCED_BYTES: Final = 1 << 17
"""The same for one that is synced, while syncs are quick."""

_QUICK_SECONDS: Final = 0.002
"""A copy that takes longer holds the other requests up: the next one, or its sync if it is a small one, runs in a
thread. That takes 0.3 ms more itself, and a disk at rest 0.5 to 1 ms for a new file and its sync."""


class Copying:
    """The copy-ups of one mount.

    Invariant: a nodeid in `_in_thread` is a file whose bytes a thread is copying; only the task that started the copy
    changes that file. The event is set when that task is done.
    """

    def __init__(self, filesystem: Filesystem, poller: Poller) -> None:
        self._filesystem = filesystem
        self._poller = poller
        syncs = filesystem.tree.writable and filesystem.copyup.syncs
        self._inline_bytes = _INLINE_SYNCED_BYTES if syncs else _INLINE_BYTES
        self._is_quick = True
        self._in_thread: dict[int, trio.Event] = {}
        # Each copy has two descriptors open.
        self._slots = trio.Semaphore(filesystem.shares.copies)

    async def copy_up(
        self, node: Node | None, *, keep_data: bool = True, metadata_only: bool = False
    ) -> None:
        """Copy a file up before a change of it. Does nothing for None, a directory, or a file of the upper.

        `metadata_only`: the data may stay in the lower (see `CopyUp.begin`).
        Raises OSError: EROFS, ENOSPC and the like; the file is in its lower then.
        Ensures: the file can be changed until the next await.
        """
        if not isinstance(node, File):
            return
        if not node.needs_copy(metadata_only=metadata_only) and node.nodeid not in self._in_thread:
            return
        descriptor = await self.copy_small(node, keep_data=keep_data, metadata_only=metadata_only)
        if descriptor >= 0:
            os.close(descriptor)
            return
        try:
            self._slots.acquire_nowait()
        except trio.WouldBlock:
            await self._slots.acquire()
        try:
            while (under_way := self._in_thread.get(node.nodeid)) is not None:
                await under_way.wait()
            copy = self._filesystem.copyup.begin(
                node, keep_data=keep_data, metadata_only=metadata_only
            )
            if copy is not None:
                await self._carry_out(copy, node)
        finally:
            self._slots.release()

    async def copy_small(self, node: File, *, keep_data: bool, metadata_only: bool = False) -> int:
        """Copy a file up, if it is a small plain one. It does not wait for other copies.

        Returns: a descriptor of it, which reads and writes, the caller's to close; -1: nothing is copied.
        """
        if node.has_upper or node.nodeid in self._in_thread:
            return -1
        try:
            self._slots.acquire_nowait()
        except trio.WouldBlock:
            return -1
        try:
            copy = self._filesystem.copyup.small.begin(
                node, keep_data=keep_data, metadata_only=metadata_only, most=self._inline_bytes
            )
            if copy is None:
                return -1
            with contextlib.suppress(OSError):
                return await self._carry_out(copy, node)
            return -1
        finally:
            self._slots.release()

    def copy_without_node(
        self,
        directory: Directory,
        name: bytes,
        place: int,
        nodeid: int,
        *,
        keep_data: bool,
        keeps_times: bool = True,
    ) -> SmallCopy | None:
        """Copy a file up, as `SmallCopies.begin_below`, if syncs are quick and it still has this nodeid.

        `keeps_times`: as of `SmallCopy.finish`.
        Returns: the finished copy, the caller's to close; None: nothing is copied.
        """
        if not self._is_quick or not self._slots.value:
            return None
        copy = self._filesystem.copyup.small.begin_below(
            directory, name, place, keep_data=keep_data, most=self._inline_bytes
        )
        if copy is None:
            return None
        key = self._filesystem.lookup.numbering.key(copy.stat.st_dev, copy.stat.st_ino)
        with contextlib.suppress(OSError):
            if key == nodeid:
                self._transfer(copy)
                copy.finish(keeps_times=keeps_times)
                return copy
        copy.close()
        return None

    async def _carry_out(self, copy: Copy, node: File) -> int:
        """Returns: as `copy_small`."""
        try:
            if copy.size == 0 or (copy.size <= self._inline_bytes and self._is_quick):
                self._transfer(copy)
            else:
                done = self._in_thread[node.nodeid] = trio.Event()
                try:
                    await self._poller.in_thread(self._transfer, copy)
                finally:
                    del self._in_thread[node.nodeid]
                    done.set()
            copy.finish()
            return copy.take() if isinstance(copy, SmallCopy) else -1
        finally:
            copy.close()

    def _transfer(self, copy: Copy) -> None:
        began = time.monotonic()
        copy.transfer()
        if copy.size and copy.size <= self._inline_bytes and self._filesystem.copyup.syncs:
            self._is_quick = time.monotonic() - began < _QUICK_SECONDS
