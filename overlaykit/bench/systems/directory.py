"""A directory as it is, with a copy of the layers' files in it: what files cost without any overlay."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator

from overlaykit.bench.systems.mounting import Uncounted
from overlaykit.bench.systems.system import Layers, Show, Tree
from overlaykit.rmtree import rmtree_path


class Directory:
    """`path`: where the copies are made; without one, beside the layers."""

    counts = False

    def __init__(self, name: str, what: str, path: str | None = None) -> None:
        self.name = name
        self.what = what
        self._path = path

    @contextlib.contextmanager
    def over(self, layers: Layers) -> Iterator[Show]:
        parent = self._path or layers.directory

        @contextlib.contextmanager
        def kept() -> Iterator[Tree]:
            yield Uncounted(tree)

        @contextlib.contextmanager
        def made_anew() -> Iterator[Tree]:
            with _copied(layers.lowers, parent) as path:
                yield Uncounted(path)

        if layers.written_to:
            yield made_anew
        else:
            with _copied(layers.lowers, parent) as tree:
                yield kept


@contextlib.contextmanager
def _copied(lowers: tuple[str, ...], parent: str) -> Iterator[str]:
    """A new directory with what the lowers show; nothing of it is still to be written when it is used."""
    directory = tempfile.mkdtemp(prefix="overlaykit-bench-", dir=parent)
    try:
        for lower in reversed(lowers):
            copying = ["cp", "--archive", "--", f"{lower}/.", directory]
            subprocess.run(copying, check=True, stderr=subprocess.PIPE)
        os.sync()
        yield directory
    finally:
        rmtree_path(directory)
