"""A plain directory with a copy of the layers' files: the cost without an overlay."""

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
    """A plain directory. `path`: the parent of the copies, by default the layers' own directory."""

    counts = False

    def __init__(self, name: str, what: str, path: str | None = None) -> None:
        self.name = name
        self.what = what
        self._path = path

    @contextlib.contextmanager
    def over(self, layers: Layers) -> Iterator[Show]:
        parent = self._path or layers.directory

        @contextlib.contextmanager
        def one_copy() -> Iterator[Tree]:
            yield Uncounted(tree)

        @contextlib.contextmanager
        def fresh_copy() -> Iterator[Tree]:
            with _copied(layers.lowers, parent) as path:
                yield Uncounted(path)

        if layers.written_to:
            yield fresh_copy
        else:
            with _copied(layers.lowers, parent) as tree:
                yield one_copy


@contextlib.contextmanager
def _copied(lowers: tuple[str, ...], parent: str) -> Iterator[str]:
    """A new directory with the merged files of the lowers, written back to the disk."""
    directory = tempfile.mkdtemp(prefix="overlaykit-bench-", dir=parent)
    try:
        for lower in reversed(lowers):
            copying = ["cp", "--archive", "--", f"{lower}/.", directory]
            subprocess.run(copying, check=True, stderr=subprocess.PIPE)
        os.sync()
        yield directory
    finally:
        rmtree_path(directory)
