"""Debian packages as the source of a stored layer: their files, with those of the dependencies that the base lacks.

apt resolves them against the base's own dpkg status, so that a package of an old suite over a newer base never
brings an older libc. Only files are added: no maintainer script runs, and the base's package database, which
does not name them, stays as it is.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import IO, cast

from overlaykit import _native
from overlaykit.errors import Error
from overlaykit.layers.apt import AptMissing, PrivateApt
from overlaykit.layers.extract import extract
from overlaykit.layers.layer import Layer
from overlaykit.layers.tar import DamagedArchive, TarStream
from overlaykit.layers.tree import Tree, Usage

_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]*[a-z0-9+.](:[a-z0-9-]+)?")  # Debian Policy 5.6.1
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
        apt = PrivateApt(scratch, self._suite, status if os.path.exists(status) else None)
        debs = apt.fetch(self._packages)
        with _Base(root) as installed:
            for deb in debs:
                _extract(deb, tree, installed)
        return tree.seal()


class _Base:
    """What the packages are unpacked over. Its symbolic links to directories are followed, as dpkg does.

    A package of bullseye has /lib/x.so where bookworm's /lib is a link to usr/lib: made as it is named, the layer's
    own directory /lib would hide the base's link, and with it everything below.
    """

    def __init__(self, root: str) -> None:
        self._fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._root = self._real_path(self._fd)
        self._known: dict[bytes, bytes] = {b"": b""}

    def __enter__(self) -> _Base:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def place(self, path: bytes, directory: bool) -> bytes:
        """Where in the layer a package's path goes."""
        if directory:
            return self._directory(path)
        parent, name = os.path.split(path)
        return os.path.join(self._directory(parent), name)

    def _directory(self, path: bytes) -> bytes:
        if path not in self._known:
            parent, name = os.path.split(path)
            self._known[path] = self._follow(os.path.join(self._directory(parent), name))
        return self._known[path]

    def _follow(self, path: bytes) -> bytes:
        resolve = _native.RESOLVE_IN_ROOT | _native.RESOLVE_NO_MAGICLINKS
        try:
            fd = _native.openat2(
                self._fd, path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, resolve=resolve
            )
        except OSError:
            return path  # not there, no directory, not for us to see: nothing to follow
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
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", deb],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            stream = cast(IO[bytes], process.stdout)
            extract(TarStream(stream, shown), shown, tree, base.place)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise DamagedArchive(shown, "dpkg-deb cannot read it")
