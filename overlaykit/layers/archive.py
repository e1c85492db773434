"""A tar archive, compressed or not, as the source of a stored layer."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, cast

from overlaykit.errors import Error
from overlaykit.layers.extract import extract
from overlaykit.layers.image import refuse_image
from overlaykit.layers.layer import Layer
from overlaykit.layers.program import running
from overlaykit.layers.tar import DamagedArchive, TarStream
from overlaykit.layers.tree import Tree, Usage

_ZSTD = b"\x28\xb5\x2f\xfd"


class MissingArchive(Error):
    message = "{0} does not exist; give the path of a tar archive"


class UnreadableArchive(Error):
    message = "{0} is not a file that you can read; give the path of a tar archive"


class ZstdMissing(Error):
    message = (
        "{0} is compressed with zstd and the program zstd is not installed; install the package "
        "zstd"
    )


class ArchiveSource:
    """`tar:PATH`: plain, or compressed with gzip, bzip2, xz, lzma, or zstd (by the program of that name)."""

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        if not os.path.lexists(self._path):
            raise MissingArchive(self._path)
        if not os.path.isfile(self._path) or not os.access(self._path, os.R_OK, effective_ids=True):
            raise UnreadableArchive(self._path)

    def __str__(self) -> str:
        return f"tar:{self._path}"

    def unpack(self, tree: Tree, scratch: str, base: Layer | None) -> Usage:
        """Extract the archive into `tree`; see `overlaykit.layers.source.Source`."""
        # Unbuffered: zstd reads the file from its current offset.
        with open(self._path, "rb", buffering=0) as file, _decompressed(file, self._path) as stream:
            extract(TarStream(stream, self._path), self._path, tree)
        refuse_image(tree.root, str(self))
        return tree.seal()


@contextmanager
def _decompressed(file: IO[bytes], shown: str) -> Iterator[IO[bytes]]:
    """The uncompressed archive. Reading to the end verifies checksums; errors are those of the format."""
    magic = file.read(6)
    file.seek(0)
    # tarfile's "r|*" stops after the first of several gzip members and verifies no checksum.
    if magic.startswith(b"\x1f\x8b"):
        with gzip.GzipFile(fileobj=file) as plain:
            yield cast(IO[bytes], plain)
    elif magic.startswith(b"BZh"):
        with bz2.BZ2File(file) as plain:
            yield plain
    elif magic.startswith((b"\xfd7zXZ\0", b"\x5d\0\0")):
        with lzma.LZMAFile(file) as plain:
            yield plain
    elif magic.startswith(_ZSTD):
        with _zstd(file, shown) as stream:
            yield stream
    else:
        yield file


@contextmanager
def _zstd(file: IO[bytes], shown: str) -> Iterator[IO[bytes]]:
    program = shutil.which("zstd")
    if program is None:
        raise ZstdMissing(shown)
    with running(
        [program, "-dcq"], stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        yield cast(IO[bytes], process.stdout)
    if process.returncode != 0:
        raise DamagedArchive(shown, "zstd cannot decompress it")
