"""One process: the same operations in a directory of the view and in a plain one give the same results.

A seed determines the operations. They use few names in few directories, so that they meet the same files again, by
other names and through open descriptors. In the directory shared by all processes results are not predictable, so only
the errors are checked.
"""

from __future__ import annotations

import errno
import os
import random
import textwrap
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ..oracle import operations as op
from ..oracle import slots
from ..oracle.observation import Result
from ..oracle.operations import Operation, Slots, result_of
from ..posix.table import Dir, File, Layer, Link, Symlink

NAMES: Final = "abcde"
MTIME_NS: Final = op.LONG_AGO * 10**9
LAYERS: Final[tuple[Layer, ...]] = (
    {
        "c": Dir(0o755, mtime_ns=MTIME_NS),
        "c/d": File(b"top" * 100, mtime_ns=MTIME_NS),
        "d/a": Symlink("b"),
        "e": Dir(0o2755, opaque=True),
        "e/a": File(),
    },
    {
        "a": File(b"bottom" * 1000, 0o640, xattrs={"user.a": b"1"}, mtime_ns=MTIME_NS),
        "b": Link("a"),
        "c/a": Link("a"),
        "c/b": File(b"b" * 5000, 0o755),
        "c/d/a": File(b"hidden"),
        "c/e/a": File(b"in a merged directory"),
        "d/a/b": File(b"hidden"),
        "d/e/a": File(b"deep"),
        "d/e/c/b": File(b"deeper"),
        "e/b": File(b"hidden"),
    },
)
"""The contents of the lowers for each process, top first."""

PLAUSIBLE: Final = frozenset(
    errno.errorcode[number]
    for number in (
        *(errno.EAGAIN, errno.EBADF, errno.EEXIST, errno.EINVAL, errno.EISDIR, errno.ELOOP),
        *(errno.ENODATA, errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY, errno.EPERM),
    )
)
"""Errors that concurrent operations of other processes can cause."""


@dataclass(frozen=True)
class Resize:
    """Truncate or extend a file to another length; with the same length, file systems differ in the new mtime."""

    path: str
    length: int

    def run(self, slots: Slots) -> object:
        os.truncate(self.path, self.length + (os.stat(self.path).st_size == self.length))
        return None

    def shell(self) -> str:
        return op.Truncate(self.path, self.length).shell()


class Workspace:
    """A directory to work in, and its open files."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self._slots: Slots = {}

    def run(self, operation: Operation) -> Result:
        os.fchdir(self.fd)
        return result_of(operation, self._slots)

    def close(self) -> None:
        os.chdir("/")
        for fd in (self.fd, *self._slots.values()):
            os.close(fd)


class Worker:
    """A sequence of random operations, determined by `seed`."""

    def __init__(self, seed: str) -> None:
        self._chance = random.Random(seed)
        self._done: deque[Operation] = deque(maxlen=20)

    def work(self, number: int, own: Workspace, plain: Workspace, shared: Workspace) -> None:
        """Do `number` operations. Raises: AssertionError if the view's result is not the plain directory's."""
        for _ in range(number):
            operation = self.draw()
            # Not through a mapping of a file that another process may truncate: that is SIGBUS (mmap(2)).
            if self._chance.random() < 0.25 and not isinstance(operation, op.WriteMapped):
                seen = shared.run(operation)
                assert seen.error is None or seen.error in PLAUSIBLE, f"{operation}: {seen}"
                continue
            self._done.append(operation)
            ours, expected = own.run(operation), plain.run(operation)
            assert ours == expected, _report(self._done, ours, expected)

    def draw(self) -> Operation:
        chance = self._chance
        path, other = self._path(), self._path()
        slot = chance.randrange(3)
        text = chance.choice(("one", "two2", "three" * 2000))
        mode = chance.choice((0o600, 0o644, 0o755, 0o1711))
        length = chance.choice((0, 2, 9, 5000))
        name = chance.choice(("user.x", "user.y"))
        operations: tuple[Operation, ...] = (
            op.Create(path),
            op.Write(path, text),
            op.Append(path, text),
            Resize(path, length),
            op.WriteMapped(path, chance.randrange(256)),
            op.Mkdir(path),
            op.Mkdir(path),
            op.Rmdir(path),
            op.Unlink(path),
            op.Rename(path, other),
            op.Rename(path, other, chance.choice((0, 1, 2))),
            op.Link(path, other),
            op.Symlink(chance.choice(NAMES), path),
            op.Chmod(path, mode),
            op.Touch(path, op.LONG_AGO + length),
            op.SetXattr(path, name, text[:9]),
            op.RemoveXattr(path, name),
            op.Read(path),
            op.Stat(path),
            op.List(chance.choice((".", path))),
            op.ListInParts(chance.choice((".", path))),
            slots.Hold(slot, path, chance.choice(("<", "<>", ">", ">>"))),
            slots.ReadHeld(slot),
            slots.WriteHeld(slot, text),
            slots.TruncateHeld(slot, length),
            slots.ChmodHeld(slot, mode),
            slots.TouchHeld(slot, op.LONG_AGO + length),
            slots.SetXattrHeld(slot, name, text[:9]),
            slots.RemoveXattrHeld(slot, name),
            slots.SyncHeld(slot),
            slots.StatHeld(slot),
            slots.SameFile(slot, path),
            slots.Release(slot),
        )
        return chance.choice(operations)

    def _path(self) -> str:
        return "/".join(self._chance.choices(NAMES, k=self._chance.choice((1, 1, 2, 2, 3))))


def _report(done: Iterable[Operation], ours: Result, expected: Result) -> str:
    lines = [*map(str, done), f"the view: {ours}", f"a plain directory: {expected}"]
    return "\n" + "\n".join(textwrap.shorten(line, 200) for line in lines)
