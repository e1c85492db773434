"""What a path means in layers without a daemon: they are opened here, and only read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from overlaykit import _native, namespace
from overlaykit.overlay.descriptors import Descriptors
from overlaykit.overlay.explain import explain
from overlaykit.overlay.filesystem import Filesystem
from overlaykit.overlay.layer import Layer
from overlaykit.overlay.marker_names import TRUSTED_PREFIX, USER_PREFIX
from overlaykit.overlay.opened import OpenedLayer
from overlaykit.overlay.stack import MergeOptions
from overlaykit.scope import contextmanager
from overlaykit.views.kernel_driver import in_user_namespace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from overlaykit.overlay.explanation import Explanation
    from overlaykit.overlay.layer import LayerDir

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_CLONE: Final = _native.OPEN_TREE_CLONE | _native.OPEN_TREE_CLOEXEC


def explain_layers(layers: Sequence[str], upper: str | None, path: str) -> Explanation:
    """What a path means in the merge of the directories `layers`, top first and below `upper`.

    Raises: OSError (ENOENT and the like).
    """
    paths = [*([] if upper is None else [upper]), *layers]
    # The upper counts as a lower: nothing is written, and its work directory is not needed.
    opened = [OpenedLayer(_open(one), one, mounted_in=frozenset()) for one in paths]
    options = MergeOptions(userxattr=_has_user_markers(paths[0]))
    with Filesystem(opened, options=options) as filesystem, _index_of(upper) as index:
        return explain(filesystem, os.fsencode(path), index)


@contextmanager
def _index_of(upper: str | None) -> Iterator[LayerDir | None]:
    """The index of an upper, if its work directory has the usual place."""
    path = None if upper is None else os.path.join(os.path.dirname(upper), "work", "index")
    if path is None or not os.path.isdir(path):
        yield None
        return
    descriptors = Descriptors(1)
    layer = Layer(_open(path), 0, path=path, writable=True, descriptors=descriptors)
    try:
        yield layer.root
    finally:
        layer.close()


def _has_user_markers(upper: str) -> bool:
    """Whether the markers that count are under the prefix for ordinary users, as the upper has them."""
    names = [os.fsencode(name) for name in os.listxattr(upper)]
    for prefix, found in ((TRUSTED_PREFIX, False), (USER_PREFIX, True)):
        if any(name.startswith(prefix) for name in names):
            return found
    return in_user_namespace()


def _open(path: str) -> int:
    if path == "/" and namespace.is_privileged():
        return _native.open_tree(_native.AT_FDCWD, path, _CLONE)  # without the mounts below
    return os.open(path, _DIRECTORY)
