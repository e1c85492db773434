"""An open file stays the same file while its descriptor is closed for being idle."""

from __future__ import annotations

import contextlib
import errno
import os

from overlaykit.overlay.attributes import Changes

from ..posix.table import File
from .stack import Stack
from .view import refused


def test_more_files_are_open_than_there_are_descriptors(stack: Stack) -> None:
    stack.add({str(number): File(b"lower %d" % number) for number in range(30)})
    with stack.open() as view, contextlib.ExitStack() as opened:
        filesystem = view.filesystem
        filesystem.files.descriptors.limit = 4
        handles = [
            opened.enter_context(view.opened(str(number), os.O_RDWR if number % 2 else os.O_RDONLY))
            for number in range(30)
        ]
        filesystem.between_operations()
        assert len(filesystem.files.descriptors) == 4
        for number in range(1, 30, 2):
            filesystem.files.write(handles[number], 0, b"UPPER")
            filesystem.between_operations()
        view.rename("3", "moved")
        view.unlink("5")
        view.change("7", Changes(mode=0))
        filesystem.between_operations()
        for number in range(30):
            start = b"UPPER" if number % 2 else b"lower"
            assert filesystem.files.read(handles[number], 0, 99) == start + b" %d" % number
            filesystem.between_operations()
        assert len(filesystem.files.descriptors) <= 6  # some must stay open


def test_an_idle_file_that_was_replaced_in_a_lower_is_not_mistaken_for_the_old_one(
    stack: Stack,
) -> None:
    stack.add({})
    with stack.open(as_kernel=False, remount=False) as view:
        for name in ("f", "g"):
            view.create(name, name.encode())
        with view.opened("f") as handle, view.opened("g") as other:
            filesystem = view.filesystem
            filesystem.files.descriptors.limit = 1
            filesystem.between_operations()
            assert filesystem.files.read(other, 0, 99) == b"g"
            filesystem.between_operations()
            os.rename(os.path.join(stack.upper, "g"), os.path.join(stack.upper, "f"))
            with refused(errno.ESTALE):
                filesystem.files.read(handle, 0, 99)
