"""What a stored layer is made of: `layer add NAME SOURCE`."""

from __future__ import annotations

from typing import Protocol

from overlaykit.errors import Error
from overlaykit.layers.archive import ArchiveSource
from overlaykit.layers.deb import DebSource
from overlaykit.layers.directory import DirectorySource
from overlaykit.layers.layer import Layer
from overlaykit.layers.tree import Tree, Usage


class BadSource(Error):
    message = (
        "{0!r} is no source of a layer; write dir:PATH, tar:PATH or deb:PACKAGE[,PACKAGE]@SUITE"
    )


class Source(Protocol):
    """Something that can fill a layer's tree. `str()` gives it in a form that `parse_source` takes."""

    def unpack(self, tree: Tree, scratch: str, base: Layer | None) -> Usage:
        """Fill `tree`, seal it, and say what it holds.

        `scratch` is an empty directory of the store's, removed afterwards; `base` is what the layer is meant
        to lie over (None: the host). Raises a subclass of Error or OSError; what was made until then is
        the caller's to drop.
        """


def parse_source(text: str) -> Source:
    """Understand `dir:PATH`, `tar:PATH` or `deb:PACKAGE[,PACKAGE]@SUITE`; paths become absolute.

    Raises BadSource, and the Error of the kind of source for what is missing or malformed.
    """
    kind, colon, rest = text.partition(":")
    if colon and rest:
        match kind:
            case "dir":
                return DirectorySource(rest)
            case "tar":
                return ArchiveSource(rest)
            case "deb":
                return DebSource(rest)
    raise BadSource(text)
