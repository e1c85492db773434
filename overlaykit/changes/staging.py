"""All new files of a plan, made complete in the state directory, and the steps that put them in place."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import replace

from overlaykit import attributes, inodes
from overlaykit.beneath import INODE, NEW_FILE
from overlaykit.changes import merging
from overlaykit.changes.paths import parent
from overlaykit.changes.steps import Meta, Seen, Step, overlay_xattrs
from overlaykit.changes.whole import Whole, is_marked
from overlaykit.lean import partial
from overlaykit.overlay import overrides
from overlaykit.overlay.faults import reach
from overlaykit.overlay.markers import OVERLAY_PREFIXES
from overlaykit.progress import counted_all
from overlaykit.reader import opened_past_modes, past_modes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Final

    from overlaykit.changes.model import Change, Version
    from overlaykit.changes.planning import Arrival, Plan
    from overlaykit.changes.read import Comparison
    from overlaykit.changes.run import Request
    from overlaykit.changes.state import State
    from overlaykit.changes.steps import Places, Root

_RWX: Final = 0o700


class Staging:
    """Makes all new files of a plan in the state directory, and the steps that put them in place."""

    def __init__(
        self, comparison: Comparison, places: Places, state: State, request: Request, made: Plan
    ) -> None:
        self._comparison = comparison
        self._places = places
        self._state = state
        self._request = request
        self._plan = made
        self._fd = places.roots["state"]
        self._serial = 0
        self._aside: dict[bytes, str] = {}
        self._stand_ins: dict[bytes, Seen] = {}
        """Of removed directories: what comes in their places if that is taken back."""
        self._made_for: dict[tuple[int, int], str] = {}
        self._moves = request.consumes and self._is_one_file_system()
        self._movable = self._find_movable()
        arrivals = made.arrivals if self._moves else []
        self._whole = Whole(arrivals, self._movable, comparison.above)
        if not self._moves and any(one.change.inside is not None for one in made.arrivals):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))  # planned for one file system

    def steps(self) -> list[Step]:
        """Raises: OSError."""
        if self._plan.is_on_overlay:
            self._copy_up_links()
        leaving = list(self._leaving())
        arriving = list(self._arriving())
        renames = [*self._consuming(), *leaving, *arriving]
        return [*self._opening(), *renames, *self._closing(arriving)]

    def _find_movable(self) -> set[tuple[int, int]]:
        """The inodes of the upper that can be put in place as they are: all names of each are put."""
        found: dict[tuple[int, int], int] = {}
        if not self._moves:
            return set()
        stats = {}
        elsewhere = set()
        for arrival in self._plan.arrivals:
            new = arrival.change.new
            assert new is not None
            is_plain = (new.mode, new.uid, new.gid) == (
                new.stat.st_mode,
                new.stat.st_uid,
                new.stat.st_gid,
            )
            if (
                arrival.moved_from is None
                and arrival.linked_to is None
                and arrival.merged is None
                and not new.is_directory
                and new.layer_dir.layer.writable
                and new.data is None
                and new.layer_dir.layer.override is None
                and is_plain
                and not arrival.change.kept
            ):
                where = b"/".join((*new.layer_dir.components(), new.name))
                if (
                    where != self._comparison.above + arrival.change.path
                ):  # the index alone makes it a name of that
                    elsewhere.add(new.inode)
                stats[new.inode] = new.stat
                found[new.inode] = found.get(new.inode, 0) + 1
        return {
            inode
            for inode, count in found.items()
            if count == stats[inode].st_nlink and inode not in elsewhere
        }

    def _is_one_file_system(self) -> bool:
        store, target = (os.fstat(self._places.roots[one]) for one in ("store", "target"))
        begun_beside = os.fstat(self._fd).st_dev != store.st_dev
        return store.st_dev == target.st_dev and not begun_beside and self._store_is_within()

    def _store_is_within(self) -> bool:
        inside = os.stat(b"upper", dir_fd=self._fd, follow_symlinks=False)
        return os.path.samestat(inside, os.fstat(self._places.roots["store"]))

    def _copy_up_links(self) -> None:
        """Have the kernel's overlayfs copy up the files with several names that leave theirs, which it does anyway."""
        plan = self._plan
        plan.departures = [
            one if one.is_removed else replace(one, seen=self._copied_up(one.path, one.seen))
            for one in plan.departures
        ]
        for arrival in plan.arrivals:
            if arrival.displaced is not None:
                path = arrival.change.path
                arrival.displaced = self._copied_up(path, arrival.displaced)

    def _copied_up(self, path: bytes, seen: Seen) -> Seen:
        with self._places.parent("target", os.fsdecode(path)) as (fd, name):
            st = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if st.st_nlink == 1 or not seen.is_still(st):
                return seen
            if stat.S_ISLNK(st.st_mode):
                os.chown(name, -1, -1, dir_fd=fd, follow_symlinks=False)
            else:
                os.chmod(name, stat.S_IMODE(st.st_mode), dir_fd=fd)
            st = os.stat(name, dir_fd=fd, follow_symlinks=False)
        return seen._replace(ino=st.st_ino)

    # The steps

    def _consuming(self) -> Iterator[Step]:
        if not self._request.consumes:
            return
        upper = self._places.roots["upper"]
        for name in sorted(os.listdir(upper)):
            st = os.stat(name, dir_fd=upper, follow_symlinks=False)
            seen = Seen(st.st_ino, st.st_mode, st.st_uid, st.st_gid)
            yield Step("move", "store", name, "upper", name, seen)

    def _leaving(self) -> Iterator[Step]:
        for one in self._plan.departures:
            self._serial += 1
            aside = f"old/{self._serial}"
            self._aside[one.path] = aside
            path = os.fsdecode(one.path)
            if one.is_removed:
                seen = self._stand_ins[one.path] = self._stand_in(path, f"new/{self._serial}")
                yield Step("remove", "state", aside, "target", path, seen, one.seen)
            else:
                yield Step("move", "state", aside, "target", path, one.seen)

    def _stand_in(self, path: str, made: str) -> Seen:
        """Make an empty directory with the metadata of one of the target's, but for its times."""
        source = opened_past_modes(lambda: self._places.open("target", path))
        try:
            os.mkdir(made, _RWX, dir_fd=self._fd)
            copy = os.open(made, INODE, dir_fd=self._fd)
            try:
                past_modes(
                    lambda: inodes.copy(source, copy, data=False, skip_xattrs=OVERLAY_PREFIXES)
                )
                mode = stat.S_IMODE(os.fstat(source).st_mode)
                os.chmod(f"/proc/self/fd/{copy}", mode | _RWX)
                return Seen.of(os.fstat(copy), ctime_ns=0)
            finally:
                os.close(copy)
        finally:
            os.close(source)

    def _arriving(self) -> Iterator[Step]:
        departures = {one.path: one.seen for one in self._plan.departures}
        for arrival in counted_all(self._plan.arrivals, "preparing files"):
            self._comparison.trim()
            change = arrival.change
            new = change.new
            assert new is not None
            if self._whole.holds(change.path):
                continue
            strip: dict[str, str] = {}
            name = os.fsdecode(change.path)
            held = self._whole.held.get(change.path)
            source_root: Root = "state"
            if arrival.moved_from is not None:
                source = self._aside[arrival.moved_from]
                seen = departures[arrival.moved_from]._replace(ctime_ns=0, digest="")
            elif held is not None or new.inode in self._movable:
                source_root, source = "store", name
                if is_marked(new):
                    strip = new.read(partial(overlay_xattrs, os.fsdecode(new.path)))
                seen = Seen.of(new.stat, ctime_ns=0)
            else:
                source = self._stage(arrival, new)
                st = os.stat(source, dir_fd=self._fd, follow_symlinks=False)
                seen = Seen.of(st, ctime_ns=0)
            yield Step(
                "move" if arrival.displaced is None else "exchange",
                "target",
                name,
                source_root,
                source,
                seen,
                arrival.displaced,
                strip,
                held=tuple(held or ()),
            )
            reach("apply.made")

    def _opening(self) -> Iterator[Step]:
        """Let the owner write in the directories, and note the times that they have."""
        found = {one.old_path: one.stat for one in self._plan.kept} | self._plan.opened
        found[b""] = self._state.root_times
        for path in sorted(found, key=lambda one: one.split(b"/")):
            st = found[path]
            mode = stat.S_IMODE(st.st_mode)
            widened = mode | _RWX if os.geteuid() else mode
            stand_in = self._stand_ins.get(path)
            is_set = widened != mode or stand_in is not None
            yield Step(
                "open",
                "target",
                os.fsdecode(path),
                moved=Seen(st.st_ino, st.st_mode),
                displaced=stand_in,
                old=Meta(mode=mode if is_set else None, mtime_ns=st.st_mtime_ns),
                new=None if widened == mode else Meta(mode=widened),
            )
        yield from self._opening_upper()

    def _opening_upper(self) -> Iterator[Step]:
        if not self._request.consumes:
            return
        upper = self._places.roots["upper"]
        st = os.fstat(upper)
        yield Step(
            "open",
            "upper",
            "",
            moved=Seen(st.st_ino, st.st_mode),
            old=Meta(mtime_ns=st.st_mtime_ns),
        )
        paths = {os.fsencode(name) for name in os.listdir(upper)} if os.geteuid() else set()
        for arrival in self._plan.arrivals:
            new, above = arrival.change.new, arrival.change.path
            assert new is not None
            if self._whole.holds(above):
                continue
            if above in self._whole.held or new.inode in self._movable:
                while (above := parent(above)) and above not in paths:
                    paths.add(above)
        for path in sorted(paths, key=lambda one: one.split(b"/")):
            found = self._places.stat("upper", os.fsdecode(path))
            if found is None or not stat.S_ISDIR(found.st_mode):
                continue
            mode = stat.S_IMODE(found.st_mode)
            widens = os.geteuid() != 0 and mode & _RWX != _RWX
            yield Step(
                "open",
                "upper",
                os.fsdecode(path),
                moved=Seen(found.st_ino, found.st_mode),
                old=Meta(mode=mode if widens else None, mtime_ns=found.st_mtime_ns),
                new=Meta(mode=mode | _RWX) if widens else None,
            )

    def _closing(self, arriving: Sequence[Step]) -> Iterator[Step]:
        """The metadata of all directories, the deepest first: a mode may forbid to go there."""
        made = {step.path: step.moved for step in arriving}
        found: dict[bytes, Step] = {}
        for arrival in self._plan.arrivals:
            new = arrival.change.new
            assert new is not None
            path = arrival.change.path
            if new.is_directory and arrival.moved_from is None and not self._whole.holds(path):
                moved = made[os.fsdecode(path)]
                found[path] = Step(
                    "close",
                    "target",
                    os.fsdecode(path),
                    moved=moved,
                    # Its owner has to take out again what it holds.
                    old=Meta(mode=stat.S_IMODE(new.mode) | _RWX) if os.geteuid() else None,
                    new=Meta(
                        mode=stat.S_IMODE(new.mode),
                        atime_ns=new.stat.st_atime_ns,
                        mtime_ns=new.stat.st_mtime_ns,
                    ),
                )
        for kept in self._plan.kept:
            found[kept.path] = self._closing_kept(kept.path, kept.old_path, kept.stat, kept.change)
        if b"" not in found:
            st = self._state.root_times
            found[b""] = Step(
                "close",
                "target",
                "",
                moved=Seen(st.st_ino, st.st_mode),
                old=Meta(),
                new=Meta(mtime_ns=st.st_mtime_ns),
            )
        for path in sorted(found, key=lambda one: one.split(b"/"), reverse=True):
            yield found[path]
        if self._request.consumes:
            st = os.fstat(self._places.roots["upper"])
            seen = Seen(st.st_ino, st.st_mode)
            yield Step("close", "upper", "", moved=seen, new=Meta(mtime_ns=st.st_mtime_ns))

    def _closing_kept(
        self, path: bytes, old_path: bytes, st: os.stat_result, change: Change | None
    ) -> Step:
        mode = stat.S_IMODE(st.st_mode)
        opened = mode if os.geteuid() == 0 else mode | _RWX
        old = Meta(mode=opened)  # taking back the first steps restores the rest
        new = Meta(mode=mode if os.geteuid() else None, mtime_ns=self._time_of(path, st))
        if change is not None and change.new is not None:
            version = change.new
            xattrs = self._new_xattrs(change.xattrs)
            old = Meta(
                mode=opened,
                uid=st.st_uid,
                gid=st.st_gid,
                xattrs=self._old_xattrs(old_path, xattrs),
            )
            has_owner = "owner" in change.what
            new = Meta(
                mode=stat.S_IMODE(version.mode),
                uid=version.uid if has_owner else None,
                gid=version.gid if has_owner else None,
                xattrs=xattrs,
                mtime_ns=version.stat.st_mtime_ns,
            )
        return Step(
            "close",
            "target",
            os.fsdecode(path),
            moved=Seen(st.st_ino, st.st_mode),
            old=old,
            new=new,
        )

    def _time_of(self, path: bytes, st: os.stat_result) -> int | None:
        """The time of modification that the view shows of a directory; None: that of the last step."""
        if self._request.paths:
            return None
        found = self._comparison.new.at(path) if path else None
        if path and found is not None:
            shown: int = found[2].stat.st_mtime_ns
            return shown
        if not path:
            return self._comparison.new.version_of_root().stat.st_mtime_ns
        return st.st_mtime_ns

    def _new_xattrs(self, given: Mapping[bytes, bytes | None]) -> dict[str, str | None]:
        return {
            os.fsdecode(name): None if value is None else value.hex()
            for name, value in given.items()
            if not name.startswith(OVERLAY_PREFIXES)
        }

    def _old_xattrs(self, path: bytes, names: Mapping[str, str | None]) -> dict[str, str | None]:
        if not names:
            return {}
        fd = self._places.open("target", os.fsdecode(path))
        try:
            values = {
                name: attributes.xattr_or_none(f"/proc/self/fd/{fd}", os.fsencode(name))
                for name in names
            }
        finally:
            os.close(fd)
        return {name: None if value is None else value.hex() for name, value in values.items()}

    # The files

    def _stage(self, arrival: Arrival, new: Version) -> str:
        """Make a new file, complete. Returns: its path in the state directory."""
        self._serial += 1
        path = f"new/{self._serial}"
        if arrival.linked_to is not None:
            with self._places.parent("target", os.fsdecode(arrival.linked_to)) as (fd, name):
                os.link(name, path, src_dir_fd=fd, dst_dir_fd=self._fd, follow_symlinks=False)
            return path
        if not new.is_directory and new.stat.st_nlink > 1:
            if new.inode in self._made_for:
                os.link(
                    self._made_for[new.inode],
                    path,
                    src_dir_fd=self._fd,
                    dst_dir_fd=self._fd,
                    follow_symlinks=False,
                )
                return path
            self._made_for[new.inode] = path
        try:
            if arrival.merged is None:
                self._make(new, path, arrival.change.kept)
            else:
                self._make_merged(arrival.merged, path)
        except OSError as error:
            raise OSError(error.errno, error.strerror, arrival.change.path) from None
        return path

    def _make(self, new: Version, path: str, kept: Mapping[bytes, bytes]) -> None:
        source = new.open_inode()
        try:
            target = self._make_empty(new, path)
            try:
                self._fill(new, source, target, kept)
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _make_merged(self, text: merging.Text, path: str) -> None:
        fd = os.open(path, NEW_FILE, 0o600, dir_fd=self._fd)
        try:
            merging.make(text, fd)
        finally:
            os.close(fd)

    def _make_empty(self, new: Version, path: str) -> int:
        if new.is_regular:
            return os.open(path, NEW_FILE, 0o600, dir_fd=self._fd)
        if new.is_directory:
            os.mkdir(path, _RWX, dir_fd=self._fd)
        elif stat.S_ISLNK(new.mode):
            os.symlink(new.readlink(), path, dir_fd=self._fd)
        else:
            os.mknod(path, new.type | 0o600, new.device, dir_fd=self._fd)
        return os.open(path, INODE, dir_fd=self._fd)

    def _fill(self, new: Version, source: int, target: int, kept: Mapping[bytes, bytes]) -> None:
        skip: tuple[bytes, ...] = OVERLAY_PREFIXES
        if new.layer_dir.layer.override is not None:
            skip = (*skip, *overrides.NAMES)
        if new.is_regular:
            data = new.open()
            try:
                inodes.copy(data, target, metadata=False)
            finally:
                os.close(data)

        def copy() -> None:
            inodes.copy(source, target, data=False, uid=new.uid, gid=new.gid, skip_xattrs=skip)

        try:
            copy()
        except PermissionError:  # a mode denies access to attributes
            new.read(copy)
        mode = stat.S_IMODE(new.mode) | (_RWX if new.is_directory else 0)
        path = f"/proc/self/fd/{target}"
        for name, value in kept.items():
            os.setxattr(path, name, value)
        if not stat.S_ISLNK(new.mode) and stat.S_IMODE(os.stat(path).st_mode) != mode:
            os.chmod(path, mode)
