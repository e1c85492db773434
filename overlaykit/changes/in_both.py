"""Regular files that both sides have, with one mode and one owner: of those that were changed, almost all.

Only their data, times and attributes may differ. This is found in few calls a file, before any object of `model` is
made, and by two processes at once if there are many (`Helper`).
"""

from __future__ import annotations

import os

from overlaykit import attributes
from overlaykit.changes.contents import BLOCK, same_data
from overlaykit.changes.model import Change, Version
from overlaykit.lean import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from mmap import mmap
    from typing import Final, NoReturn, Self, TypeAlias

    from overlaykit.changes.model import Aspect
    from overlaykit.overlay.layer import LayerDir
    from overlaykit.overlay.markers import Markers
    from overlaykit.overlay.merge import Looked
    from overlaykit.overlay.nodes import Directory

    Codes: TypeAlias = mmap | bytearray
    """Of each pair of a list: `SEEN` and what else was seen of it, `TAKEN`: a process is at it, or 0."""

TOUCHED: Final = 1
"""The modification times differ."""
DATA: Final = 2
"""The data differ."""
SIZE: Final = 4
BARE: Final = 8
"""Neither has attributes, not even markers."""
UNUSUAL: Final = 16
"""More is to be looked at."""
TAKEN: Final = 32
SEEN: Final = 64

_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOATIME
_PARENT_DIED: Final = 9
"""The signal for the child."""


class Frame(NamedTuple):
    """A directory that is being walked: both sides, what comes before the names in their paths, the names left, last
    first, with what both sides have under them as far as it is known.

    `tops`: the topmost layer's directory of both sides; None: what is in it takes more than their entries to know.
    """

    old: Directory | None
    new: Directory | None
    above_old: bytes | None
    above: bytes
    names: list[tuple[bytes, Looked, Looked]]
    tops: tuple[LayerDir, LayerDir] | None


class InBoth(NamedTuple):
    """A regular file with one name on each side; `old` and `new` differ neither in mode nor in owner."""

    frame: Frame
    name: bytes
    old: os.stat_result
    new: os.stat_result

    @property
    def path(self) -> bytes:
        return self.frame.above + self.name

    @property
    def old_path(self) -> bytes | None:
        """Where the old side has it: in a directory that was renamed, another path."""
        above = self.frame.above_old
        return None if above is None else above + self.name


class Rewritten(Change):
    """The change of such a pair. Its versions are made when they are asked for: a list shows none."""

    __slots__ = ("_code", "_pair")

    def __init__(self, pair: InBoth, code: int, what: frozenset[Aspect]) -> None:
        self.path = pair[0][3] + pair[1]
        self.kind = "changed"
        self.what = what
        self._pair = pair
        self._code = code

    def __getattr__(self, name: str) -> object:
        if name not in ("old", "new"):
            self._fill()
            return getattr(self, name)
        frame, held_as, old, new = self._pair
        assert frame.tops is not None
        top, st = (frame.tops[0], old) if name == "old" else (frame.tops[1], new)
        names: list[bytes] | None = [] if self._code & BARE else None
        made = Version(top, held_as, st, st.st_mode, st.st_uid, st.st_gid, attributes=names)
        setattr(self, name, made)
        return made

    def _fill(self) -> None:
        """Set the other fields."""
        pair = self._pair
        same = pair.frame.above == pair.frame.above_old
        self.old_path = self.path if same else pair.old_path
        self.opaque, self.link, self.xattrs, self.kept, self.inside = False, None, {}, {}, None


class Look:
    """Looks at the files of pairs. `unseen`: the sets of attributes seen that say nothing to programs nor of data."""

    def __init__(self, markers: tuple[Markers, Markers]) -> None:
        self._markers = markers
        self._unseen: dict[tuple[str, ...], bool] = {(): True}

    def at(self, pair: InBoth) -> int:
        """What differs: `SEEN` with what was seen. A file that cannot be opened, or has gone, is `UNUSUAL`."""
        frame, name, old, new = pair
        tops, size = frame.tops, old.st_size
        assert tops is not None
        try:
            code = SEEN if old.st_mtime_ns == new.st_mtime_ns else SEEN | TOUCHED
            if size != new.st_size:
                return code | DATA | SIZE | self._by_names(tops, name)
            left = os.open(name, _FLAGS, dir_fd=tops[0].fd())
            try:
                right = os.open(name, _FLAGS, dir_fd=tops[1].fd())
                try:
                    before, after = os.listxattr(left), os.listxattr(right)
                    if not before and not after:
                        code |= BARE
                    elif not (self._is_unseen(before) and self._is_unseen(after)):
                        return SEEN | UNUSUAL
                    # A byte more tells one that has grown. A whole block would be mapped and unmapped each time.
                    if size <= BLOCK:
                        same = os.read(left, size + 1) == os.read(right, size + 1)
                    else:
                        same = same_data(left, right, size)
                    return code if same else code | DATA
                finally:
                    os.close(right)
            finally:
                os.close(left)
        except OSError:
            return SEEN | UNUSUAL

    def _by_names(self, tops: tuple[LayerDir, LayerDir], name: bytes) -> int:
        """`BARE`, `UNUSUAL` or neither, of files that are not opened. Raises: OSError."""
        code = BARE
        for top in tops:
            names = attributes.xattr_names_at(top.fd(), name)
            if names:
                code = 0
                if not self._is_unseen([os.fsdecode(one) for one in names]):
                    return UNUSUAL
        return code

    def _is_unseen(self, names: Sequence[str]) -> bool:
        key = tuple(names)
        found = self._unseen.get(key)
        if found is None:
            raw = [os.fsencode(name) for name in names]
            found = self._unseen[key] = all(
                all(map(markers.is_marker, raw)) and not markers.has_metacopy(raw)
                for markers in self._markers
            )
        return found


class Helper:
    """A child that looks at the files of a list from its end, while this process does so from its start.

    The codes are memory of both. Neither waits for the other: a file that both take at once is looked at twice. If the
    child ends early, this process does the rest.
    """

    def __init__(self, pairs: Sequence[object], look: Callable[[InBoth], int]) -> None:
        """Raises: OSError: there is no memory, or no process to be had."""
        from mmap import mmap

        self.codes = mmap(-1, len(pairs))
        above = os.getpid()
        self.child = os.fork()
        if self.child == 0:
            self._run(pairs, look, above)

    def _run(self, pairs: Sequence[object], look: Callable[[InBoth], int], above: int) -> NoReturn:
        try:
            from overlaykit import _native

            _native.prctl(_native.PR_SET_PDEATHSIG, _PARENT_DIED)
            if os.getppid() == above:
                look_backwards(pairs, look, self.codes)
        finally:
            os._exit(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self.child, _PARENT_DIED)
        os.waitpid(self.child, 0)
        self.codes.close()


def look_backwards(pairs: Sequence[object], look: Callable[[InBoth], int], codes: Codes) -> None:
    """Look at files from the last one on, down to where another process is."""
    for index in range(len(pairs) - 1, -1, -1):
        pair = pairs[index]
        if isinstance(pair, InBoth):
            if codes[index]:
                return
            codes[index] = look(pair)
