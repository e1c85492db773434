"""Snapshots of named views: uppers that were frozen. Each is a layer of the views that go on from it.

    VIEWS/NAME/snapshots/ID/upper               what was written until then, and never changes again
    VIEWS/NAME/snapshots/ID/.upper.overlaykit   its work directory, with the index of its hard links and the originals
    VIEWS/NAME/snapshots/ID/snapshot.json       when it was made, and its name
    VIEWS/NAME/snapshots/ID/parent              the id of the one that it lies on; missing: on the layers alone
    VIEWS/NAME/snapshots/head                   the id of the one that the upper lies on, likewise
    VIEWS/NAME/snapshots/pending                a change of the upper that is not finished

A snapshot stays in the directory of the view that it was made of. Other views find it there by its id, which is unique
among all views: a view with snapshots that others use is not removed.

A change of the upper is a few renames, and nothing is copied. `pending` is written before the first one and removed
after the last: `settle` finishes what a killed process left, or takes it back if the upper is still in its place. It,
`parent` and `head` are symbolic links, whose targets are the text: file systems keep these in the order of the renames,
without a sync.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time

from overlaykit import codec, inodes
from overlaykit.errors import Error
from overlaykit.fuse.cleanup import lock_directory
from overlaykit.layers import Layer
from overlaykit.layers.staging import staged, temporary_name
from overlaykit.namespace import errno_as_root, is_privileged
from overlaykit.overlay import features
from overlaykit.overlay.beside import work_beside
from overlaykit.overlay.faults import reach
from overlaykit.overlay.marker_names import TRUSTED_PREFIX, USER_PREFIX
from overlaykit.reader import opened_past_modes
from overlaykit.record import Record
from overlaykit.views import named, places, scratch
from overlaykit.views.kept import names_locked
from overlaykit.views.named import NamedView, NameTaken, NoSuchView, ViewRuns
from overlaykit.views.registry import NameInvalid, is_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Final

BEGINNING: Final = "start"
"""Stands for the view as it began: its layers alone."""

_RECORD: Final = "snapshot.json"
_PARENT: Final = "parent"
_HEAD: Final = "head"
_PENDING: Final = "pending"
_INDEX: Final = "index"
_NEXT: Final = "next"
_FOLLOWING: Final = (_NEXT, os.path.basename(work_beside("/" + _NEXT)))
"""The upper that takes the place of the frozen one, and the work directory that a daemon makes for it."""
_WIDENED: Final = "mode."
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PREFIXES: Final = (TRUSTED_PREFIX, USER_PREFIX)
_KEPT: Final = tuple(prefix + name for prefix in _PREFIXES for name in (b"began", b"restored"))
"""What a new upper has of the markers of the one before it: since when the view's changes are known."""


class NoSuchSnapshot(Error):
    message = "{0}@{1}: the view has no such snapshot: 'overlaykit log {0}' lists them"


class SnapshotAmbiguous(Error):
    message = "{0}@{1}: several snapshots begin so: 'overlaykit log {0}' lists them"


class SnapshotTaken(Error):
    message = "{0}@{1}: there is a snapshot of that name: choose another one"


class SnapshotNameInvalid(Error):
    message = (
        "{0}: no name of a snapshot: up to 63 letters, digits, '.', '_' and '-', beginning with a letter or a digit, "
        f"and not '{BEGINNING}'; -m takes any text"
    )


class NothingToFreeze(Error):
    message = "{0}: nothing was written in it yet: 'overlaykit start {0}' first"


class ViewEnds(Error):
    message = "{0}: it is removed when its command ends: only a view without --rm has snapshots"


class SnapshotBegun(Error):
    message = "{0}: a snapshot of it was cut off, and its daemon may still finish it: try again, or stop the view"


class SnapshotLost(Error):
    message = "{0}: its snapshot {1} is gone, and with it what was written until then: 'overlaykit rm {0}'"


class SnapshotUsed(Error):
    message = "{0}: the view {1} goes on from its snapshot {2}: remove that one first ('overlaykit rm {1}')"


class Snapshot(Record, kw_only=True):
    """A frozen upper. `parent`: the id of the one that it lies on; None: on the layers, those of `-l` then.

    `time`: in nanoseconds since the epoch.
    """

    id: str
    parent: str | None = None
    name: str = ""
    message: str = ""
    time: int
    layers: tuple[str, ...] = ()


class Pending(Record, kw_only=True):
    """A change that is not finished. `id`: the directory that the upper goes to. `head`: the one after the change.

    `keeps`: that directory is a snapshot; else it is dropped.
    """

    id: str
    head: str | None
    keeps: bool

    @classmethod
    def parse(cls, text: str) -> Pending:
        """The change that `str` of it names."""
        name, newest, keeps = text.split("/")
        return cls(id=name, head=newest or None, keeps=keeps == "kept")

    def __str__(self) -> str:
        return f"{self.id}/{self.head or ''}/{'kept' if self.keeps else 'dropped'}"


# Reading


def chain(view: NamedView, *, locked: bool = False) -> list[Snapshot]:
    """The snapshots that the upper of a view lies on, newest first. `locked`: the caller holds `NamedView.lock`.

    Raises: SnapshotLost, ViewRuns, OSError.
    """
    if not view.has_snapshots:
        return []
    settle(view, locked=locked)
    return chain_from(view, head(view))


def chain_from(view: NamedView, newest: str | None) -> list[Snapshot]:
    """A snapshot, and those below it. Raises: SnapshotLost."""
    found = []
    while newest is not None:
        found.append(_read(view, newest))
        newest = found[-1].parent
    return found


def head(view: NamedView) -> str | None:
    """The id of the snapshot that the upper of a view lies on."""
    return _read_text(os.path.join(_own(view), _HEAD))


def everything(view: NamedView) -> list[Snapshot]:
    """The snapshots of a view, and those of other views that it lies on, newest first. Raises: as `chain`."""
    if not view.has_snapshots:
        return []
    settle(view)
    return _everything(view)


def _everything(view: NamedView) -> list[Snapshot]:
    found = {one.id: one for one in chain_from(view, head(view))}
    for name in _ids(_own(view)):
        if name not in found:
            with contextlib.suppress(SnapshotLost):
                found[name] = _read(view, name)
    return sorted(found.values(), key=lambda one: (-one.time, one.id))


def find(view: NamedView, text: str) -> Snapshot | None:
    """The snapshot that a name, an id or the beginning of an id means; None: `BEGINNING`.

    Raises: NoSuchSnapshot, SnapshotAmbiguous.
    """
    if text == BEGINNING:
        return None
    known = everything(view)
    exact = [one for one in known if text in (one.name, one.id)]
    found = exact or [one for one in known if text and one.id.startswith(text)]
    if not found:
        raise NoSuchSnapshot(view.name, text)
    if len(found) > 1:
        raise SnapshotAmbiguous(view.name, text)
    return found[0]


def layers(view: NamedView, snapshots: Sequence[Snapshot]) -> tuple[Layer, ...]:
    """Snapshots as layers, in the same order. Raises: SnapshotLost."""
    found = []
    for one in snapshots:
        place = _place(view, one.id)
        path = os.path.join(place, scratch.UPPER)
        index = os.path.join(work_beside(path), _INDEX)
        held = index if _holds_something(index) else None
        found.append(Layer(name=path, path=path, frozen=True, index=held))
    return tuple(found)


def size(view: NamedView, snapshot: Snapshot) -> int:
    """The bytes that a snapshot's own files take on the disk; what cannot be read is left out. Raises: SnapshotLost."""
    total, seen = 0, set()
    for above, directories, files in os.walk(_place(view, snapshot.id)):
        for name in (*directories, *files):
            with contextlib.suppress(OSError):
                st = os.lstat(os.path.join(above, name))
                if (st.st_dev, st.st_ino) not in seen:
                    seen.add((st.st_dev, st.st_ino))
                    total += st.st_blocks * 512
    return total


def has_links(view: NamedView) -> bool:
    """Whether the upper of a view has an index of hard links that is not empty."""
    return _holds_something(os.path.join(_upper_and_work(view)[1], _INDEX))


def require_unused(view: NamedView) -> None:
    """Refuse a view with snapshots that other views lie on. Raises: SnapshotUsed."""
    own = set(_ids(_own(view)))
    if not own:
        return
    for other in _others(view):
        used = own & _references(other)
        if used:
            raise SnapshotUsed(view.name, os.path.basename(os.path.dirname(other)), min(used))


# Changing


def take(
    view: NamedView,
    *,
    name: str = "",
    message: str = "",
    layers: Sequence[str] = (),
    freeze: Callable[[str], None] | None = None,
) -> Snapshot:
    """Freeze the upper of a view: what is written from now on goes to a new one.

    `freeze`: freezes the upper of a view that runs into a directory; without it the view is stopped, and the caller
    holds `NamedView.lock`. Raises: Error, OSError: nothing has changed.
    """
    _require_lasting(view)
    if name and (not is_name(name) or name == BEGINNING):
        raise SnapshotNameInvalid(name)
    if not os.path.isdir(os.path.join(view.directory, scratch.UPPER)) and not view.has_snapshots:
        raise NothingToFreeze(view.name)
    with _alone(view):
        return _take(view, name, message, layers, freeze)


def _take(
    view: NamedView,
    name: str,
    message: str,
    layers: Sequence[str],
    freeze: Callable[[str], None] | None,
) -> Snapshot:
    _settle(view, is_running=freeze is not None)
    if _read_pending(view) is not None:
        raise SnapshotBegun(view.name)
    if not os.path.isdir(os.path.join(view.directory, scratch.UPPER)):
        raise NothingToFreeze(view.name)
    if name and any(name in (one.name, one.id) for one in _everything(view)):
        raise SnapshotTaken(view.name, name)
    made = Snapshot(
        id=os.urandom(6).hex(),
        parent=head(view),
        name=name,
        message=message,
        time=time.time_ns(),
        layers=tuple(layers),
    )
    place = os.path.join(_own(view), made.id)
    with _pending(view, Pending(id=made.id, head=made.id, keeps=True), freeze is not None):
        os.mkdir(place, 0o700)
        _write_text(os.path.join(place, _PARENT), made.parent)
        with open(os.path.join(place, _RECORD), "wb") as file:
            file.write(codec.encode(made))
        if freeze is not None:
            freeze(os.path.join(view.path, named.SNAPSHOTS, made.id))
        else:
            _swap(view, made.id, os.path.join(view.directory, scratch.UPPER))
    return made


def restore(
    view: NamedView, snapshot: Snapshot | None, *, keeps: bool, layers: Sequence[str] = ()
) -> Snapshot | None:
    """Have a stopped view show a snapshot again; None: its layers alone. The caller holds `NamedView.lock`.

    `keeps`: what was written since the last snapshot becomes one itself, if there is some. Returns: that one.
    Raises: Error, OSError: nothing has changed, but that there may be that snapshot.
    """
    upper = os.path.join(view.directory, scratch.UPPER)
    if not view.has_snapshots:
        raise NothingToFreeze(view.name)
    with _alone(view):
        _settle(view)
        saved = None
        if keeps and _holds_something(upper):
            where = BEGINNING if snapshot is None else snapshot.name or snapshot.id
            saved = _take(view, "", f"before restore to {where}", layers, None)
        like = upper
        if snapshot is not None:
            like = os.path.join(_place(view, snapshot.id), scratch.UPPER)
        newest = None if snapshot is None else snapshot.id
        dropped = f".dropped-{os.urandom(6).hex()}"
        with _pending(view, Pending(id=dropped, head=newest, keeps=False), False):
            os.mkdir(os.path.join(_own(view), dropped), 0o700)
            _swap(view, dropped, like)
        return saved


def newest(view: NamedView, message: str, layers: Sequence[str] = ()) -> Snapshot | None:
    """The snapshot that has all that was written in a stopped view, made now if need be; None: nothing was.

    The caller holds `NamedView.lock`. Raises: as `take`.
    """
    upper = os.path.join(view.directory, scratch.UPPER)
    found = chain(view, locked=True)
    if not _holds_something(upper):
        return found[0] if found else None
    return take(view, message=message, layers=layers)


def branch(view: NamedView, snapshot: Snapshot | None, name: str) -> NamedView:
    """Make another view, which goes on from a snapshot of this one. None: from the layers alone.

    Raises: NameInvalid, NameTaken, Error, OSError.
    """
    _require_lasting(view)
    if not is_name(name):
        raise NameInvalid(name)
    definition = view.definition().replace(created=time.time_ns())
    store = places.views()
    with staged(store, base="/") as (_, path):
        with open(os.path.join(path, named.DEFINITION), "wb") as file:
            file.write(codec.encode(definition))
        if snapshot is not None:
            os.mkdir(os.path.join(path, named.SNAPSHOTS), 0o700)
            _write_text(os.path.join(path, named.SNAPSHOTS, _HEAD), snapshot.id)
            like = os.path.join(_place(view, snapshot.id), scratch.UPPER)
            _as_owner(lambda: _make_upper(like, os.path.join(path, scratch.UPPER)))
        with names_locked(store):
            if os.path.lexists(os.path.join(store, name)):
                raise NameTaken(name)
            if snapshot is not None:
                _place(view, snapshot.id)  # it was not removed meanwhile
            os.rename(path, os.path.join(store, name))
    return NamedView(name)


def settle(view: NamedView, *, locked: bool = False) -> None:
    """Finish a change that was cut off, or take it back if the upper is still in its place.

    `locked`: the caller holds `NamedView.lock`. Raises: OSError.
    """
    if not os.path.lexists(os.path.join(_own(view), _PENDING)):
        return
    with _alone(view):
        lock = -1
        if not locked:
            with contextlib.suppress(ViewRuns):
                lock = view.lock()
        try:
            _settle(view, is_running=not locked and lock < 0)
        finally:
            if lock >= 0:
                os.close(lock)


def _settle(view: NamedView, *, is_running: bool = False) -> None:
    """As `settle`. Of a view that runs, nothing is done before its daemon has moved the upper."""
    pending = _read_pending(view)
    if pending is None:
        return
    place = os.path.join(_own(view), pending.id)
    if is_running and (
        not _has(place, scratch.UPPER) or any(_has(place, one) for one in _FOLLOWING)
    ):
        return
    _as_owner(lambda: _finish(view, pending, place))
    reach("snapshot.settled")
    if not pending.keeps:
        _drop(view, pending.id)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(_own(view), _PENDING))


def _finish(view: NamedView, pending: Pending, place: str) -> None:
    upper, work = _upper_and_work(view)
    if not _has(place, scratch.UPPER):
        _take_back(view, pending, place, work)
        return
    for name, path in zip(_FOLLOWING, (upper, work), strict=True):
        if _has(place, name):
            os.rename(os.path.join(place, name), path)
    reach("snapshot.begun")
    _write_text(os.path.join(_own(view), _HEAD), pending.head)
    reach("snapshot.pointed")


def _take_back(view: NamedView, pending: Pending, place: str, work: str) -> None:
    moved = work_beside(os.path.join(place, scratch.UPPER))
    if os.path.lexists(moved):
        os.rename(moved, work)
    _drop(view, pending.id)


def _swap(view: NamedView, directory: str, like: str) -> None:
    """Move the upper of a stopped view away, to `directory` of its snapshots, and put an empty one in its place.

    `like`: the upper whose root the new one gets the attributes of.
    """
    lock = _lock_upper(view)
    try:
        _as_owner(lambda: _move(view, directory, like))
    finally:
        os.close(lock)


def _move(view: NamedView, directory: str, like: str) -> None:
    upper, work = _upper_and_work(view)
    place = os.path.join(_own(view), directory)
    _recover(upper, work)
    following = os.path.join(place, _NEXT)
    if os.path.lexists(following):  # begun with too few rights
        os.rmdir(following)
    _make_upper(like, following)
    reach("snapshot.made")
    frozen = os.path.join(place, scratch.UPPER)
    if os.path.lexists(work):
        os.rename(work, work_beside(frozen))
    reach("snapshot.emptied")
    os.rename(upper, frozen)
    reach("snapshot.frozen")


def _make_upper(like: str, path: str) -> None:
    """Make an empty upper with the attributes of another one's root."""
    os.mkdir(path, 0o700)
    source, made = _open_directory(like), os.open(path, _DIRECTORY)
    try:
        inodes.copy(source, made, data=False, skip_xattrs=_PREFIXES, keep_xattrs=_KEPT)
        for prefix in _PREFIXES:
            root = b"/proc/self/fd/%d" % source
            if features.read(root, prefix) is not None:
                # With a record it does not count as new: it began when the one before it did.
                st = os.fstat(made)
                features.write(b"/proc/self/fd/%d" % made, prefix, ())
                os.utime(made, ns=(st.st_atime_ns, st.st_mtime_ns))
    finally:
        os.close(source)
        os.close(made)


# Files


def _own(view: NamedView) -> str:
    """The directory of a view's own snapshots; it may be missing. Valid as `NamedView.directory`."""
    return os.path.join(view.directory, named.SNAPSHOTS)


def _upper_and_work(view: NamedView) -> tuple[str, str]:
    upper = os.path.join(view.directory, scratch.UPPER)
    return upper, work_beside(upper)


def _ids(directory: str) -> list[str]:
    """The ids of the snapshots in a directory of snapshots."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    return [
        one
        for one in names
        if os.path.isfile(os.path.join(directory, one, _RECORD))
        and not os.path.islink(os.path.join(directory, one))  # the link `head` may lead to one
    ]


def _place(view: NamedView, snapshot: str) -> str:
    """The directory of a snapshot, by the name that its view has now. Raises: SnapshotLost."""
    if os.path.isfile(os.path.join(_own(view), snapshot, _RECORD)):
        return os.path.join(view.path, named.SNAPSHOTS, snapshot)
    for other in _others(view):
        found = os.path.join(other, snapshot)
        if os.path.isfile(os.path.join(found, _RECORD)):
            return found
    raise SnapshotLost(view.name, snapshot)


def _others(view: NamedView) -> Iterator[str]:
    """The directories of the snapshots of other views."""
    own, store = view.name, places.views()
    for name in sorted(os.listdir(store)):
        path = os.path.join(store, name, named.SNAPSHOTS)
        if name != own and not name.startswith(".") and os.path.isdir(path):
            yield path


def _references(directory: str) -> set[str]:
    """The ids of the snapshots on which those of a directory, and the upper beside it, lie."""
    texts = [os.path.join(directory, one, _PARENT) for one in _ids(directory)]
    found = (_read_text(one) for one in (os.path.join(directory, _HEAD), *texts))
    return {one for one in found if one is not None}


def _read(view: NamedView, snapshot: str) -> Snapshot:
    """Raises: SnapshotLost."""
    place = _place(view, snapshot)
    parent = _read_text(os.path.join(place, _PARENT))
    try:
        with open(os.path.join(place, _RECORD), "rb") as file:
            found: Snapshot = codec.decode(file.read(), Snapshot)
    except (OSError, ValueError):  # the machine stopped before it was on the disk
        found = Snapshot(id=snapshot, time=os.stat(place).st_ctime_ns)
    return found.replace(parent=parent)


def _read_text(path: str) -> str | None:
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return None


def _write_text(path: str, text: str | None) -> None:
    """Replace a text, or remove it."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path if text is None else path + ".new")
    if text is not None:
        os.symlink(text, path + ".new")
        os.rename(path + ".new", path)


def _read_pending(view: NamedView) -> Pending | None:
    text = _read_text(os.path.join(_own(view), _PENDING))
    return None if text is None else Pending.parse(text)


@contextlib.contextmanager
def _alone(view: NamedView) -> Iterator[None]:
    """Keep other processes from changing the snapshots of a view."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(_own(view), 0o700)
    lock = lock_directory(_own(view), fcntl.LOCK_EX)
    if lock < 0:
        raise NoSuchView(view.name)
    try:
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def _pending(view: NamedView, pending: Pending, is_running: bool) -> Iterator[None]:
    """Note a change, and settle it: after an error it is taken back, unless the upper was moved before that."""
    _write_text(os.path.join(_own(view), _PENDING), str(pending))
    reach("snapshot.noted")
    try:
        yield
    except BaseException:
        place = os.path.join(_own(view), pending.id)
        # A daemon that has not answered may still move the upper.
        if not is_running or not _has(place, _NEXT):
            _settle(view)
        raise
    _settle(view)


def _has(directory: str, name: str) -> bool:
    return os.path.lexists(os.path.join(directory, name))


def _drop(view: NamedView, name: str) -> None:
    """Remove a directory of the snapshots; `staged` removes what a killed process leaves of it."""
    unnamed = os.path.join(places.views(), temporary_name())
    with contextlib.suppress(FileNotFoundError):
        os.rename(os.path.join(_own(view), name), unnamed)
        scratch.remove(unnamed)


def _require_lasting(view: NamedView) -> None:
    if view.definition().temporary:
        raise ViewEnds(view.name)


def _holds_something(directory: str) -> bool:
    """Whether a directory is there and holds something; one that cannot be read may."""
    try:
        with os.scandir(directory) as entries:
            return next(entries, None) is not None
    except FileNotFoundError:
        return False
    except PermissionError:
        return True


def _open_directory(path: str) -> int:
    return opened_past_modes(lambda: os.open(path, _DIRECTORY))


def _lock_upper(view: NamedView) -> int:
    """Lock the upper as daemons do. Raises: Error if a mount uses it."""
    from overlaykit.views import locks

    upper = os.path.join(view.directory, scratch.UPPER)
    lock = _open_directory(upper)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise locks.upper_taken(os.path.join(view.path, scratch.UPPER)) from None
    return lock


def _recover(upper: str, work: str) -> None:
    """Restore the modes that a daemon widened before it was killed: nothing will write in this upper again."""
    try:
        names = os.listdir(os.path.join(work, "work"))
    except FileNotFoundError:
        return
    if any(name.startswith(_WIDENED) for name in names):
        from overlaykit.overlay import uppers

        opened = [_open_directory(one) for one in (upper, work)]
        try:
            uppers.recover(*opened)
        finally:
            for descriptor in opened:
                os.close(descriptor)


def _as_owner(body: Callable[[], None]) -> None:
    """Run `body`; again with rights over files of the caller's subordinate ids, if that takes them.

    Requires: what it has done before an error does no harm when it is done again.
    """
    try:
        body()
    except PermissionError:
        if is_privileged():
            raise
        number = errno_as_root(body)
        if number:
            raise OSError(number, os.strerror(number)) from None
