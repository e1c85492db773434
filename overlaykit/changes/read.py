"""From an upper and its lowers to changes, in time proportional to what the upper holds.

Two sides are walked together, a directory at a time. What both show from the same directory on disk is the same, so
only the names in the other layers are looked up: of a view and its lowers these are the names in the upper, with those
that its whiteouts hide. Two views of the same lowers differ in the names of their uppers.

The walk finds pairs: what each side has under a path. Renames are known at its end, when each file that has gone has
been met. Then each pair becomes a change, in the order of paths, and contents are read only there.
"""

from __future__ import annotations

import errno
import os
import stat
from itertools import repeat

from overlaykit import handles
from overlaykit.changes.contents import same_contents
from overlaykit.changes.in_both import (
    DATA,
    SIZE,
    TAKEN,
    TOUCHED,
    UNUSUAL,
    Frame,
    Helper,
    InBoth,
    Look,
    Rewritten,
)
from overlaykit.changes.model import STATE, Change, Version
from overlaykit.changes.paths import join, parent
from overlaykit.changes.sides import Side, layers_of, names_that_differ, shown_xattrs
from overlaykit.inodes import mode_without_acl
from overlaykit.overlay.descriptors import Descriptors, shares
from overlaykit.overlay.markers import ACCESS_ACL, ACLS
from overlaykit.overlay.merge import Found
from overlaykit.progress import counted
from overlaykit.scope import ExitStack, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Final, Self

    from overlaykit.changes.folding import Folding, Inside
    from overlaykit.changes.in_both import Codes
    from overlaykit.changes.model import Aspect
    from overlaykit.overlay.merge import Looked
    from overlaykit.overlay.nodes import Directory
    from overlaykit.overlay.opened import OpenedLayer

_GONE: Final = (errno.ENOENT, errno.ESTALE, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
"""What a file says that was removed or replaced since it was listed."""

_OF_ITS_MAKER: Final[frozenset[Aspect]] = frozenset(("owner", "times"))
"""What the root of an upper has of the one who made it; only the mode is copied from the lower's."""

_MANY: Final = 4000
"""Pairs from which on a second process saves more than its start takes."""

_WHAT: Final[dict[int, frozenset[Aspect]]] = {
    0: frozenset(),
    TOUCHED: frozenset(("times",)),
    DATA: frozenset(("content",)),
    DATA | TOUCHED: frozenset(("content", "times")),
    DATA | SIZE: frozenset(("content", "size")),
    DATA | SIZE | TOUCHED: frozenset(("content", "size", "times")),
}
"""What of a file in both differs, by what was seen of it."""


class _Pair:
    """What both sides have under one path. `moved`: the old one had another name. `link`, `inside`: see `Change`."""

    __slots__ = ("inside", "link", "moved", "new", "old", "old_path", "opaque", "path")

    def __init__(
        self,
        path: bytes,
        old_path: bytes | None,
        old: Version | None,
        new: Version | None,
        *,
        moved: bool = False,
        opaque: bool = False,
    ) -> None:
        self.path = path
        self.old_path = old_path
        self.old = old
        self.new = new
        self.moved = moved
        self.opaque = opaque
        self.link: bytes | None = None
        self.inside: Inside | None = None


class Comparison:
    """What differs between two sides: `old` and `new`. Owns the descriptors of their layers.

    It reads; nothing that it calls writes. While `changes` runs, both may change.
    """

    def __init__(self, old: Side, new: Side, descriptors: Descriptors) -> None:
        self.old = old
        self.new = new
        self.above = b""
        """Of `of_upper`: what comes before each path in the layers."""
        self._descriptors = descriptors
        self._closing = ExitStack()
        self._closing.callback(old.close)
        self._closing.callback(new.close)
        self._folding: Folding | None = None
        self._moved: set[bytes | None] = set()
        """The old paths of what was renamed, once `changes` has found them."""
        self._groups: dict[bytes, int | None] = {}
        """As `_group_in`, by directories."""

    @classmethod
    def of_upper(
        cls, upper: OpenedLayer, lowers: Sequence[OpenedLayer], within: bytes = b""
    ) -> Self:
        """What an upper changes of its lowers, top first. Takes the descriptors over. Raises: OSError.

        Of lowers that are frozen, what these and the upper change together of the others.
        `within`: a directory of both, the root of all paths; what was renamed from elsewhere is new there.
        """
        descriptors = Descriptors(shares().directories)
        layers, markers, recorded = layers_of(upper, lowers, descriptors)
        comparison = cls(
            Side([one for one in layers if not one.of_view], markers, recorded),
            Side(layers, markers, recorded),
            descriptors,
        )
        for layer in layers:
            comparison._closing.callback(layer.close)
        comparison.above = within + b"/" if within else b""
        if within:
            try:
                comparison.old.enter(within)
                comparison.new.enter(within)
            except BaseException:
                comparison.close()
                raise
        return comparison

    @classmethod
    def of_stacks(
        cls,
        old: tuple[OpenedLayer | None, Sequence[OpenedLayer]],
        new: tuple[OpenedLayer | None, Sequence[OpenedLayer]],
    ) -> Self:
        """What differs between two stacks, each an upper or None, and lowers. As `of_upper`."""
        descriptors = Descriptors(shares().directories)
        both = [layers_of(upper, lowers, descriptors) for upper, lowers in (old, new)]
        comparison = cls(Side(*both[0]), Side(*both[1]), descriptors)
        for layer in (*both[0][0], *both[1][0]):
            comparison._closing.callback(layer.close)
        return comparison

    def close(self) -> None:
        """Close all descriptors. The versions of its changes can no longer be read."""
        self._descriptors.close()
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def changes(
        self,
        beneath: bytes = b"",
        *,
        times: bool = False,
        folding: Folding | None = None,
        helper: bool = False,
    ) -> Iterator[Change]:
        """The changes of the path `beneath` and of all below it, sorted by the names on their paths.

        A directory comes before what is in it, a deletion before a file that is renamed to its path.
        `times`: also files of which nothing but the modification time differs. `folding`: which new directories are one
        change with all that they hold. `helper`: if there are many, a child may help. Raises: OSError.
        """
        self._folding = folding
        pairs = self._with_renames(list(counted(self._pairs(), "comparing files")))
        if beneath:
            pairs = [one for pair in pairs if (one := self._within(pair, beneath)) is not None]
        shown = DATA | TOUCHED if times else DATA
        look = Look((self.old.markers, self.new.markers)).at
        with ExitStack() as closing:
            codes: Codes = bytearray()
            if helper and len(pairs) > _MANY and len(os.sched_getaffinity(0)) > 1:
                with suppress(OSError):
                    codes = closing.enter_context(Helper(pairs, self._trimmed(look))).codes
            codes = codes or bytearray(len(pairs))
            pairs.reverse()
            frame = None
            for index in range(len(pairs)):
                pair = pairs.pop()  # what was shown may go
                if isinstance(pair, _Pair):
                    self._descriptors.trim()
                    change = self._change(pair)
                    if change is not None and (times or not change.is_touch):
                        yield change
                    continue
                if pair.frame is not frame:
                    self._descriptors.trim()
                    frame = pair.frame
                code = codes[index]
                if not code:
                    codes[index] = TAKEN
                    code = look(pair)
                if code & UNUSUAL:
                    change = self._change_of_found(pair)
                    if change is not None and (times or not change.is_touch):
                        yield change
                    continue
                if code & shown:
                    yield Rewritten(pair, code, _WHAT[code & (DATA | SIZE | TOUCHED)])

    def _trimmed(self, look: Callable[[InBoth], int]) -> Callable[[InBoth], int]:
        def trimmed(pair: InBoth) -> int:
            self._descriptors.trim()
            return look(pair)

        return trimmed

    def has(self, path: bytes) -> bool:
        """Whether a side has something at a path. Raises: OSError."""
        return any(not side.is_empty and side.at(path) is not None for side in (self.old, self.new))

    def held(self, change: Change) -> Iterator[tuple[bytes, Version]]:
        """What a deleted, replaced or renamed directory held, but for what has another name now.

        Returns: paths below its own, and files, sorted. Raises: OSError.
        """
        assert change.old_path is not None
        found = self.old.at(change.old_path)
        if found is None or not found[2].is_directory:
            return
        directory = self.old.child(*found)
        for below, version in self._all_below(self.old, directory, change.old_path, self._moved):
            yield below[len(change.old_path) + 1 :], version

    def count_held(self, change: Change) -> tuple[int, int]:
        """As `held`: how many files, and how many directories. Files are listed only. Raises: OSError."""
        assert change.old_path is not None
        found = self.old.at(change.old_path)
        pending = []
        if found is not None and found[2].is_directory:
            pending.append((self.old.child(*found), change.old_path))
        files = directories = 0
        while pending:
            directory, path = pending.pop()
            self._descriptors.trim()
            for name, kind, *_ in self.old.merge.entries(directory):
                below = join(path, name)
                if below in self._moved:
                    continue
                if kind != stat.S_IFDIR:
                    files += 1
                elif (entry := self.old.find(directory, name)) is not None:
                    directories += 1
                    pending.append((self.old.child(directory, name, entry), below))
        return files, directories

    def held_by_new(self, path: bytes) -> Iterator[tuple[bytes, Version]]:
        """What the new side has in a directory, also what does not differ: as `held`. Raises: OSError."""
        found = self.new.at(path)
        if found is not None and found[2].is_directory:
            yield from self._all_below(self.new, self.new.child(*found), b"", set())

    def held_by_old(self) -> Iterator[tuple[bytes, Version]]:
        """All that the old side has, however much it is: as `held`. Raises: OSError."""
        yield from self._all_below(self.old, self.old.root, b"", set())

    def trim(self) -> None:
        """Close descriptors beyond the limit; between two uses of versions."""
        self._descriptors.trim()

    def xattrs(self, version: Version, *, of_new: bool) -> dict[bytes, bytes]:
        """All attributes of a file as programs see them. Raises: OSError."""
        return shown_xattrs(version, (self.new if of_new else self.old).markers)

    # The walk

    def _pairs(self) -> Iterator[_Pair | InBoth]:
        old_root = None if self.old.is_empty else self.old.root
        new_root = None if self.new.is_empty else self.new.root
        yield _Pair(
            b"",
            b"",
            None if old_root is None else self.old.version_of_root(),
            None if new_root is None else self.new.version_of_root(),
        )
        make = tuple.__new__  # of a named tuple, without a call of Python's
        frames = [self._frame(old_root, new_root, b"", b"")]
        while frames:
            frame = frames[-1]
            names, are_usual = frame.names, frame.tops is not None
            below = None
            while names and below is None:
                name, old, new = names.pop()
                if (
                    are_usual
                    and old
                    and new
                    # By position, as there are many: mode, inode, device, nlink, uid, gid.
                    and (mode := old[0]) == new[0]
                    and (one_name := old[3:6]) == new[3:6]
                    and one_name[0] == 1
                    and stat.S_ISREG(mode)
                ):
                    yield make(InBoth, (frame, name, old, new))
                    continue
                self._descriptors.trim()
                try:
                    pairs, below = self._look_at(frame, name, old, new)
                except OSError as error:
                    if error.errno not in _GONE:
                        raise _named(error, frame.above + name) from None
                    continue
                yield from pairs
            if below is not None:
                frames.append(below)
            else:
                frames.pop()

    def _frame(
        self, old: Directory | None, new: Directory | None, old_path: bytes | None, path: bytes
    ) -> Frame:
        merges = (self.old.merge, self.new.merge)
        names = sorted(names_that_differ(old, new, merges) - {STATE}, reverse=True)
        before, after = (
            repeat(None, len(names)) if one is None else side.merge.find_files(one, names)
            for one, side in ((old, self.old), (new, self.new))
        )
        above_old = old_path + b"/" if old_path else old_path
        above = path + b"/" if path else path
        tops = None
        if old is not None and new is not None and not self.new.groups:
            tops = old.top, new.top
            if tops[0].layer.override is not None or tops[1].layer.override is not None:
                tops = None
        looked = list(zip(names, before, after, strict=True))
        return Frame(old, new, above_old, above, looked, tops)

    def _look_at(
        self, frame: Frame, name: bytes, looked_old: Looked, looked_new: Looked
    ) -> tuple[Sequence[_Pair], Frame | None]:
        """What both sides have under a name, and the directory to walk next."""
        in_old, in_new, above_old, above, *_ = frame
        old = _found(self.old, in_old, name, looked_old)
        new = _found(self.new, in_new, name, looked_new)
        path = above + name
        before = old_path = None
        if old is not None:
            assert in_old is not None
            before = self.old.version(in_old, name, old)
            # Most have one path: the same object, as there may be many.
            old_path = (
                path if above_old == above else None if above_old is None else above_old + name
            )
        if new is None:
            return (() if before is None else (_Pair(path, old_path, before, None),)), None
        assert in_new is not None
        after = self.new.version(in_new, name, new)
        if not stat.S_ISDIR(new.stat.st_mode):
            moved = None
            if old is None and after.data is not None and after.layer_dir.layer.writable:
                moved = self.new.file_moved_from(in_new, new)
            if moved is not None:
                return [_Pair(path, moved, None, after, moved=True)], None
            return (_Pair(path, old_path, before, after),), None
        directory = self.new.child(in_new, name, new)
        source = self.new.source(directory)
        if source is not None and source != old_path:
            found = self._same_directory(source, directory)
            if found is not None:
                gone = [] if before is None else [_Pair(path, old_path, before, None)]
                version = self.old.version(*found)
                moved_pair = _Pair(path, source, version, after, moved=True)
                below = self._frame(self.old.child(*found), directory, source, path)
                return [*gone, moved_pair], below
        if old is None or not old.is_directory:
            pair = _Pair(path, old_path, before, after)
            # In a directory that gives them a group, each file has to get it.
            folding = self._folding if self._group_in(parent(path)) is None else None
            if folding is not None and old is None and not new.lowers and not new.redirect:
                place = None if above_old is None else above_old + name
                pair.inside = folding.inside(path, place, after, self.above + path)
                if pair.inside is not None:
                    return (pair,), None
            return (pair,), self._frame(None, directory, None, path)
        assert in_old is not None
        opaque = new.layer_dir.layer.of_view and not self.new.below(new.lowers)
        below = self._frame(self.old.child(in_old, name, old), directory, old_path, path)
        return [_Pair(path, old_path, before, after, opaque=opaque)], below

    def _same_directory(
        self, path: bytes, moved: Directory
    ) -> tuple[Directory, bytes, Found] | None:
        """What the old side has at a path, if it is the directory that a renamed one shows."""
        found = self.old.at(path)
        before = () if found is None else self.old.below(found[2].lowers)
        after = self.new.below(moved.lowers)
        if found is None or not before or not after:
            return None
        ours, theirs = before[0].stat(), after[0].stat()
        return found if os.path.samestat(ours, theirs) else None

    def _all_below(
        self, side: Side, top: Directory, above: bytes, besides: set[bytes | None]
    ) -> Iterator[tuple[bytes, Version]]:
        """The paths and the files in a directory, whose path is `above`, but for the paths `besides`."""
        pending = [(top, above, sorted(side.merge.entries(top), reverse=True, key=_name))]
        while pending:
            directory, path, entries = pending[-1]
            if not entries:
                pending.pop()
                continue
            self._descriptors.trim()
            name = entries.pop()[0]
            found = side.find(directory, name)
            below = join(path, name)
            if found is None or below in besides:
                continue
            yield below, side.version(directory, name, found)
            if found.is_directory:
                child = side.child(directory, name, found)
                inside = sorted(side.merge.entries(child), reverse=True, key=_name)
                pending.append((child, below, inside))

    # From pairs to changes

    def _with_renames(self, every: list[_Pair | InBoth]) -> list[_Pair | InBoth]:
        """The pairs with files that were renamed in one, and names of the same file linked."""
        pairs = [pair for pair in every if isinstance(pair, _Pair)]
        gone = {
            pair.path: pair for pair in pairs if pair.new is None and pair.path == pair.old_path
        }
        claimed: set[bytes | None] = set()
        for pair in pairs:
            if pair.moved and pair.old is not None:
                claimed.add(pair.old_path)
        for pair in pairs:
            if pair.moved and pair.old is None:
                assert pair.old_path is not None
                self._pair_with(pair, self._gone_at(pair.old_path, gone), claimed)
        self._find_by_origin(pairs, gone, claimed)
        _link(pairs)
        self._moved = claimed
        return [pair for pair in every if pair.new is not None or pair.old_path not in claimed]

    def _gone_at(self, path: bytes, gone: Mapping[bytes, _Pair]) -> Version | None:
        """The file that the old side had at a path, if the new side has it no more: it, or a directory above it."""
        names = path.split(b"/")
        if not any(b"/".join(names[:depth]) in gone for depth in range(1, len(names) + 1)):
            return None
        found = self.old.at(path)
        return None if found is None or found[2].is_directory else self.old.version(*found)

    def _pair_with(self, pair: _Pair, old: Version | None, claimed: set[bytes | None]) -> None:
        """Make a pair one of a renamed file, or of an added one if its old name is still there or taken."""
        if old is None or pair.old_path in claimed:
            pair.old_path, pair.moved = None, False
        else:
            pair.old = old
            claimed.add(pair.old_path)

    def _find_by_origin(
        self, pairs: list[_Pair], gone: Mapping[bytes, _Pair], claimed: set[bytes | None]
    ) -> None:
        """Find out which added files were copied from ones that are gone: the origin is the handle of the inode."""
        files = [pair for pair in gone.values() if pair.old and not pair.old.is_directory]
        if not files:
            return
        sources: dict[tuple[int, bytes], _Pair] | None = None
        for pair in pairs:
            version = pair.new
            if pair.old is not None or version is None or version.is_directory:
                continue
            if not version.layer_dir.layer.of_view:
                continue
            try:
                if not self.new.markers.has_origin(version.attribute_names()):
                    continue
                origin = self.new.origin(version)
            except OSError:
                continue
            if origin is None:
                continue
            if sources is None:
                sources = {}
                for file in files:
                    if (handle := _handle(file.old)) is not None:
                        sources[handle] = file
            source = sources.get((origin.type, origin.handle))
            if source is None or source.old_path in claimed or source.old is None:
                continue
            if source.old.type == version.type:
                pair.old, pair.old_path, pair.moved = source.old, source.old_path, True
                claimed.add(source.old_path)

    def _within(self, pair: _Pair | InBoth, beneath: bytes) -> _Pair | InBoth | None:
        """The pair if it is of `beneath` or below; of a directory that is gone above it, what that held there."""
        if pair.path == beneath or pair.path.startswith(beneath + b"/"):
            return pair
        was = pair.old_path
        if pair.new is None and was is not None and beneath.startswith(pair.path + b"/"):
            inner = was + beneath[len(pair.path) :]
            found = self.old.at(inner)
            if found is not None:
                return _Pair(beneath, inner, self.old.version(*found), None)
        return None

    def _change_of_found(self, pair: InBoth) -> Change | None:
        frame, name, old, new = pair
        assert frame.tops is not None
        assert frame.old is not None
        assert frame.new is not None
        try:
            before = self.old.version(frame.old, name, Found(frame.tops[0], name, old))
            after = self.new.version(frame.new, name, Found(frame.tops[1], name, new))
        except OSError as error:
            if error.errno not in _GONE:
                raise _named(error, pair.path) from None
            return None
        return self._change(_Pair(pair.path, pair.old_path, before, after))

    def _change(self, pair: _Pair) -> Change | None:
        """The change of a pair; None if nothing differs, or it has gone since."""
        old, new = pair.old, pair.new
        if new is None:
            return Change(path=pair.path, kind="deleted", old_path=pair.old_path, old=old)
        if self.new.groups:
            new = self._with_group(pair.path, old, new)
        try:
            if old is None or stat.S_IFMT(old.mode) != stat.S_IFMT(new.mode):
                return Change(
                    path=pair.path,
                    kind="added" if old is None else "replaced",
                    old_path=pair.old_path,
                    old=old,
                    new=new,
                    link=pair.link,
                    xattrs=self.xattrs(new, of_new=True),
                    inside=pair.inside,
                )
            what = _data_aspects(old, new)  # first: open files tell their attributes fastest
            before = shown_xattrs(old, self.old.markers)
            after = shown_xattrs(new, self.new.markers)
            kept: dict[bytes, bytes] = {}
            xattrs: dict[bytes, bytes | None] = {}
            if before != after:
                kept = self.new.lost_acls(before, new, after)
                new = _with_mode_of(old, new, kept)
                xattrs = _differing(before, {**after, **kept})
            what |= self._metadata_aspects(old, new, xattrs)
        except OSError as error:
            if error.errno not in _GONE:
                raise _named(error, pair.path) from None
            return None
        if pair.link is not None:
            what.add("links")
        if not pair.path:
            what -= _OF_ITS_MAKER
        if not what and not pair.moved:
            return None
        return Change(
            path=pair.path,
            kind="renamed" if pair.moved else "changed",
            old_path=pair.old_path,
            old=old,
            new=new,
            what=frozenset(what),
            opaque=pair.opaque,
            link=pair.link,
            xattrs=xattrs,
            kept=kept,
        )

    def _with_group(self, path: bytes, old: Version | None, new: Version) -> Version:
        """The new version with the group that it would have on the host: its own, or the directory's for a new file.

        An ordinary user's upper cannot hold supplementary groups, which this user can give a file to.
        """
        wanted = self._group_in(parent(path)) if old is None else old.gid
        gid = new.gid if wanted is None else self.new.group_for(new, wanted)
        return new if gid == new.gid else new.with_group(gid)

    def _group_in(self, path: bytes) -> int | None:
        """The supplementary group that new files in a directory get (S_ISGID of inode(7)); None: there is none."""
        if not self.new.groups:
            return None
        if path not in self._groups:
            entry = self.new.at(path) if path else None
            found = None if entry is None else entry[2]
            lowers = self.new.root.lowers if not path else () if found is None else found.lowers
            lowers = tuple(self.new.below(lowers))
            group = None
            if lowers:
                st = lowers[0].stat()
                group = st.st_gid if st.st_mode & stat.S_ISGID else None
            elif found is not None and found.stat.st_mode & stat.S_ISGID:
                group = self._group_in(parent(path))
            self._groups[path] = group if group in self.new.groups else None
        return self._groups[path]

    def _metadata_aspects(
        self, old: Version, new: Version, xattrs: Mapping[bytes, bytes | None]
    ) -> set[Aspect]:
        what: set[Aspect] = set()
        was, now = old.stat, new.stat
        if old.mode != new.mode:
            what.add("mode")
        is_given = old.uid != new.uid or old.gid != new.gid
        if is_given and self.new.has_other_owner(old, new):
            what.add("owner")
        if was.st_mtime_ns != now.st_mtime_ns:
            what.add("times")
        if was.st_rdev != now.st_rdev and old.device != new.device:
            what.add("device")
        if xattrs:
            if xattrs.keys() & set(ACLS):
                what.add("acl")
            if xattrs.keys() - set(ACLS):
                what.add("xattrs")
        return what


def _found(side: Side, directory: Directory | None, name: bytes, looked: Looked) -> Found | None:
    """What is under a name, of which something may be known. Raises: OSError."""
    if directory is None or looked is False:
        return None
    return side.find(directory, name) if looked is None else Found(directory.top, name, looked)


def _data_aspects(old: Version, new: Version) -> set[Aspect]:
    if stat.S_ISREG(new.mode):
        if old.stat.st_size != new.stat.st_size:
            return {"size", "content"}
        return set() if same_contents(old, new) else {"content"}
    if stat.S_ISLNK(new.mode) and old.readlink() != new.readlink():
        return {"content"}
    return set()


def _differing(
    before: Mapping[bytes, bytes], after: Mapping[bytes, bytes]
) -> dict[bytes, bytes | None]:
    """The attributes that were set, removed or changed."""
    return {
        name: after.get(name)
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    }


def _with_mode_of(old: Version, new: Version, kept: Mapping[bytes, bytes]) -> Version:
    """The new version with the mode of the old one, if the copy has less only because it lacks the ACL."""
    lost = kept.get(ACCESS_ACL)
    if lost is None or new.mode != mode_without_acl(old.mode, lost):
        return new
    return new.with_mode(old.mode)


def _named(error: OSError, path: bytes) -> OSError:
    """The error with the path in the view: an ordinary user may not read what a mode of the user's own forbids."""
    return OSError(error.errno, error.strerror, "/" + os.fsdecode(path))


def _handle(version: Version | None) -> tuple[int, bytes] | None:
    """The handle of an inode, which origins hold; None where its file system has none."""
    if version is None:
        return None
    try:
        found = handles.of_name(version.layer_dir.fd(), version.name)
    except OSError:
        return None
    return found.type, found.handle


def _link(pairs: list[_Pair]) -> None:
    """Note which pairs are further names of one file. The first is one that the old side has, if there is one."""
    names: dict[tuple[int, int], list[_Pair]] = {}
    for pair in pairs:
        version = pair.new
        if version is not None and not version.is_directory and version.stat.st_nlink > 1:
            names.setdefault(version.inode, []).append(pair)
    for same in names.values():
        first = next((pair for pair in same if pair.old is not None), same[0])
        was = None if first.old is None else first.old.inode
        for pair in same:
            if pair is not first and (pair.old is None or pair.old.inode != was):
                pair.link = first.path


def _name(entry: tuple[bytes, int, object, int]) -> bytes:
    return entry[0]
