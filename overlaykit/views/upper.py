"""The upper of a view and its work directory: named by the user, or scratch directories of the registry entry."""

from __future__ import annotations

import errno
import os
import stat

from overlaykit import namespace
from overlaykit.errors import Error
from overlaykit.fuse import directories
from overlaykit.record import Record
from overlaykit.views.scratch import UPPER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import ExitStack

    from overlaykit.layers import Hold, Layer
    from overlaykit.views.entry import Entry


class UpperMissing(Error):
    message = "--upper {0}: there is no directory to make it in: create its parent first"


class UpperOnMountpoint(Error):
    message = (
        "--upper {0}: a file system is mounted just there, and there has to be room beside an "
        "upper on the same one: name a directory in it"
    )


class WorkBesideUpperUnusable(Error):
    message = (
        "--upper {0}: {1} beside it, for work in progress, cannot be used ({2}): name a directory "
        "whose parent you may write to"
    )


class Upper(Record, kw_only=True):
    """The directories for changes and for work in progress. `made`: whether the upper is new."""

    path: str
    work: str
    made: bool = False


class Limit(Record, kw_only=True):
    """What an upper and its work directory may take: `size` bytes. `project`: by which their file system counts them.

    Without a project a daemon counts.
    """

    size: int
    project: int | None = None


def prepare_kept(upper: str, undo: ExitStack) -> Upper:
    """Make the upper that a user names, and the work directory beside it, where they do not exist.

    `undo` removes what was made. Raises: Error.
    """
    from overlaykit.overlay.beside import work_beside

    path = directories.lasting_path(upper)
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        raise UpperMissing(path)
    if os.path.ismount(path):
        raise UpperOnMountpoint(path)
    work = work_beside(path)
    try:
        made = _make(path, undo)
    except OSError as error:
        raise directories.UpperUnusable(path, _reason(error)) from None
    try:
        _make(work, undo)
    except OSError as error:
        raise WorkBesideUpperUnusable(path, os.path.basename(work), _reason(error)) from None
    return Upper(path=path, work=work, made=made)


def keep_originals(upper: Upper) -> None:
    """Have mounts of an upper keep originals from now on. Raises: UpperUnusable."""
    from overlaykit.overlay import originals

    try:
        originals.prepare(upper.work)
    except OSError as error:
        raise directories.UpperUnusable(upper.work, _reason(error)) from None


def prepare_scratch(entry: Entry) -> Upper:
    """Make an upper and a work directory that are removed with the entry. Raises: Error."""
    made = entry.make_scratch()
    upper = Upper(path=os.path.join(made, UPPER), work=os.path.join(made, "work"))
    for path in (upper.path, upper.work):
        try:
            os.mkdir(path, 0o700)
        except OSError as error:
            raise directories.UpperUnusable(path, _reason(error)) from None
    return upper


def leaves_data(layers: Sequence[Layer], *, kept: bool) -> bool:
    """Whether a change of metadata leaves the data of files in their layers (the mount option metacopy).

    Only where the upper ends with the view, and no layer changes as long as it runs: an upper that is `kept` would lose
    those data with the layer, or in a program that copies it.
    """
    return not kept and namespace.is_privileged() and do_not_change(layers)


def do_not_change(layers: Sequence[Layer]) -> bool:
    """Whether no file of the layers changes as long as a view runs."""
    return all(layer.is_stored for layer in layers)


def open_new_upper(path: str, lower: Hold | None = None) -> int:
    """Open the directory of an upper, or of its work, as O_PATH.

    A new upper gets the mode of the `lower` that it covers, because it is the view's root. Raises: UpperUnusable.
    """
    try:
        fd = directories.open_directory(path)
    except OSError as error:
        raise directories.UpperUnusable(path, _reason(error)) from None
    try:
        if lower is not None and not os.listdir(f"/proc/self/fd/{fd}"):
            os.chmod(f"/proc/self/fd/{fd}", stat.S_IMODE(os.fstat(lower.fileno()).st_mode))
    except BaseException:
        os.close(fd)
        raise
    return fd


def _make(path: str, undo: ExitStack) -> bool:
    """Whether the directory is new."""
    if os.path.isdir(path):
        return False
    from overlaykit.rmtree import rmtree_path  # not at each start of a view

    os.mkdir(path, 0o700)
    undo.callback(rmtree_path, path)
    return True


def _reason(error: OSError) -> str:
    number = errno.ENOTDIR if error.errno == errno.EEXIST else error.errno
    return os.strerror(number or errno.EIO)
