"""Debian packages as the source of a stored layer: their files and those of the dependencies that the base lacks.

apt resolves them against the dpkg status of the base, so a package of an old suite adds no older libc to a newer base.
No maintainer script runs, and the package database of the base is unchanged.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import IO, cast

from overlaykit import _native
from overlaykit.errors import Error
from overlaykit.layers.apt import PackageResolver
from overlaykit.layers.extract import extract
from overlaykit.layers.layer import Layer
from overlaykit.layers.privateapt import AptMissing
from overlaykit.layers.program import running
from overlaykit.layers.tar import DamagedArchive, TarStream
from overlaykit.layers.tree import Tree, Usage

# Debian Policy 5.6.1.
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]*[a-z0-9+.](:[a-z0-9-]+)?")
_SUITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9+./_-]*")
_STATUS = "var/lib/dpkg/status"


class BadDebSource(Error):
    message = (
        "'deb:{0}' does not name packages and a suite; write deb:PACKAGE[,PACKAGE]@SUITE, as in "
        "deb:python2.7@bullseye"
    )


class DebSource:
    """`deb:PACKAGE[,PACKAGE]@SUITE`, without recommended packages."""

    def __init__(self, text: str) -> None:
        names, _, suite = text.partition("@")
        packages = names.split(",")
        if not all(map(_PACKAGE.fullmatch, packages)) or not _SUITE.fullmatch(suite):
            raise BadDebSource(text)
        self._packages = packages
        self._suite = suite

    def __str__(self) -> str:
        return f"deb:{','.join(self._packages)}@{self._suite}"

    def unpack(self, tree: Tree, scratch: str, base: Layer | None) -> Usage:
        """Fetch the packages and extract them into `tree`; see `overlaykit.layers.source.Source`."""
        if shutil.which("dpkg-deb") is None:
            raise AptMissing("dpkg-deb")
        root = base.path if base is not None else "/"
        status = os.path.join(root, _STATUS)
        resolver = PackageResolver(scratch, self._suite, status if os.path.exists(status) else None)
        debs = resolver.fetch(self._packages)
        with _Base(root) as installed:
            for deb in debs:
                _extract(deb, tree, installed)
        return tree.seal()


class _Base:
    """The layer below the packages, whose symbolic links to directories are followed, as dpkg does.

    A package of bullseye has /lib/x.so, and /lib of bookworm is a link to usr/lib. A directory /lib in the layer would
    shadow the link and all files behind it.
    """

    def __init__(self, root: str) -> None:
        self._fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._root = self._real_path(self._fd)
        self._resolved: dict[bytes, bytes] = {b"": b""}

    def __enter__(self) -> _Base:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def map_path(self, path: bytes, directory: bool) -> bytes:
        """The path in the layer for a path of a package."""
        if directory:
            return self._directory(path)
        parent, name = os.path.split(path)
        return os.path.join(self._directory(parent), name)

    def _directory(self, path: bytes) -> bytes:
        if path not in self._resolved:
            parent, name = os.path.split(path)
            self._resolved[path] = self._follow(os.path.join(self._directory(parent), name))
        return self._resolved[path]

    def _follow(self, path: bytes) -> bytes:
        resolve = _native.RESOLVE_IN_ROOT | _native.RESOLVE_NO_MAGICLINKS
        try:
            fd = _native.openat2(
                self._fd, path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0, resolve
            )
        except OSError:
            # Missing, no directory, or not accessible.
            return path
        try:
            below = os.path.relpath(self._real_path(fd), self._root)
            return b"" if below == b"." else below
        finally:
            os.close(fd)

    @staticmethod
    def _real_path(fd: int) -> bytes:
        return os.readlink(os.fsencode(f"/proc/self/fd/{fd}"))


def _extract(deb: str, tree: Tree, base: _Base) -> None:
    shown = os.path.basename(deb)
    with running(
        ["dpkg-deb", "--fsys-tarfile", deb],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        stream = cast(IO[bytes], process.stdout)
        extract(TarStream(stream, shown), shown, tree, base.map_path)
    if process.returncode != 0:
        raise DamagedArchive(shown, "dpkg-deb cannot read it")
