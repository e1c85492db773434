"""The disk of a guest: a qcow2 file with an empty ext4, made without qemu-img.

Only what is written takes space, in the file and on the host. Source: docs/interop/qcow2.txt of QEMU, version 3.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from errno import ENXIO
from typing import TYPE_CHECKING, Final

from overlaykit.errors import Error

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAGIC: Final = b"QFI\xfb"
_HEADER: Final = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_CLUSTER_BITS: Final = 16
_CLUSTER: Final = 1 << _CLUSTER_BITS
_PER_TABLE: Final = _CLUSTER // 8
"""Entries of a table: 8 bytes each."""
_COPIED: Final = 1 << 63
"""A cluster with one reference."""
_DIRTY: Final = 1
"""The only incompatible feature that is taken: QEMU was killed, and counts the references again."""

LEAST: Final = 8 << 20
MOST: Final = 16 << 40
"""Bytes; ext4 takes no more with blocks of 4 KiB and 32 bits."""


class NoMkfs(Error):
    message = "{0} is not here, which makes the disk of a machine; install e2fsprogs"


class BadDisk(Error):
    message = "{0}: {1}"


def create(path: str, size: int, *, journal: bool) -> None:
    """Make the disk in the empty file `path`; `size` in bytes. With a journal it survives a kill.

    Raises: NoMkfs; OSError.
    """
    size = -(-size // _CLUSTER) * _CLUSTER
    # In memory: few file systems have files of MOST bytes, and a sparse one is slow to remove.
    raw = os.memfd_create("overlaykit-disk", os.MFD_CLOEXEC)
    try:
        os.ftruncate(raw, size)
        _make_file_system(raw, size, journal=journal)
        with open(path, "r+b") as image:
            _write(image.fileno(), size, raw)
            if journal:
                os.fsync(image.fileno())
    finally:
        os.close(raw)


def has_no_room(file: int) -> bool:
    """Whether the host's file system has none for another cluster of the disk."""
    found = os.fstatvfs(file)
    return found.f_bavail * found.f_frsize < _CLUSTER


def size_of(descriptor: int, path: str) -> int:
    """The size that a guest sees of the disk in an open file.

    Raises BadDisk for a file that is not such a disk, or that names another file: QEMU would read it.
    """
    raw = os.pread(descriptor, _HEADER.size, 0)
    if len(raw) < _HEADER.size or not raw.startswith(_MAGIC):
        raise BadDisk(path, "not a qcow2 file; name another one, or remove it")
    fields = _HEADER.unpack(raw)
    version, backing, size, incompatible = fields[1], fields[2], fields[5], fields[13]
    if version != 3 or backing or fields[6] or incompatible & ~_DIRTY:
        raise BadDisk(
            path, "a qcow2 file with features that the disk of a machine has not; name another one"
        )
    return int(size)


def _make_file_system(descriptor: int, size: int, *, journal: bool) -> None:
    program = shutil.which("mkfs.ext4", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise NoMkfs("mkfs.ext4")
    # Without the last group's spare tables and reserved blocks, an empty file system has little to write.
    features = [
        "-O",
        "^resize_inode",
        *(("-J", "size=8") if journal and size >= 64 << 20 else ("-O", "^has_journal")),
    ]
    subprocess.run(
        [
            *(program, "-q", "-F", "-b", "4096", "-m", "0", *features),
            *("-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0"),
            f"/dev/fd/{descriptor}",
        ],
        pass_fds=[descriptor],
        check=True,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def _data(descriptor: int, size: int) -> Iterator[tuple[int, bytes]]:
    """The clusters of a sparse file that are not all zeros: their numbers and bytes."""
    at, zeros = 0, bytes(_CLUSTER)
    while at < size:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == ENXIO:  # no more data
                return
            raise
        at, end = start // _CLUSTER * _CLUSTER, os.lseek(descriptor, start, os.SEEK_HOLE)
        while at < end:
            content = os.pread(descriptor, _CLUSTER, at)
            if content != zeros:
                yield at // _CLUSTER, content
            at += _CLUSTER


def _write(image: int, size: int, raw: int) -> None:
    """The header, the table of references, its blocks, and the tables of clusters, then the clusters themselves."""
    clusters = dict(_data(raw, size))
    tables = sorted({number // _PER_TABLE for number in clusters})
    first_entries = -(-size // (_CLUSTER * _PER_TABLE))
    first_clusters = max(1, -(-first_entries * 8 // _CLUSTER))
    # One block counts 32768 clusters, 2 GiB of the file: more than an empty file system takes.
    first = 3
    second = first + first_clusters
    data = second + len(tables)
    places = {number: data + at for at, number in enumerate(sorted(clusters))}
    used = data + len(places)
    table_of = {table: second + at for at, table in enumerate(tables)}

    def put(cluster: int, content: bytes) -> None:
        os.pwrite(image, content, cluster << _CLUSTER_BITS)

    header = _HEADER.pack(
        *(_MAGIC, 3, 0, 0, _CLUSTER_BITS, size, 0, first_entries, first << _CLUSTER_BITS),
        *(1 << _CLUSTER_BITS, 1, 0, 0, 0, 0, 0, 4, 104),
    )
    put(0, header)
    put(1, struct.pack(">Q", 2 << _CLUSTER_BITS))
    put(2, struct.pack(f">{used}H", *[1] * used))
    for table, cluster in table_of.items():
        os.pwrite(
            image,
            struct.pack(">Q", cluster << _CLUSTER_BITS | _COPIED),
            (first << _CLUSTER_BITS) + table * 8,
        )
        for number in (one for one in places if one // _PER_TABLE == table):
            entry = struct.pack(">Q", places[number] << _CLUSTER_BITS | _COPIED)
            os.pwrite(image, entry, (cluster << _CLUSTER_BITS) + number % _PER_TABLE * 8)
    block = os.fstat(image).st_blksize
    for number, content in clusters.items():
        # Holes stay holes on the host.
        for at in range(0, len(content), block):
            part = content[at : at + block]
            if part.count(0) != len(part):
                os.pwrite(image, part, (places[number] << _CLUSTER_BITS) + at)
    os.ftruncate(image, used << _CLUSTER_BITS)
