"""The plan of an application: which changes are written, which conflict with the target, in which order the rest goes.

Nothing is written here. A path of the view means a path of the target through the renames: a directory that the view
shows under another name is found under its old one until its turn comes.

The order works for any set of changes, also for names that are swapped: first everything that leaves its name goes
aside, the deepest first, then everything that is new or renamed is put in place, directories before what they hold.
"""

from __future__ import annotations

import functools
import os
import stat
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from overlaykit import _native, attributes, handles, mountinfo
from overlaykit.changes.contents import same_contents
from overlaykit.changes.merging import Merger, NotMerged
from overlaykit.changes.model import Change, Version
from overlaykit.changes.steps import Seen, digest_of
from overlaykit.errors import Error
from overlaykit.overlay.began import Began, latest
from overlaykit.overlay.markers import OVERLAY_PREFIXES, origin_link_count, xattr_names
from overlaykit.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Mapping, Sequence

    from overlaykit.changes.merging import Text
    from overlaykit.changes.read import Comparison
    from overlaykit.changes.steps import Places

Choice = Literal["", "theirs", "ours"]
"""What to do where the target has changed, too. `theirs`: write what the view has. `ours`: keep what the target has.
Empty: write nothing at all."""


LeftElsewhere: TypeAlias = "Callable[[], Container[int]]"


class NotAChange(Error):
    message = "{0}: the view has changed nothing there: 'overlaykit diff' lists what it has changed"


class InDeleted(Error):
    message = "{0}: the view has deleted the directory {1}: name that one, or a directory above"


class OnOtherFileSystem(Error):
    message = "{0}: a file system is mounted there, which stays: unmount it first, or apply other paths alone"


class Conflict(Record, kw_only=True):
    """A path of the target that is not what the view began with. `reason`: what happened to it.

    `can_merge`: both are texts whose changes do not touch each other.
    """

    path: str
    reason: str
    can_merge: bool = False


@dataclass(frozen=True, slots=True)
class Departure:
    """What leaves its name: it was deleted, or goes to another name. `seen`: what it was when it was checked."""

    path: bytes
    change: Change
    seen: Seen


@dataclass(slots=True)
class Arrival:
    """What is put under a path of the view. `displaced`: what is there until then.

    `moved_from`: the old path of what is only renamed. `linked_to`: that of a file of which it is a name. Else it is
    the change's new file, or `merged`, what that and the target's make together.
    """

    change: Change
    displaced: Seen | None
    moved_from: bytes | None = None
    linked_to: bytes | None = None
    merged: Text | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """A directory of the target that stays, and gets other names in it, or other metadata.

    `path`: its path in the view; `old_path`: in the target before. `change`: of its metadata, if there is one.
    """

    path: bytes
    old_path: bytes
    stat: os.stat_result
    change: Change | None


@dataclass(slots=True)
class Plan:
    """What to do. `changes`: those that are written, by their paths. `skipped`: those where the target's file stays."""

    changes: list[Change]
    departures: list[Departure]
    arrivals: list[Arrival]
    kept: list[Kept]
    opened: dict[bytes, os.stat_result]
    """Directories of the target that move, by their old paths."""
    conflicts: list[Conflict]
    skipped: list[Conflict]
    merged: list[Conflict]
    """Files of which both have changed the text, and that get both changes."""
    choice: Choice

    @property
    def is_empty(self) -> bool:
        return not (self.departures or self.arrivals or self.kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What the target was when the view began.

    `is_lower`: the target is the lower itself: a file has changed if its change time is not the one that its copy in
    the upper has recorded, or, without a record, if that is later than `began` says. Otherwise the target is a copy of
    the lowers, and each file is compared with theirs.
    `root`: what the target itself was before the state directory was made in it.
    `written`: inode numbers, and the time until when overlaykit itself wrote them.
    `left_elsewhere`: the inode numbers of what has left its name outside of the target.
    `originals`: the directory that may hold what files of the lower were. `merges`: texts are merged from these.
    """

    root: os.stat_result
    is_lower: bool
    began: Began
    written: Mapping[int, int]
    left_elsewhere: LeftElsewhere = frozenset
    originals: str
    merges: bool


def plan(
    comparison: Comparison,
    places: Places,
    base: Base,
    paths: Sequence[bytes],
    choice: Choice,
    without: Sequence[bytes] = (),
) -> Plan:
    """Plan what to write, and find all conflicts. Raises: OSError, Error.

    `without`: paths that are left out, with what is below them. With the choice `ours` or `theirs` the plan's conflicts
    are those that were decided so.
    """
    all_changes = list(comparison.changes(times=True))
    changed_inodes = {one.old.stat.st_ino for one in all_changes if one.old is not None}
    changes = _selected(all_changes, paths)
    changes = _without(changes, {(path, True, False) for path in without})
    skipped: dict[bytes, Conflict] = {}
    while True:
        planner = _Planner(comparison, places, base, changes, changed_inodes)
        made = planner.make(paths)
        made.skipped = list(skipped.values())
        made.choice = choice
        drop = planner.agreed
        if choice == "ours":
            skipped |= planner.conflicts
            drop = drop | {
                (path, path not in planner.mergeable, False) for path in planner.conflicts
            }
        if not drop:
            return made
        changes = _without(changes, drop)
        comparison.trim()


def _selected(changes: list[Change], paths: Sequence[bytes]) -> list[Change]:
    if not paths:
        return changes
    chosen: set[int] = set()
    for path in paths:
        found = False
        for index, change in enumerate(changes):
            if _is_below(change.path, path) or (
                change.kind == "renamed"
                and change.old_path is not None
                and _is_below(change.old_path, path)
            ):
                chosen.add(index)
                found = True
            elif change.kind == "deleted" and _is_below(path, change.path):
                raise InDeleted(os.fsdecode(path), os.fsdecode(change.path))
        if not found:
            raise NotAChange(os.fsdecode(path))
    # What these need: the directories that they are in, and the renames that make room for them.
    pending = list(chosen)
    while pending:
        change = changes[pending.pop()]
        for index, other in enumerate(changes):
            makes_room = other.kind == "renamed" and other.old_path == change.path
            holds = (
                other.path != change.path
                and _is_below(change.path, other.path)
                and other.kind in ("added", "replaced", "renamed")
            )
            same = other.path == change.path
            if index not in chosen and (makes_room or holds or same):
                chosen.add(index)
                pending.append(index)
    return [changes[index] for index in sorted(chosen)]


_Drop: TypeAlias = tuple[bytes, bool, bool]
"""A path; whether what is below it goes, too; whether only a deletion of the path goes."""


def _without(changes: list[Change], drop: set[_Drop]) -> list[Change]:
    """The changes but for those, and for those that take the old names of what is not renamed now."""
    if not drop:
        return changes
    deletions = {path for path, _, deletion in drop if deletion}
    single = {path for path, below, deletion in drop if not below and not deletion}
    trees = {path for path, below, _ in drop if below}
    while True:
        dropped = [
            one
            for one in changes
            if one.path in single
            or (one.path in deletions and one.new is None)
            or _is_in(one.path, trees)
        ]
        more = {one.old_path for one in dropped if one.kind == "renamed" and one.old_path} - trees
        if not more:
            gone = set(map(id, dropped))
            return [one for one in changes if id(one) not in gone]
        trees |= more


def _is_in(path: bytes, tops: Container[bytes]) -> bool:
    while path and path not in tops:
        path = _parent(path)
    return path in tops


class _Planner:
    """`agreed`: changes that need not be made: the target has them already, or they are mere touches.

    `mergeable`: paths of conflicts that do not concern what is below them. `merged`: texts in place of conflicts.
    `changed_inodes`: the numbers of all files
    that the view has changed, also of those that are not written now.
    """

    def __init__(
        self,
        comparison: Comparison,
        places: Places,
        base: Base,
        changes: list[Change],
        changed_inodes: Container[int],
    ) -> None:
        self._changed_inodes = changed_inodes
        self._comparison = comparison
        self._places = places
        self._base = base
        self._device = os.fstat(places.roots["target"]).st_dev
        self._mounts = _mounts_below(places.roots["target"])
        self.conflicts: dict[bytes, Conflict] = {}
        self.agreed: set[_Drop] = set()
        self.mergeable: set[bytes] = {b""}
        self.merged: dict[bytes, Text] = {}
        self._merger = Merger(comparison, places, base.originals if base.is_lower else None)
        self._inodes = {one.old.stat.st_ino for one in changes if one.old is not None}
        self._sources = {
            one.old_path: one
            for one in changes
            if one.kind == "renamed" and one.old_path is not None
        }
        self._new = {one.path: one for one in changes if one.new is not None}
        self._lower_memo: dict[bytes, bytes | None] = {b"": b""}
        self._add_where_source_is_gone()
        self._add_uncompared()
        self._add_missing_directories()
        self._add_other_names()
        self._deleted = {
            one.old_path: one
            for one in changes
            if one.kind == "deleted"
            and one.old_path is not None
            and one.old_path not in self._sources
            and self._old_place(one.path) == one.old_path
        }

    def make(self, paths: Sequence[bytes]) -> Plan:
        departures = list(self._departures())
        arrivals, kept_changes = self._arrivals()
        self._check_origins()
        opened: dict[bytes, os.stat_result] = {}
        for one in departures:
            if stat.S_ISDIR(one.seen.mode):
                opened[one.path] = self._stat(one.path)
        for arrival in arrivals:
            if arrival.displaced is not None and stat.S_ISDIR(arrival.displaced.mode):
                place = self._old_place(arrival.change.path)
                assert place is not None
                opened[place] = self._stat(place)
        linked = {self._stat(one.linked_to).st_ino for one in arrivals if one.linked_to is not None}
        if linked:  # another name changes its time
            departures = [
                replace(one, seen=one.seen._replace(ctime_ns=0)) if one.seen.ino in linked else one
                for one in departures
            ]
            arrivals = [
                replace(one, displaced=one.displaced._replace(ctime_ns=0))
                if one.displaced is not None and one.displaced.ino in linked
                else one
                for one in arrivals
            ]
        written = [*self._deleted.values(), *self._new.values()]
        return Plan(
            changes=sorted(written, key=lambda one: (one.path.split(b"/"), one.new is not None)),
            departures=departures,
            arrivals=arrivals,
            kept=list(self._kept(departures, arrivals, kept_changes)),
            opened=opened,
            conflicts=list(self.conflicts.values()),
            skipped=[],
            merged=[
                Conflict(path=os.fsdecode(path), reason="both have changed it")
                for path in self.merged
            ],
            choice="",
        )

    # Paths

    def lower_of(self, path: bytes) -> bytes | None:
        """Where the target has the directory that the view shows at `path`; None for a new one."""
        if path not in self._lower_memo:
            self._lower_memo[path] = self._find_lower(path)
        return self._lower_memo[path]

    def _find_lower(self, path: bytes) -> bytes | None:
        change = self._new.get(path)
        if change is not None and change.kind == "renamed":
            return change.old_path
        if change is not None and change.kind in ("added", "replaced"):
            return None
        place = self._old_place(path)
        return None if place in self._sources else place

    def _old_place(self, path: bytes) -> bytes | None:
        """Where the target has the name `path` of the view; None: its directory is new."""
        if not path:
            return b""
        above = self.lower_of(_parent(path))
        return None if above is None else _join(above, _name(path))

    def _place(self, path: bytes) -> bytes | None:
        """Where the target has what has to make way for the view's file at `path`, if it is there."""
        place = self._old_place(path)
        return None if place in self._sources or place in self._deleted else place

    def _path_in_view(self, lower: bytes) -> bytes:
        """Where a directory of the target is in the end."""
        rest: list[bytes] = []
        while lower:
            change = self._sources.get(lower)
            if change is not None:
                return b"/".join([change.path, *reversed(rest)])
            rest.append(_name(lower))
            lower = _parent(lower)
        return b"/".join(reversed(rest))

    def _add_where_source_is_gone(self) -> None:
        """What was renamed is added, if the target has it no more under its old name."""
        for source, change in list(self._sources.items()):
            st = self._stat_or_none(source)
            assert change.old is not None
            assert change.new is not None
            if st is not None and stat.S_IFMT(st.st_mode) == change.old.type:
                continue
            self._conflict(change.path, "the layer has it no more under its old name")
            del self._sources[source]
            self._add_tree(change.path, change.new)

    def _add_uncompared(self) -> None:
        """Add what the view has at the old names of what was renamed: it was compared with that, and may be equal."""
        for source in self._sources:
            path = _join(self._path_in_view(_parent(source)), _name(source))
            known = self._new.get(path)
            if known is not None and known.kind in ("added", "renamed"):
                continue
            found = self._comparison.new.at(path)
            if found is not None:
                self._add_tree(path, self._comparison.new.version(*found))

    def _add_missing_directories(self) -> None:
        """Directories that the view shares with the layer, and that this has no more, have to be made."""
        seen: set[bytes] = set()
        for path in list(self._new):
            above = path if path in self._new and self._is_merged(path) else _parent(path)
            while above and above not in seen:
                seen.add(above)
                lower = self.lower_of(above)
                if lower is None:
                    break
                st = self._stat_or_none(lower)
                if st is None or not stat.S_ISDIR(st.st_mode):
                    self._conflict(above, "the layer has this directory no more")
                    found = self._comparison.new.at(above)
                    if found is None:
                        break
                    self._add(above, self._comparison.new.version(*found))
                above = _parent(above)

    def _add_other_names(self) -> None:
        """Add the other names, in the layers, of changed files: the view's index makes them names of the new file."""
        indexed: dict[int, Change] = {}
        for change in self._new.values():
            number = self._indexed_inode(change)
            if number is not None:
                indexed.setdefault(number, change)
        if not indexed:
            return
        known = {one.old_path for one in self._new.values()}
        for lower, version in self._comparison.held_by_old():
            first = indexed.get(version.stat.st_ino)
            if first is None or lower in known:
                continue
            path = _join(self._path_in_view(_parent(lower)), _name(lower))
            found = self._comparison.new.at(path)
            if found is None or path in self._new or found[2].layer_dir.layer.writable:
                continue
            shown = found[2].stat
            if (shown.st_dev, shown.st_ino) == version.inode:
                self._new[path] = replace(
                    first,
                    path=path,
                    kind="changed",
                    old_path=lower,
                    old=version,
                    link=first.path,
                )

    def _indexed_inode(self, change: Change) -> int | None:
        """The inode number in the layers of a file that the index makes the file of all their names of that one."""
        old, new = change.old, change.new
        if new is None or new.is_directory or not new.layer_dir.layer.writable:
            return None
        if (old is not None and not change.what) or (old is None and new.stat.st_nlink < 2):
            return None
        markers = self._comparison.new.markers
        if markers.link_count(new.path, upper=new.stat.st_nlink, lower=lambda: 1) is None:
            return None
        try:
            origin = markers.origin(new.path)
        except PermissionError:
            return None
        return None if origin is None else origin.inode_number()

    def _is_merged(self, path: bytes) -> bool:
        change = self._new[path]
        return change.kind == "changed" and change.new is not None and change.new.is_directory

    def _add_tree(self, path: bytes, version: Version) -> None:
        self._add(path, version)
        if not version.is_directory:
            return
        for below, inner in self._comparison.held_by_new(path):
            inside = _join(path, below)
            known = self._new.get(inside)
            if known is not None and known.kind in ("added", "renamed"):
                continue
            if self.lower_of(_parent(inside)) is None:
                self._add(inside, inner)

    def _add(self, path: bytes, version: Version) -> None:
        known = self._new.get(path)
        self._new[path] = Change(
            path=path,
            kind="added",
            new=version,
            link=None if known is None else known.link,
            xattrs=self._comparison.xattrs(version, of_new=True),
        )
        self._lower_memo = {b"": b""}

    # Departures

    def _departures(self) -> Iterator[Departure]:
        leaving = {**self._deleted, **self._sources}
        for path in sorted(leaving, key=lambda one: (-one.count(b"/"), one)):
            change = leaving[path]
            st = self._stat_or_none(path)
            if st is None:
                self.agreed.add((change.path, False, True))
                continue
            assert change.old is not None
            digest = ""
            if change.kind == "deleted":
                digest = self._check_displaced(change, path, st)
            elif not stat.S_ISDIR(st.st_mode) and change.what:
                self._check_displaced(change, path, st)
            self._refuse_mounts(path, below=change.kind == "deleted")
            yield Departure(path, change, self._seen(st, digest))

    # Arrivals

    def _arrivals(self) -> tuple[list[Arrival], list[Change]]:
        arrivals, kept = [], []
        for path in sorted(self._new, key=lambda one: one.split(b"/")):
            change = self._new[path]
            new = change.new
            assert new is not None
            place = self._place(path)
            st = None if place is None else self._stat_or_none(place)
            if place is not None and st is not None and place != b"":
                self._stay_on_device(path, st)
            if new.is_directory and self.lower_of(path) is not None and change.kind != "renamed":
                assert st is not None
                if change.what - {"times"} and self._has_changed(change, st, place):
                    self.mergeable.add(path)
                    self._conflict(path, "the layer's directory has changed")
                kept.append(change)
                continue
            moved_from = None
            if change.kind == "renamed" and (new.is_directory or not change.what):
                moved_from = change.old_path
            if change.kind == "renamed" and new.is_directory:
                kept.append(change)
            digest = ""
            if st is None:
                self._check_missing(change)
            else:
                assert place is not None
                self._refuse_mounts(place, below=True)
                digest = self._check_displaced(change, place, st)
            arrivals.append(
                Arrival(
                    change,
                    None if st is None else self._seen(st, digest),
                    moved_from,
                    None if moved_from is not None else self._linked_to(change),
                    self.merged.get(change.path),
                )
            )
        return arrivals, kept

    def _linked_to(self, change: Change) -> bytes | None:
        """Where the target has the file of which a change makes another name, if no change makes that one."""
        if change.link is None:
            return None
        first = self._new.get(change.link)
        if first is not None and not (first.kind == "renamed" and not first.what):
            return None
        place = first.old_path if first is not None else self._old_place(change.link)
        st = None if place is None else self._stat_or_none(place)
        if place is None or st is None or stat.S_ISDIR(st.st_mode):
            return None
        assert change.new is not None
        self._comparison.trim()
        return place if self._is_equal(change.new, place, st) else None

    def _stay_on_device(self, path: bytes, st: os.stat_result) -> None:
        if st.st_dev != self._device:
            raise OnOtherFileSystem(os.fsdecode(path))

    def _refuse_mounts(self, place: bytes, *, below: bool) -> None:
        """Refuse to rename a mountpoint of the target; with `below` also what holds one."""
        for mount in self._mounts:
            if mount == place or (below and _is_below(mount, place)):
                raise OnOtherFileSystem(os.fsdecode(mount))

    # Directories that stay

    def _kept(
        self, departures: list[Departure], arrivals: list[Arrival], changes: list[Change]
    ) -> Iterator[Kept]:
        changed = {one.path: one for one in changes}
        gone = {one.path for one in departures if one.change.kind == "deleted"}
        gone |= {
            place
            for one in arrivals
            if one.displaced is not None and (place := self._place(one.change.path)) is not None
        }
        touched = {_parent(one.change.path) for one in arrivals} | set(changed)
        touched |= {
            self._path_in_view(_parent(one.path))
            for one in departures
            if not _is_in(_parent(one.path), gone)
        }
        for path in sorted(touched, key=lambda one: one.split(b"/")):
            lower = self.lower_of(path)
            if lower is None or (lower and _is_in(lower, gone)):
                continue
            st = self._stat_or_none(lower)
            if st is not None and stat.S_ISDIR(st.st_mode):
                yield Kept(path, lower, st, changed.get(path))

    # Conflicts

    def _conflict(self, path: bytes, reason: str, *, can_merge: bool = False) -> None:
        found = Conflict(path=os.fsdecode(path), reason=reason, can_merge=can_merge)
        self.conflicts.setdefault(path, found)

    def _check_missing(self, change: Change) -> None:
        """Nothing has to make way for a change."""
        old = change.old
        if change.is_touch:
            self.agreed.add((change.path, False, False))
        elif change.kind in ("changed", "replaced") and old is not None:
            self._conflict(change.path, "the layer has it no more")

    def _check_origins(self) -> None:
        """Find added files that were copied from ones that the layer has under no name any more."""
        if not self._base.is_lower:
            return
        for change in list(self._new.values()):
            new = change.new
            if change.kind != "added" or new is None or not new.layer_dir.layer.writable:
                continue
            if change.path not in self.conflicts and self._origin_is_gone(new):
                self._conflict(change.path, "the layer has it no more")

    def _origin_is_gone(self, new: Version) -> bool:
        markers = self._comparison.new.markers
        try:
            if not markers.has_origin(new.attribute_names()):
                return False
            origin = markers.origin(new.path)
        except OSError:
            return False
        if origin is None:
            return False
        if new.is_directory or new.stat.st_nlink == 1:
            # What the view itself has moved is among the files that leave their names, in this target or in another.
            number = origin.inode_number()
            if number is not None and number not in self._inodes:
                return number not in self._base.left_elsewhere()
        if not self._opens_handles:
            return False
        return origin_link_count(self._places.roots["target"], origin) in (None, 0)

    @functools.cached_property
    def _opens_handles(self) -> bool:
        """Whether this process may open files by their handles: CAP_DAC_READ_SEARCH, in the initial user namespace."""
        root = self._places.roots["target"]
        try:
            found = handles.of_name(root, b"", _native.AT_EMPTY_PATH)
            os.close(handles.opened(root, found.type, found.handle, os.O_PATH))
        except OSError:
            return False
        return True

    def _check_displaced(self, change: Change, place: bytes, st: os.stat_result) -> str:
        """Check what has to make way. Returns: the digest of what a directory holds."""
        self._stay_on_device(place, st)
        changed = self._has_changed(change, st, place)
        digest = ""
        if stat.S_ISDIR(st.st_mode):
            held: dict[str, os.stat_result] = {}
            with self._places.parent("target", os.fsdecode(place)) as (fd, name):
                digest = digest_of(fd, name, self._is_leaving_below(place), held.__setitem__)
            for one in held.values():
                self._stay_on_device(place, one)
                self._inodes.add(one.st_ino)
            changed = changed or self._has_changed_below(change, place, held)
        if not changed:
            return digest
        new = change.new
        if change.is_touch or (new is not None and self._is_equal(new, place, st)):
            self.agreed.add((change.path, False, False))
        elif change.old is None or change.old_path != place:
            self._conflict(change.path, "the layer has such a file now, too")
        elif self._knows(change, st):
            self._merge(change, place, st, "the layer's file has changed")
        else:
            self._merge(
                change, place, st, "the upper does not say whether the layer's file has changed"
            )
        return digest

    def _merge(self, change: Change, place: bytes, st: os.stat_result, reason: str) -> None:
        """Merge a file that both have changed, if that is asked for, else name the conflict."""
        try:
            merged = self._merger.merged(change, place, st)
            is_there = change.kind == "changed" and self._merger.is_unchanged(merged, place, st)
        except (NotMerged, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            self._conflict(change.path, f"{reason}: {why}" if self._base.merges else reason)
            return
        if not self._base.merges:
            self._conflict(change.path, reason, can_merge=True)
        elif is_there:
            self.agreed.add((change.path, False, False))
        else:
            self.merged[change.path] = merged

    def _is_leaving_below(self, place: bytes) -> Callable[[str], bool]:
        top = place + b"/" if place else b""

        def is_leaving(path: str) -> bool:
            inner = top + os.fsencode(path)
            return inner in self._sources or inner in self._deleted

        return is_leaving

    def _has_changed(self, change: Change, st: os.stat_result, place: bytes | None) -> bool:
        """Whether the target's file is not what the view began with."""
        old = change.old if change.old_path == place else None
        if old is None or place is None:
            return True
        if self._base.is_lower:
            return self._changed_later(st if place else self._base.root, change)
        return not self._is_equal(old, place, st)

    def _changed_later(self, st: os.stat_result, change: Change | None = None) -> bool:
        """Whether a file of the layer is another one than when it was copied, or else since the view began."""
        if st.st_ctime_ns <= max(
            self._base.began.restored_ns, self._base.written.get(st.st_ino, 0)
        ):
            return False
        recorded = None if change is None else self._recorded_ns(change, st)
        if recorded is not None:
            return st.st_ctime_ns != recorded
        return latest(st.st_ctime_ns) > self._base.began.since_ns

    def _knows(self, change: Change, st: os.stat_result) -> bool:
        """Whether something is known of what the target was when the view began."""
        base = self._base
        return (
            not base.is_lower
            or base.began.since_ns > 0
            or self._recorded_ns(change, st) is not None
        )

    def _recorded_ns(self, change: Change, st: os.stat_result) -> int | None:
        """The change time that the layer's file had when the view copied it.

        Returns: -1 if another file was copied; None if nothing is recorded.
        """
        new = change.new
        if new is None or not new.layer_dir.layer.writable:
            return None
        try:
            origin = self._comparison.new.markers.origin(new.path)
        except OSError:
            return None
        number = None if origin is None else origin.inode_number()
        if origin is None or number is None:
            return None
        if number == st.st_ino:
            return origin.changed_ns
        # In the view the copy of one file may have got the name of another one.
        return None if number in self._changed_inodes else -1

    def _has_changed_below(
        self, change: Change, place: bytes, held: dict[str, os.stat_result]
    ) -> bool:
        if self._base.is_lower:
            return any(map(self._changed_later, held.values()))
        if change.old is None or change.old_path != place or not change.old.is_directory:
            return True
        is_leaving = self._is_leaving_below(place)
        expected: dict[str, Version] = {}
        for path, version in self._comparison.held(change):
            above = path
            while above and not is_leaving(os.fsdecode(above)):
                above = _parent(above)
            if not above:
                expected[os.fsdecode(path)] = version
        if expected.keys() != held.keys():
            return True
        return any(
            not self._is_equal(version, _join(place, os.fsencode(path)), held[path])
            for path, version in expected.items()
        )

    def _is_equal(self, version: Version, place: bytes, st: os.stat_result) -> bool:
        """Whether the target has the same file at a place, but for its time of modification."""
        same = (version.mode, version.uid, version.gid) == (st.st_mode, st.st_uid, st.st_gid)
        if not same or (not version.is_directory and version.size != st.st_size):
            return False
        if version.device != (st.st_rdev if version.device else 0):
            return False
        with self._places.parent("target", os.fsdecode(place)) as (fd, name):
            of_new = version.layer_dir.layer.writable
            if self._comparison.xattrs(version, of_new=of_new) != _xattrs(fd, name):
                return False
            if version.is_directory or not (version.is_regular or stat.S_ISLNK(version.mode)):
                return True
            if stat.S_ISLNK(version.mode):
                return os.fsencode(os.readlink(name, dir_fd=fd)) == version.readlink()
            return same_contents(version, _Beside(fd, name, st))  # type: ignore[arg-type]

    # The target

    def _stat(self, path: bytes) -> os.stat_result:
        st = self._stat_or_none(path)
        if st is None:
            raise FileNotFoundError(2, os.strerror(2), os.fsdecode(path))
        return st

    def _stat_or_none(self, path: bytes) -> os.stat_result | None:
        if not path:
            return os.fstat(self._places.roots["target"])
        return self._places.stat("target", os.fsdecode(path))

    @staticmethod
    def _seen(st: os.stat_result, digest: str) -> Seen:
        seen = Seen.of(st, digest)
        if stat.S_ISDIR(st.st_mode) or st.st_nlink > 1:  # earlier steps may touch it
            return seen._replace(ctime_ns=0)
        return seen


def _mounts_below(target: int) -> list[bytes]:
    """The mountpoints below an open directory, from there, also those of files and of the same file system."""
    top = os.readlink(f"/proc/self/fd/{target}")
    return [
        os.fsencode(os.path.relpath(mount.mountpoint, top))
        for mount in mountinfo.visible(mountinfo.current())
        if mountinfo.below(mount.mountpoint, top)
    ]


def _xattrs(fd: int, name: str) -> dict[bytes, bytes]:
    path = f"/proc/self/fd/{fd}/{name}"
    found = {}
    for attribute in xattr_names(os.fsencode(path), follow=False):
        value = attributes.xattr_or_none(path, attribute, follow_symlinks=False)
        if value is not None and not attribute.startswith(OVERLAY_PREFIXES):
            found[attribute] = value
    return found


class _Beside:
    """The target's file, for a comparison of contents."""

    data = None

    def __init__(self, fd: int, name: str, st: os.stat_result) -> None:
        self._fd, self._name = fd, name
        self.size = st.st_size
        self.inode = (st.st_dev, st.st_ino)

    def open(self) -> int:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(self._name, flags, dir_fd=self._fd)


def _is_below(path: bytes, top: bytes) -> bool:
    """Whether a path is `top` or below it."""
    return not top or path == top or path.startswith(top + b"/")


def _parent(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]


def _name(path: bytes) -> bytes:
    return path.rpartition(b"/")[2]


def _join(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name
