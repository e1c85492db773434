"""The plan of an application: which changes are written, which conflict with the target, in which order the rest goes.

Nothing is written here. A path of the view means a path of the target through the renames: a directory that the view
shows under another name is found under its old one until its turn comes.

The order works for any set of changes, also for names that are swapped: first everything that leaves its name goes
aside, the deepest first, then everything that is new or renamed is put in place, directories before what they hold.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, replace

from overlaykit.changes.folding import Folding
from overlaykit.changes.merging import Merger, NotMerged
from overlaykit.changes.model import Change, Version
from overlaykit.changes.paths import is_in, join, name_of, parent
from overlaykit.changes.selection import Drop, remaining, selected
from overlaykit.changes.steps import Seen, digest_of
from overlaykit.changes.target import Base, Target, is_overlay
from overlaykit.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Sequence
    from typing import Literal

    from overlaykit.changes.merging import Text
    from overlaykit.changes.model import Aspect
    from overlaykit.changes.read import Comparison
    from overlaykit.changes.steps import Places

    Choice = Literal["", "theirs", "ours"]
    """What to do where the target has changed, too. `theirs`: write what the view has. `ours`: keep what the target
    has. Empty: write nothing at all."""


class Conflict(Record, kw_only=True):
    """A path of the target that is not what the view began with. `reason`: what happened to it.

    `can_merge`: both are texts whose changes do not touch each other.
    """

    path: str
    reason: str
    can_merge: bool = False


@dataclass(frozen=True, slots=True)
class Departure:
    """What leaves its name: it was deleted, or goes to another name. `seen`: what it was when it was checked.

    `is_removed`: a directory that cannot be renamed. What it holds leaves by itself, before it.
    """

    path: bytes
    change: Change
    seen: Seen
    is_removed: bool = False


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
    is_on_overlay: bool
    """Whether the target is on the kernel's overlayfs."""

    @property
    def is_empty(self) -> bool:
        return not (self.departures or self.arrivals or self.kept)


def plan(
    comparison: Comparison,
    places: Places,
    base: Base,
    paths: Sequence[bytes],
    choice: Choice,
    without: Sequence[bytes] = (),
    *,
    moves: bool = False,
) -> Plan:
    """Plan what to write, and find all conflicts. Raises: OSError, Error.

    `without`: paths that are left out, with what is below them. `moves`: files of the upper are renamed into the
    target, so that a new directory may be one change. With the choice `ours` or `theirs` the plan's conflicts are those
    that were decided so.
    """
    with places.remembering():
        return _plan(comparison, places, base, paths, choice, without, moves=moves)


def _plan(
    comparison: Comparison,
    places: Places,
    base: Base,
    paths: Sequence[bytes],
    choice: Choice,
    without: Sequence[bytes],
    *,
    moves: bool,
) -> Plan:
    folding = None
    # A path may be of some of what a directory holds, and on an overlay renamed ones that hold it are made anew.
    if moves and not (paths or without or is_overlay(places)):
        folding = Folding(lambda path: places.stat("target", os.fsdecode(path)) is None)
    all_changes = list(comparison.changes(times=True, folding=folding))
    changed_inodes = {one.old.stat.st_ino for one in all_changes if one.old is not None}
    changes = selected(all_changes, paths)
    changes = remaining(changes, {(path, True, False) for path in without})
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
        changes = remaining(changes, drop)
        comparison.trim()


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
        self._target = Target(comparison, places, base, changed_inodes)
        self._comparison = comparison
        self._places = places
        self._base = base
        self.conflicts: dict[bytes, Conflict] = {}
        self.agreed: set[Drop] = set()
        self.mergeable: set[bytes] = {b""}
        self.merged: dict[bytes, Text] = {}
        self._inodes = {one.old.stat.st_ino for one in changes if one.old is not None}
        kept_in = base.originals if base.is_lower else None
        self._merger = Merger(comparison, places, kept_in, base.began, self._inodes)
        self._sources = {
            one.old_path: one
            for one in changes
            if one.kind == "renamed" and one.old_path is not None
        }
        self._new = {one.path: one for one in changes if one.new is not None}
        self._lower_memo: dict[bytes, bytes | None] = {b"": b""}
        self._held: dict[bytes, dict[str, os.stat_result]] = {}
        """What directories hold that have to make way, by paths from there."""
        self._remade: dict[bytes, Change] = {}
        """Renamed directories that are made anew, by their old paths."""
        self._remade_in: set[bytes] = set()
        """What is put into these, though it did not change itself."""
        if self._target.is_overlay:
            self._remake_renamed_directories()
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
        self._deleted |= {
            source: Change(path=one.path, kind="deleted", old_path=source, old=one.old)
            for source, one in self._remade.items()
        }

    def make(self, paths: Sequence[bytes]) -> Plan:
        departures = list(self._departures())
        arrivals, kept_changes = self._arrivals()
        if self._target.is_overlay:
            departures = self._emptied(departures, arrivals)
        self._check_origins(arrivals)
        opened: dict[bytes, os.stat_result] = {}
        for one in departures:
            if stat.S_ISDIR(one.seen.mode):
                opened[one.path] = self._target.stat(one.path)
        for arrival in arrivals:
            if arrival.displaced is not None and stat.S_ISDIR(arrival.displaced.mode):
                place = self._old_place(arrival.change.path)
                assert place is not None
                opened[place] = self._target.stat(place)
        linked = {
            self._target.stat(one.linked_to).st_ino for one in arrivals if one.linked_to is not None
        }
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
        kept = list(self._kept(departures, arrivals, kept_changes))
        for place in {*opened, *(one.old_path for one in kept)}:
            self._target.refuse_fixed(place)
        new = {path: one for path, one in self._new.items() if path not in self._remade_in}
        new |= {one.path: one for one in self._remade.values()}
        deleted = (one for source, one in self._deleted.items() if source not in self._remade)
        written = [*deleted, *new.values()]
        return Plan(
            changes=sorted(written, key=lambda one: (one.path.split(b"/"), one.new is not None)),
            departures=departures,
            arrivals=arrivals,
            kept=kept,
            opened=opened,
            conflicts=list(self.conflicts.values()),
            skipped=[],
            merged=[
                Conflict(path=os.fsdecode(path), reason="both have changed it")
                for path in self.merged
            ],
            choice="",
            is_on_overlay=self._target.is_overlay,
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
        above = self.lower_of(parent(path))
        return None if above is None else join(above, name_of(path))

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
            rest.append(name_of(lower))
            lower = parent(lower)
        return b"/".join(reversed(rest))

    def _add_where_source_is_gone(self) -> None:
        """What was renamed is added, if the target has it no more under its old name."""
        for source, change in list(self._sources.items()):
            st = self._target.stat_or_none(source)
            assert change.old is not None
            assert change.new is not None
            if st is not None and stat.S_IFMT(st.st_mode) == change.old.type:
                continue
            self._conflict(change.path, "the layer has it no more under its old name")
            del self._sources[source]
            self._add_tree(change.path, change.new)

    def _remake_renamed_directories(self) -> None:
        """Make renamed directories anew, and rename what they hold: the target refuses to rename directories."""
        self._remade = {
            source: one
            for source, one in self._sources.items()
            if one.new is not None
            and one.new.is_directory
            and (st := self._target.stat_or_none(source)) is not None
            and stat.S_ISDIR(st.st_mode)
        }
        tops = {one.path for one in self._remade.values()}
        for source, change in self._remade.items():
            del self._sources[source]
            assert change.new is not None
            self._add(change.path, change.new)
            for below, version in self._comparison.held_by_new(change.path):
                path, old_path = join(change.path, below), join(source, below)
                top = path
                while top not in tops:
                    top = parent(top)
                if top == change.path:
                    self._put_again(path, old_path, version)

    def _put_again(self, path: bytes, old_path: bytes, version: Version) -> None:
        """Put what a renamed directory holds into the new one: by a rename, unless it is another one than there."""
        known = self._new.get(path)
        if known is None:
            self._remade_in.add(path)
        if known is not None and known.kind in ("added", "renamed"):
            return
        if known is not None or version.is_directory:
            self._add(path, version)
            return
        self._new[path] = self._sources[old_path] = Change(
            path=path, kind="renamed", old_path=old_path, old=version, new=version
        )

    def _add_uncompared(self) -> None:
        """Add what the view has at the old names of what was renamed: it was compared with that, and may be equal."""
        for source in (*self._sources, *self._remade):
            path = join(self._path_in_view(parent(source)), name_of(source))
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
            above = path if path in self._new and self._is_merged(path) else parent(path)
            while above and above not in seen:
                seen.add(above)
                lower = self.lower_of(above)
                if lower is None:
                    break
                st = self._target.stat_or_none(lower)
                if st is None or not stat.S_ISDIR(st.st_mode):
                    self._conflict(above, "the layer has this directory no more")
                    found = self._comparison.new.at(above)
                    if found is None:
                        break
                    self._add(above, self._comparison.new.version(*found))
                above = parent(above)

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
            path = join(self._path_in_view(parent(lower)), name_of(lower))
            found = self._comparison.new.at(path)
            if found is None or path in self._new or found[2].layer_dir.layer.of_view:
                continue
            shown = found[2].stat
            if (shown.st_dev, shown.st_ino) == version.inode:
                self._new[path] = Change(
                    path=path,
                    kind="changed",
                    old_path=lower,
                    old=version,
                    new=first.new,
                    what=first.what,
                    opaque=first.opaque,
                    link=first.path,
                    xattrs=first.xattrs,
                    kept=first.kept,
                )

    def _indexed_inode(self, change: Change) -> int | None:
        """The inode number in the layers of a file that the index makes the file of all their names of that one."""
        old, new = change.old, change.new
        if new is None or new.is_directory or not new.layer_dir.layer.of_view:
            return None
        if (old is not None and not change.what) or (old is None and new.stat.st_nlink < 2):
            return None
        markers = self._comparison.new.markers
        path = new.path
        try:
            count = new.read(
                lambda: markers.link_count(path, upper=new.stat.st_nlink, lower=lambda: 1)
            )
            origin = None if count is None else self._comparison.new.origin(new)
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
            inside = join(path, below)
            known = self._new.get(inside)
            if known is not None and known.kind in ("added", "renamed"):
                continue
            if self._is_folded(parent(inside)):
                continue
            if self.lower_of(parent(inside)) is None:
                self._add(inside, inner)

    def _is_folded(self, path: bytes) -> bool:
        """Whether a path is that of a new directory which is one change, or below it."""
        while path and path not in self._new:
            path = parent(path)
        known = self._new.get(path)
        return known is not None and known.inside is not None

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
            st = self._target.stat_or_none(path)
            if st is None:
                self.agreed.add((change.path, False, True))
                continue
            assert change.old is not None
            digest = ""
            if change.kind == "deleted":
                digest = self._check_displaced(change, path, st)
            elif not stat.S_ISDIR(st.st_mode) and change.what:
                self._check_displaced(change, path, st)
            self._target.refuse_mounts(path, below=change.kind == "deleted")
            yield Departure(path, change, self._target.seen(st, digest))

    def _emptied(
        self, departures: Sequence[Departure], arrivals: Sequence[Arrival]
    ) -> list[Departure]:
        """The departures with all that their directories hold, and with directories that arrivals would displace."""
        found: dict[bytes, Departure] = {}
        leaving = [(one.path, one.change, one.seen) for one in departures]
        for one in arrivals:
            if one.displaced is not None and stat.S_ISDIR(one.displaced.mode):
                place = self._place(one.change.path)
                assert place is not None
                leaving.append((place, one.change, one.displaced))
                one.displaced = None
        for path, change, seen in leaving:
            is_directory = stat.S_ISDIR(seen.mode)
            found[path] = Departure(path, change, seen._replace(digest=""), is_directory)
            for below, st in self._held.get(path, {}).items() if is_directory else ():
                inside = join(path, os.fsencode(below))
                seen = self._target.seen(st, "")
                found[inside] = Departure(inside, change, seen, stat.S_ISDIR(st.st_mode))
        return sorted(found.values(), key=lambda one: (-one.path.count(b"/"), one.path))

    # Arrivals

    def _arrivals(self) -> tuple[list[Arrival], list[Change]]:
        arrivals, kept = [], []
        for path in sorted(self._new, key=lambda one: one.split(b"/")):
            change = self._new[path]
            new = change.new
            assert new is not None
            place = self._place(path)
            st = None if place is None else self._target.stat_or_none(place)
            if place is not None and st is not None and place != b"":
                self._target.stay_on_device(path, st)
            if new.is_directory and self.lower_of(path) is not None and change.kind != "renamed":
                assert st is not None
                if change.what - {"times"} and self._target.has_changed(change, st, place):
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
                self._target.refuse_mounts(place, below=True)
                digest = self._check_displaced(change, place, st)
            arrivals.append(
                Arrival(
                    change,
                    None if st is None else self._target.seen(st, digest),
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
        st = None if place is None else self._target.stat_or_none(place)
        if place is None or st is None or stat.S_ISDIR(st.st_mode):
            return None
        assert change.new is not None
        self._comparison.trim()
        return place if self._target.is_equal(change.new, place, st) else None

    # Directories that stay

    def _kept(
        self, departures: list[Departure], arrivals: list[Arrival], changes: list[Change]
    ) -> Iterator[Kept]:
        changed = {one.path: one for one in changes}
        gone = {one.path for one in departures if one.change.kind == "deleted" or one.is_removed}
        gone |= {
            place
            for one in arrivals
            if one.displaced is not None and (place := self._place(one.change.path)) is not None
        }
        touched = {parent(one.change.path) for one in arrivals} | set(changed)
        touched |= {
            self._path_in_view(parent(one.path))
            for one in departures
            if not is_in(parent(one.path), gone)
        }
        for path in sorted(touched, key=lambda one: one.split(b"/")):
            lower = self.lower_of(path)
            if lower is None or (lower and is_in(lower, gone)):
                continue
            st = self._target.stat_or_none(lower)
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

    def _check_origins(self, arrivals: Sequence[Arrival]) -> None:
        """Find added files that were copied from ones that the layer has under no name any more."""
        if not self._base.is_lower:
            return
        for change in list(self._new.values()):
            new = change.new
            if change.kind != "added" or new is None or not new.layer_dir.layer.of_view:
                continue
            if change.path not in self.conflicts and self._target.origin_is_gone(new, self._inodes):
                self._follow_rename(change, new, arrivals)

    def _follow_rename(self, change: Change, new: Version, arrivals: Sequence[Arrival]) -> None:
        """Merge a file that the view has renamed with the one that has replaced it in the layer, if that is asked for.

        Else name the conflict.
        """
        source = self._merger.renamed_from(new)
        left = None if source is None else self._deleted.get(source)
        st = None if source is None or left is None else self._target.stat_or_none(source)
        if source is None or left is None or left.old is None or st is None:
            self._conflict(change.path, "the layer no longer has the file that it was copied from")
            return
        reason = f"it was renamed from {os.fsdecode(source)}, where the layer has another file now"
        what: frozenset[Aspect] = frozenset()
        if self._comparison.new.has_other_owner(left.old, new):
            what = frozenset(("owner",))
        renamed = Change(path=change.path, kind="renamed", old=left.old, new=new, what=what)
        merged, _ = self._merged(renamed, source, st, reason)
        if merged is None:
            return
        self.conflicts.pop(left.path, None)
        self.merged[change.path] = merged
        for one in arrivals:
            if one.change is change:
                one.merged = merged

    def _check_displaced(self, change: Change, place: bytes, st: os.stat_result) -> str:
        """Check what has to make way. Returns: the digest of what a directory holds."""
        self._target.stay_on_device(place, st)
        changed = self._target.has_changed(change, st, place)
        digest = ""
        if stat.S_ISDIR(st.st_mode):
            held: dict[str, os.stat_result] = {}
            is_leaving = self._is_leaving_below(place)
            with self._places.parent("target", os.fsdecode(place)) as (fd, name):
                digest = digest_of(fd, name, is_leaving, held.__setitem__)
            self._held[place] = held
            for one in held.values():
                self._target.stay_on_device(place, one)
                self._inodes.add(one.st_ino)
            changed = changed or self._target.has_changed_below(change, place, held, is_leaving)
        if not changed:
            return digest
        new = change.new
        if change.inside is not None:  # what it holds would have to be compared, too
            self._conflict(change.path, "the layer has such a file now, too")
        elif change.is_touch or (new is not None and self._target.is_equal(new, place, st)):
            self.agreed.add((change.path, False, False))
        elif change.old is None or change.old_path != place:
            self._conflict(change.path, "the layer has such a file now, too")
        elif self._target.knows(change, st):
            self._merge(change, place, st, "the layer's file has changed")
        else:
            self._merge(
                change, place, st, "the upper does not say whether the layer's file has changed"
            )
        return digest

    def _merge(self, change: Change, place: bytes, st: os.stat_result, reason: str) -> None:
        """Merge a file that both have changed, if that is asked for, else name the conflict."""
        merged, is_there = self._merged(change, place, st, reason)
        if is_there:
            self.agreed.add((change.path, False, False))
        elif merged is not None:
            self.merged[change.path] = merged

    def _merged(
        self, change: Change, place: bytes, st: os.stat_result, reason: str
    ) -> tuple[Text | None, bool]:
        """What both have made of a file, and whether that is there; None if a conflict is named in its place."""
        try:
            merged = self._merger.merged(change, place, st)
            is_there = change.kind == "changed" and self._merger.is_unchanged(merged, place, st)
        except (NotMerged, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            self._conflict(change.path, f"{reason}: {why}" if self._base.merges else reason)
            return None, False
        if not self._base.merges:
            self._conflict(change.path, reason, can_merge=True)
            return None, False
        return merged, is_there

    def _is_leaving_below(self, place: bytes) -> Callable[[str], bool]:
        top = place + b"/" if place else b""

        def is_leaving(path: str) -> bool:
            inner = top + os.fsencode(path)
            return inner in self._sources or inner in self._deleted

        return is_leaving
