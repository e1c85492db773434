"""The sources of stored layers: `layer add NAME SOURCE`."""

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
    """A source of a layer. `str()` is its form for `parse_source`."""

    def unpack(self, tree: Tree, scratch: str, base: Layer | None) -> Usage:
        """Fill `tree` and seal it.

        `scratch` is an empty directory for temporary files; `base` is the layer below (None: the host).

        Raises:
          Error, OSError: the caller removes the unfinished tree.
        """


def parse_source(text: str) -> Source:
    """Parse `dir:PATH`, `tar:PATH` or `deb:PACKAGE[,PACKAGE]@SUITE`; paths become absolute.

    Raises:
      BadSource: the text has another form.
      Error: the source is missing or malformed.
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
