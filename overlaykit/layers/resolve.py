"""Resolve the argument of `-l LAYER`."""

from __future__ import annotations

import os

from overlaykit.layers.host import NAME as HOST
from overlaykit.layers.host import host
from overlaykit.layers.layer import Layer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from overlaykit.layers.store import Store

_DIRECTORY = "dir:"


def resolve(text: str, store: Store | None = None, *, hidden: Iterable[str] = ()) -> Layer:
    """The layer that `text` names: `host`; `dir:PATH` or any text with a slash, a directory; else one of `store`.

    None: the default store.
    `hidden`: paths that the layer `host` masks, as for `host()`.

    Raises:
      MissingDirectory, NotADirectory, UnreadableDirectory: of a directory.
      UnknownLayer, BadLayerName, DamagedLayer: of a stored layer.
    """
    if text == HOST:
        return host(hidden)
    if text.startswith(_DIRECTORY) or "/" in text:
        # Late: most views need neither this nor the store.
        from overlaykit.layers.checks import check_directory

        path = os.path.abspath(text.removeprefix(_DIRECTORY))
        check_directory(path)
        return Layer(name=path, path=path)
    from overlaykit.layers.store import Store

    return (store or Store()).layer(text)
