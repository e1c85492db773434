"""The store: named layers that never change, each whole or not there at all.

    STORE/NAME/tree/         the layer's files
    STORE/NAME/layer.json    what is known of them
    STORE/.tmp-RANDOM/       a layer being made or removed

A layer is made in a directory of the last kind, synced, and renamed to its name. Its maker holds a lock (flock(2))
on that directory: one that nobody has locked was left by a process that was killed, and the next `add` removes it.
Making and clearing such directories happens under a lock of the store's. A view holds a shared lock on `tree`;
removing takes it exclusively, renames the layer away and deletes it there.
"""

from __future__ import annotations

import ctypes
import difflib
import errno
import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import msgspec

from overlaykit.errors import Error
from overlaykit.health import Check
from overlaykit.layers.host import NAME as HOST
from overlaykit.layers.layer import Hold, Layer
from overlaykit.layers.tree import Tree
from overlaykit.rmtree import rmtree

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_TEMPORARY = ".tmp-"
_TREE = "tree"
_RECORD = "layer.json"
_SCRATCH = "scratch"
_NO_HOME = "/nonexistent"
"""Debian's home of users without one."""
_UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class StoreUnusable(Error):
    message = "{0}: layers cannot be kept there ({1}): {2}"

    def __init__(self, root: str, reason: str) -> None:
        super().__init__(root, reason, _FIX)


_FIX = "set XDG_DATA_HOME to a directory that you may write to"


class BadLayerName(Error):
    message = (
        "{0!r} cannot name a layer: up to 64 of a-z, 0-9, '.', '_' and '-', the first a letter "
        "or digit, and not 'host'"
    )


class LayerExists(Error):
    message = (
        "there is already a layer {0}; choose another name, or remove it with 'overlaykit layer "
        "rm {0}'"
    )


class UnknownLayer(Error):
    message = (
        "there is no layer {0}{1}; 'overlaykit layer ls' lists them, and a directory is written "
        "with a slash"
    )


class LayerBusy(Error):
    message = (
        "the layer {0} is used by a running view; end the view first ('overlaykit ps' lists them)"
    )


class DamagedLayer(Error):
    message = (
        "the layer {0} has no readable {1}; remove it with 'overlaykit layer rm {0}' and add it "
        "again"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLayer:
    """One layer of the store."""

    name: str
    path: str
    """The absolute path of its tree."""
    source: str
    """What it was made of, as `layer add` takes it."""
    created: int
    """When, in nanoseconds since the epoch."""
    bytes: int
    """The length of its regular files, each inode once."""
    files: int
    """How many names there are that are no directories."""

    def layer(self) -> Layer:
        """It, as a layer of a view."""
        return Layer(name=self.name, path=self.path)

    def hold(self) -> Hold:
        """Keep it from being removed until the result is closed; see `Layer.hold`.

        Raises UnknownLayer when it has been removed meanwhile; OSError.
        """
        try:
            return self.layer().hold()
        except FileNotFoundError:
            raise UnknownLayer(self.name, "") from None


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """What layer.json holds."""

    format: int = 1
    source: str
    created: int
    bytes: int
    files: int


class Store:
    """The layers below a directory, by default $XDG_DATA_HOME/overlaykit/layers."""

    def __init__(self, root: str | None = None) -> None:
        self._base, self.root = _default_root() if root is None else ("/", os.path.abspath(root))

    def add(self, name: str, source_text: str, *, base: Layer | None = None) -> StoredLayer:
        """Make the layer `name` of `dir:PATH`, `tar:PATH` or `deb:PACKAGE[,PACKAGE]@SUITE`.

        `base` is what it is meant to lie over, which decides what a deb: source must bring (None: the host).
        Whatever goes wrong, the store is as before. Raises BadLayerName, LayerExists, BadSource and the
        Errors of the source; OSError (ENOSPC, EACCES, ...).
        """
        _check(name)
        from overlaykit.layers.source import (
            parse_source,  # late: running a view takes no archives apart
        )

        source = parse_source(source_text)
        if os.path.lexists(self._path(name)):
            raise LayerExists(name)
        with self._temporary() as (directory, path):
            tree_path = os.path.join(path, _TREE)
            scratch = os.path.join(path, _SCRATCH)
            os.mkdir(tree_path, 0o700)
            os.mkdir(scratch, 0o700)
            tree = Tree(os.open(tree_path, _DIRECTORY))
            try:
                usage = source.unpack(tree, scratch, base)
            finally:
                tree.close()
            rmtree(directory, os.fsencode(_SCRATCH))
            # Whatever its source says of it, we must be able to open the layer: to see, lock and remove it.
            os.chmod(tree_path, os.stat(tree_path).st_mode | 0o500)
            record = _Record(
                source=str(source), created=time.time_ns(), bytes=usage.bytes, files=usage.files
            )
            with open(os.path.join(path, _RECORD), "xb") as file:
                file.write(msgspec.json.encode(record))
            _sync_file_system(directory)
            try:
                os.rename(path, self._path(name))
            except OSError as error:
                # A layer of that name was finished before us: never empty, so never replaced (rename(2)).
                if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                    raise LayerExists(name) from None
                raise
            with _opened(self.root) as root:
                os.fsync(root)
        return self._stored(name, record)

    def remove(self, name: str) -> None:
        """Remove a layer, whatever the modes of its directories; symbolic links are not followed.

        Raises UnknownLayer, BadLayerName; LayerBusy when a view holds it; OSError.
        """
        _check(name)
        try:
            with _opened(self.root) as root:
                # Under the store's lock: of two removers the second finds nothing, not a lock.
                fcntl.flock(root, fcntl.LOCK_EX)
                with _opened(self._path(name)) as directory, self._unused(name):
                    fcntl.flock(directory, fcntl.LOCK_EX)
                    gone = _temporary_name()
                    os.rename(name, gone, src_dir_fd=root, dst_dir_fd=root)
                    fcntl.flock(root, fcntl.LOCK_UN)
                    rmtree(root, os.fsencode(gone))
        except (FileNotFoundError, NotADirectoryError):
            raise self._unknown(name) from None

    def get(self, name: str) -> StoredLayer:
        """The layer `name`. Raises UnknownLayer, BadLayerName, DamagedLayer, OSError."""
        _check(name)
        path = os.path.join(self._path(name), _RECORD)
        try:
            with open(path, "rb") as file:
                return self._stored(name, msgspec.json.decode(file.read(), type=_Record))
        except (FileNotFoundError, msgspec.DecodeError):
            if not os.path.isdir(self._path(name)):
                raise self._unknown(name) from None
            raise DamagedLayer(name, _RECORD) from None

    def list(self) -> tuple[StoredLayer, ...]:
        """Every layer, by name. Raises DamagedLayer, OSError."""
        return tuple(self.get(name) for name in self._names())

    def check(self) -> Check:
        """Whether layers can be added, for `doctor`; nothing is made."""
        path = self.root
        while not os.path.lexists(path):
            path = os.path.dirname(path)
        writable = os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)
        usable = writable and os.path.isdir(self._base)
        detail = f"kept in {self.root}" if usable else f"cannot be kept in {self.root}"
        return Check("layers", usable, detail, "" if usable else _FIX)

    def _names(self) -> tuple[str, ...]:
        try:
            return tuple(sorted(filter(_NAME.fullmatch, os.listdir(self.root))))
        except FileNotFoundError:
            return ()

    def _stored(self, name: str, record: _Record) -> StoredLayer:
        return StoredLayer(
            name=name,
            path=os.path.join(self._path(name), _TREE),
            source=record.source,
            created=record.created,
            bytes=record.bytes,
            files=record.files,
        )

    def _unknown(self, name: str) -> UnknownLayer:
        close = difflib.get_close_matches(name, [*self._names(), HOST])
        return UnknownLayer(name, f" (did you mean {' or '.join(close)}?)" if close else "")

    def _path(self, name: str) -> str:
        return os.path.join(self.root, name)

    @contextmanager
    def _temporary(self) -> Iterator[tuple[int, str]]:
        """A new locked directory in the store, as descriptor and path; gone afterwards unless renamed."""
        with self._made_usable():
            os.stat(self._base)  # a home that is missing is not ours to make
            os.makedirs(self.root, 0o700, exist_ok=True)
        with _opened(self.root) as root:
            name = _temporary_name()
            fcntl.flock(root, fcntl.LOCK_EX)
            self._clear_abandoned(root)
            with self._made_usable():
                os.mkdir(name, 0o700, dir_fd=root)
            with _opened(self._path(name)) as directory:
                fcntl.flock(directory, fcntl.LOCK_EX)
                fcntl.flock(root, fcntl.LOCK_UN)
                try:
                    yield directory, self._path(name)
                finally:
                    rmtree(root, os.fsencode(name))

    @contextmanager
    def _made_usable(self) -> Iterator[None]:
        """Name the way out where the store cannot be written to."""
        try:
            yield
        except OSError as error:
            if error.errno not in _UNUSABLE:
                raise
            raise StoreUnusable(self.root, os.strerror(error.errno)) from None

    @contextmanager
    def _unused(self, name: str) -> Iterator[None]:
        """Have the layer to ourselves, or raise LayerBusy."""
        try:
            tree = os.open(os.path.join(self._path(name), _TREE), _DIRECTORY)
        except FileNotFoundError:
            yield  # damaged: nobody can be using it
            return
        try:
            fcntl.flock(tree, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise LayerBusy(name) from None
        finally:
            os.close(tree)

    def _clear_abandoned(self, root: int) -> None:
        for name in os.listdir(root):
            if not name.startswith(_TEMPORARY):
                continue
            # Passed over: just finished (not found), still being made (locked).
            with (
                suppress(FileNotFoundError, BlockingIOError),
                _opened(self._path(name)) as directory,
            ):
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                rmtree(root, os.fsencode(name))


@contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, _DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def _temporary_name() -> str:
    return _TEMPORARY + os.urandom(8).hex()


def _check(name: str) -> None:
    if name == HOST or not _NAME.fullmatch(name):
        raise BadLayerName(name)


def _default_root() -> tuple[str, str]:
    """Where the XDG base directory specification puts a user's data; a relative path there is to be ignored.

    Before it what must be there already: the home, if it is in use.
    """
    data, base = os.environ.get("XDG_DATA_HOME", ""), "/"
    if not os.path.isabs(data):
        home = os.path.expanduser("~")
        base = home if os.path.isabs(home) else _NO_HOME
        data = os.path.join(base, ".local", "share")
    return base, os.path.join(data, "overlaykit", "layers")


def _sync_file_system(fd: int) -> None:
    """syncfs(2): wait until all that was written to the file system of `fd` is on disk."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
