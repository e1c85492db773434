"""The store: named, immutable layers, added and removed atomically.

    STORE/NAME/tree/         the files of the layer
    STORE/NAME/layer.json    its record
    STORE/.tmp-RANDOM/       a layer that is being made or removed (see `staging`)

A layer is made in a staging directory, synced, and renamed to its name. A view holds a shared lock (flock(2)) on
`tree`. Removal takes an exclusive lock, renames the layer to a staging name and removes it there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time

from overlaykit import attributes, codec
from overlaykit.errors import Error
from overlaykit.health import Check
from overlaykit.layers.host import NAME as HOST
from overlaykit.layers.layer import Hold, Layer
from overlaykit.layers.staging import DIRECTORY, FIX, opened, staged, temporary_name
from overlaykit.record import Record
from overlaykit.rmtree import rmtree
from overlaykit.scope import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from overlaykit.layers.source import Source

_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_LONGEST_NAME = 64
_TREE = "tree"
_RECORD = "layer.json"
_SCRATCH = "scratch"
_NO_HOME = "/nonexistent"
"""The home directory of Debian's users without one."""


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


class StoredLayer(Record, kw_only=True):
    """A layer of the store."""

    name: str
    path: str
    """The absolute path of its files."""
    source: str
    """Its source, as an argument of `layer add`."""
    created: int
    """Nanoseconds since the epoch."""
    bytes: int
    """The size of its regular files, each inode once."""
    files: int
    """The number of names, without directories."""

    def layer(self) -> Layer:
        """The same, as a layer of a view."""
        return Layer(name=self.name, path=self.path)

    def hold(self) -> Hold:
        """Prevent its removal until the result is closed; see `Layer.hold`.

        Raises:
          UnknownLayer: it has been removed.
        """
        try:
            return self.layer().hold()
        except FileNotFoundError:
            raise UnknownLayer(self.name, "") from None


class LayerRecord(Record, kw_only=True):
    """The contents of layer.json."""

    format: int = 1
    source: str
    created: int
    bytes: int
    files: int


class Store:
    """The layers in a directory, by default $XDG_DATA_HOME/overlaykit/layers."""

    def __init__(self, root: str | None = None) -> None:
        self._base, self.root = default_base() if root is None else ("/", os.path.abspath(root))

    def add(self, name: str, source_text: str, *, base: Layer | None = None) -> StoredLayer:
        """Make the layer `name` from `dir:PATH`, `tar:PATH` or `deb:PACKAGE[,PACKAGE]@SUITE`.

        `base` is the layer below it, whose packages a deb: source leaves out (None: the host).

        Ensures: when it raises, the store is unchanged.

        Raises:
          BadLayerName, LayerExists, BadSource: see their messages.
          Error: as the source.
          OSError: ENOSPC, EACCES and others.
        """
        _check(name)
        # Imported late: a view needs no source.
        from overlaykit.layers.source import parse_source

        return self.add_from(name, parse_source(source_text), base=base)

    def add_from(self, name: str, source: Source, *, base: Layer | None = None) -> StoredLayer:
        """As `add`, of a source that is no text."""
        _check(name)
        from overlaykit.layers.tree import Tree

        if os.path.lexists(self._path(name)):
            raise LayerExists(name)
        with staged(self.root, base=self._base) as (directory, path):
            tree_path = os.path.join(path, _TREE)
            scratch = os.path.join(path, _SCRATCH)
            os.mkdir(tree_path, 0o700)
            os.mkdir(scratch, 0o700)
            tree = Tree(os.open(tree_path, DIRECTORY))
            try:
                usage = source.unpack(tree, scratch, base)
            finally:
                tree.close()
            rmtree(directory, os.fsencode(_SCRATCH))
            # A view and `remove` open the directory, also where the mode of the source denies it.
            os.chmod(tree_path, os.stat(tree_path).st_mode | 0o500)
            record = LayerRecord(
                source=str(source), created=time.time_ns(), bytes=usage.bytes, files=usage.files
            )
            with open(os.path.join(path, _RECORD), "xb") as file:
                file.write(codec.encode(record))
            attributes.sync_file_system(directory)
            try:
                os.rename(path, self._path(name))
            except OSError as error:
                # Lost the race with another `add`. A layer is never empty, so rename(2) replaces none.
                if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                    raise LayerExists(name) from None
                raise
            with opened(self.root) as root:
                os.fsync(root)
        return self._stored(name, record)

    def remove(self, name: str) -> None:
        """Remove a layer.

        Raises:
          UnknownLayer, BadLayerName: see their messages.
          LayerBusy: a view holds it.
        """
        _check(name)
        try:
            with opened(self.root) as root:
                # Under the store's lock, the second of two concurrent removals finds no layer.
                fcntl.flock(root, fcntl.LOCK_EX)
                with opened(self._path(name)) as directory, self._unused(name):
                    fcntl.flock(directory, fcntl.LOCK_EX)
                    gone = temporary_name()
                    os.rename(name, gone, src_dir_fd=root, dst_dir_fd=root)
                    fcntl.flock(root, fcntl.LOCK_UN)
                    rmtree(root, os.fsencode(gone))
        except (FileNotFoundError, NotADirectoryError):
            raise self._unknown(name) from None

    def get(self, name: str) -> StoredLayer:
        """The layer `name`.

        Raises:
          UnknownLayer, BadLayerName, DamagedLayer: see their messages.
        """
        _check(name)
        path = os.path.join(self._path(name), _RECORD)
        try:
            with open(path, "rb") as file:
                return self._stored(name, codec.decode(file.read(), LayerRecord))
        except (FileNotFoundError, ValueError):
            if not os.path.isdir(self._path(name)):
                raise self._unknown(name) from None
            raise DamagedLayer(name, _RECORD) from None

    def layer(self, name: str) -> Layer:
        """The layer `name` for a view, without its record, which takes json to read. Raises: as `get`."""
        _check(name)
        path = self._path(name)
        if not os.path.isfile(os.path.join(path, _RECORD)):
            return self.get(name).layer()
        return Layer(name=name, path=os.path.join(path, _TREE))

    def list(self) -> tuple[StoredLayer, ...]:
        """Every layer, by name.

        Raises:
          DamagedLayer: see its message.
        """
        return tuple(self.get(name) for name in self._names())

    def check(self) -> Check:
        """Whether layers can be added, for `doctor`; makes nothing."""
        path = self.root
        while not os.path.lexists(path):
            path = os.path.dirname(path)
        writable = os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)
        usable = writable and os.path.isdir(self._base)
        detail = f"kept in {self.root}" if usable else f"cannot be kept in {self.root}"
        return Check("layers", usable, detail, "" if usable else FIX)

    def _names(self) -> tuple[str, ...]:
        try:
            return tuple(sorted(filter(_is_name, os.listdir(self.root))))
        except FileNotFoundError:
            return ()

    def _stored(self, name: str, record: LayerRecord) -> StoredLayer:
        return StoredLayer(
            name=name,
            path=os.path.join(self._path(name), _TREE),
            source=record.source,
            created=record.created,
            bytes=record.bytes,
            files=record.files,
        )

    def _unknown(self, name: str) -> UnknownLayer:
        import difflib

        close = difflib.get_close_matches(name, [*self._names(), HOST])
        return UnknownLayer(name, f" (did you mean {' or '.join(close)}?)" if close else "")

    def _path(self, name: str) -> str:
        return os.path.join(self.root, name)

    @contextmanager
    def _unused(self, name: str) -> Iterator[None]:
        """Lock the layer exclusively, or raise LayerBusy."""
        try:
            tree = os.open(os.path.join(self._path(name), _TREE), DIRECTORY)
        except FileNotFoundError:
            # Damaged: no view can use it.
            yield
            return
        try:
            fcntl.flock(tree, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise LayerBusy(name) from None
        finally:
            os.close(tree)


def _check(name: str) -> None:
    if name == HOST or not _is_name(name):
        raise BadLayerName(name)


def _is_name(text: str) -> bool:
    return (
        text[:1] in _LETTERS
        and len(text) <= _LONGEST_NAME
        and _LETTERS.union("._-").issuperset(text)
    )


def default_base() -> tuple[str, str]:
    """The parent directory that must exist, and the store.

    By the XDG base directory specification, which ignores a relative path.
    """
    data, base = os.environ.get("XDG_DATA_HOME", ""), "/"
    if not os.path.isabs(data):
        home = os.path.expanduser("~")
        base = home if os.path.isabs(home) else _NO_HOME
        data = os.path.join(base, ".local", "share")
    return base, os.path.join(data, "overlaykit", "layers")
