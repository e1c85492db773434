"""Changes as a text patch, in git's form, which `patch -p1` and `git apply` take.

It holds regular files and symlinks, with their renames, and of modes what git keeps: whether a file can be executed.
What a patch cannot hold (binary files, devices, modes, owners, attributes) is named in a line that both programs skip.
"""

from __future__ import annotations

import errno
import hashlib
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from overlaykit.changes.lines import hunks
from overlaykit.changes.paths import is_in, parent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from overlaykit.changes.model import Change, Version
    from overlaykit.changes.read import Comparison

_LARGEST: Final = 64 << 20
"""Bytes of a text; larger files count as binary."""
_BINARY_PROBE: Final = 8000
"""Bytes from the start of a file that hold a NUL if it is binary, as in git (xdiff-interface.c)."""
_UNREADABLE: Final = (errno.EACCES, errno.EIO, errno.ENOENT, errno.ESTALE, errno.ELOOP, errno.ENXIO)

_NO_HASH: Final = b"0" * 10

_SYMLINK: Final = 0o120000
_REGULAR: Final = 0o100644
_EXECUTABLE: Final = 0o100755

_ESCAPES: Final = {
    7: b"\\a",
    8: b"\\b",
    9: b"\\t",
    10: b"\\n",
    11: b"\\v",
    12: b"\\f",
    13: b"\\r",
    ord('"'): b'\\"',
    ord("\\"): b"\\\\",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePatch:
    """The patch of one file. `old`, `new`: its paths; None: it was added or deleted.

    `text`: with its header. `added`, `removed`: lines. `binary`: it cannot be shown as text, and `text` only names it.
    `sizes`: in bytes, of both sides.
    """

    old: bytes | None
    new: bytes | None
    text: bytes
    added: int = 0
    removed: int = 0
    binary: bool = False
    sizes: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class _Pair:
    old_path: bytes | None
    path: bytes | None
    old: Version | None
    new: Version | None


def patches(comparison: Comparison, changes: Sequence[Change]) -> Iterator[FilePatch]:
    """The patches of all files that `changes`, which are sorted, change. Raises: OSError."""
    for pair in _files(comparison, changes):
        patch = _patch(pair)
        if patch is not None:
            yield patch


def _files(comparison: Comparison, changes: Sequence[Change]) -> Iterator[_Pair]:
    """The files of the changes, each alone: those of directories that were deleted or renamed, too."""
    here = {one.old_path for one in changes}
    gone = {one.old_path for one in changes if one.kind in ("deleted", "replaced")}
    for change in changes:
        old, new = change.old, change.new
        if change.kind in ("deleted", "replaced"):
            assert old is not None
            yield from _deleted(comparison, change, old)
            old = None
        if change.kind == "renamed" and new is not None and new.is_directory:
            assert change.old_path is not None
            for below, version in comparison.held(change):
                path = change.old_path + b"/" + below
                if not version.is_directory and path not in here and not is_in(parent(path), gone):
                    yield _Pair(path, change.path + b"/" + below, version, version)
        elif new is not None and not new.is_directory:
            old_path = None if old is None else change.old_path
            yield _Pair(old_path, change.path, old, new)


def _deleted(comparison: Comparison, change: Change, old: Version) -> Iterator[_Pair]:
    assert change.old_path is not None
    if not old.is_directory:
        yield _Pair(change.old_path, None, old, None)
        return
    for below, version in comparison.held(change):
        if not version.is_directory:
            yield _Pair(change.old_path + b"/" + below, None, version, None)


def _patch(pair: _Pair) -> FilePatch | None:
    """The patch of a file; None if a patch shows nothing of what differs."""
    old_mode, new_mode = _mode(pair.old), _mode(pair.new)
    path = pair.path if pair.path is not None else pair.old_path
    assert path is not None
    if (pair.old and old_mode is None) or (pair.new and new_mode is None):
        return FilePatch(
            old=pair.old_path, new=pair.path, text=b"Special file %b\n" % quoted(path), binary=True
        )
    sizes = (pair.old.size if pair.old else 0, pair.new.size if pair.new else 0)
    try:
        old = b"" if pair.old is None else _text(pair.old)
        new = old if pair.old is pair.new else b"" if pair.new is None else _text(pair.new)
    except OSError as error:
        if error.errno not in _UNREADABLE:
            raise
        old = new = None
    left = b"/dev/null" if pair.old_path is None else quoted(b"a/" + pair.old_path)
    right = b"/dev/null" if pair.path is None else quoted(b"b/" + pair.path)
    if pair.old is pair.new:  # renamed, and as it was
        header = _header(pair, old_mode, new_mode, 100)
        return FilePatch(old=pair.old_path, new=pair.path, text=header, sizes=sizes)
    if old is None or new is None:
        text = b"Binary files %b and %b differ\n" % (left, right)
        return FilePatch(old=pair.old_path, new=pair.path, text=text, binary=True, sizes=sizes)
    found = hunks(old, new)
    header = _header(pair, old_mode, new_mode, found.similarity)
    if not found.text and header.count(b"\n") == 1:
        return None
    if found.text or pair.old is None or pair.new is None:
        header += _index(pair, old, new, old_mode if old_mode == new_mode else None)
    if found.text:
        header += b"--- %b\n+++ %b\n" % (left, right)
    return FilePatch(
        old=pair.old_path,
        new=pair.path,
        text=header + found.text,
        added=found.added,
        removed=found.removed,
        sizes=sizes,
    )


def _header(pair: _Pair, old_mode: int | None, new_mode: int | None, similarity: int) -> bytes:
    """The lines before the hunks. `similarity`: in percent."""
    old_path = pair.old_path if pair.old_path is not None else pair.path
    path = pair.path if pair.path is not None else pair.old_path
    assert old_path is not None
    assert path is not None
    lines = [b"diff --git %b %b" % (quoted(b"a/" + old_path), quoted(b"b/" + path))]
    if old_mode is None:
        lines.append(b"new file mode %o" % (new_mode or 0))
    elif new_mode is None:
        lines.append(b"deleted file mode %o" % old_mode)
    else:
        if old_mode != new_mode:
            lines += [b"old mode %o" % old_mode, b"new mode %o" % new_mode]
        if old_path != path:
            lines.append(b"similarity index %d%%" % similarity)
            lines += [b"rename from " + quoted(old_path), b"rename to " + quoted(path)]
    return b"\n".join(lines) + b"\n"


def _index(pair: _Pair, old: bytes, new: bytes, mode: int | None) -> bytes:
    """The line with both sides' hashes and their mode.

    Without it, patch(1) does not change a symlink, and does not remove an empty file.
    """
    sides = (_hash(old) if pair.old else _NO_HASH, _hash(new) if pair.new else _NO_HASH)
    return b"index %b..%b%b\n" % (*sides, b" %o" % mode if mode else b"")


def _hash(text: bytes) -> bytes:
    """The start of what git calls a file that holds this."""
    return (
        hashlib.sha1(b"blob %d\0%b" % (len(text), text), usedforsecurity=False)
        .hexdigest()[:10]
        .encode()
    )


def _mode(version: Version | None) -> int | None:
    """The mode as git writes it; None for a file that it does not keep."""
    if version is None:
        return None
    if stat.S_ISLNK(version.mode):
        return _SYMLINK
    if not version.is_regular:
        return None
    return _EXECUTABLE if version.mode & stat.S_IXUSR else _REGULAR


def _text(version: Version) -> bytes | None:
    """What a file holds, or where a symlink leads; None for binary data."""
    if stat.S_ISLNK(version.mode):
        return version.readlink()
    if version.size > _LARGEST:
        return None
    with open(version.open(), "rb") as file:
        text = file.read(_BINARY_PROBE)
        if b"\0" in text:
            return None
        text += file.read(_LARGEST)
    return text


def quoted(name: bytes) -> bytes:
    """A name as git writes it: in quotes, with escapes, if a byte of it is no printable ASCII character.

    One with a space is quoted as well, without which patch(1) does not find it in a header without hunks.
    """
    if all(0x20 < byte < 0x7F and byte not in b'"\\' for byte in name):
        return name
    return b'"' + b"".join(_ESCAPES.get(byte) or _escaped(byte) for byte in name) + b'"'


def _escaped(byte: int) -> bytes:
    return bytes((byte,)) if 0x20 <= byte < 0x7F else b"\\%03o" % byte
