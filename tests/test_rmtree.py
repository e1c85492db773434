"""A tree is removed however deep it is and whatever modes it has."""

from __future__ import annotations

import os
import tempfile

import pytest

from overlaykit.rmtree import rmtree_path


@pytest.mark.parametrize("name", ["directory", "d" * 255])
def test_a_path_longer_than_the_kernel_takes_is_removed(name: str) -> None:
    levels = 3 * 4096 // len(name)
    with tempfile.TemporaryDirectory() as scratch:
        top = os.path.join(scratch, "top")
        os.mkdir(top)
        parent = os.open(top, os.O_RDONLY)
        for _ in range(levels):
            os.mkdir(name, dir_fd=parent)
            child = os.open(name, os.O_RDONLY, dir_fd=parent)
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=child))
            os.fchmod(parent, 0o500)
            os.close(parent)
            parent = child
        os.close(parent)
        rmtree_path(top)
        assert os.listdir(scratch) == []
