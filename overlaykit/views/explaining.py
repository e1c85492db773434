"""Which layer answers for a path in a view without a daemon: the layers are opened here, and only read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from overlaykit import _native, namespace
from overlaykit.fuse.control import Explained, LayerHitReply
from overlaykit.overlay.explain import explain
from overlaykit.overlay.filesystem import Filesystem
from overlaykit.overlay.stack import MergeOptions, OpenedLayer
from overlaykit.views.kernel_driver import in_user_namespace

if TYPE_CHECKING:
    from collections.abc import Sequence

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_CLONE: Final = _native.OPEN_TREE_CLONE | _native.OPEN_TREE_CLOEXEC


def explain_layers(layers: Sequence[str], upper: str | None, path: str) -> Explained:
    """Which of the directories `layers`, top first and below `upper`, answers for a path in their merge.

    Raises: OSError (ENOENT and the like).
    """
    paths = [*([] if upper is None else [upper]), *layers]
    # The upper counts as a lower: nothing is written, and its work directory is not needed.
    opened = [OpenedLayer(_open(one), one, mounted_in=frozenset()) for one in paths]
    options = MergeOptions(userxattr=in_user_namespace())
    with Filesystem(opened, options=options) as filesystem:
        found = explain(filesystem, os.fsencode(path))
    hits = (LayerHitReply(hit.layer, hit.path, hit.kind, hit.role) for hit in found.hits)
    return Explained(found.path, found.target, tuple(hits))


def _open(path: str) -> int:
    if path == "/" and namespace.is_privileged():
        return _native.open_tree(_native.AT_FDCWD, path, _CLONE)  # without the mounts below
    return os.open(path, _DIRECTORY)
