"""Files of which the kernel's cache had bytes that the disk did not take.

The kernel tells the error to the next call that waits for the bytes. That may be one whose result nobody looks at, as
the chown(2) of `sed -i`: close(2) then returns 0, and a rename would put an incomplete file in the place of a whole
one. So the next rename or link of such a file fails too, once. Native code does the same for its files, with the same
table.
"""

from __future__ import annotations

import os

from overlaykit import _native


def note(nodeid: int, number: int) -> None:
    """Note the errno of a write from the kernel's cache."""
    _native.plane_incomplete(nodeid, number)


def settle(nodeid: int) -> None:
    """Forget it: the file is empty, new, or written as fsync(2) awaits it."""
    _native.plane_incomplete(nodeid, 0)


def refuse(nodeid: int) -> None:
    """Raises OSError, once: the errno that was noted."""
    number = _native.plane_incomplete(nodeid, 0)
    if number:
        raise OSError(number, os.strerror(number))
