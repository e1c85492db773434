"""Write the changes of an upper into the layer below it: whole or not at all, and so that it can be taken back.

First everything is checked, then every new file is made complete in the state directory (`state`), then all steps are
written to the journal, and only then the first one is taken. Each is one rename, which a crash leaves done or not, and
what it displaces is checked once more. A failure in between takes all steps back.

Four syncs, however many files there are, bear the loss of power: of the file system before the journal says that all
is complete (what lies in the upper is not on the disk yet, either), of the journal before the first step, of the file
system before the journal says that it ended, and of the journal.
"""

from __future__ import annotations

import functools
import os
import stat
from contextlib import ExitStack

from overlaykit import attributes
from overlaykit.changes.journal import Applied, Undoing, Undone
from overlaykit.changes.planning import Conflict, plan
from overlaykit.changes.run import (
    Request,
    Run,
    UpperMoves,
    is_movable,
    mark_applied,
    not_applied,
    open_directory,
    read_began,
)
from overlaykit.changes.staging import Staging
from overlaykit.changes.state import CutOff, NothingApplied, State
from overlaykit.changes.steps import Places
from overlaykit.changes.target import Base, refuse_fixed
from overlaykit.overlay import originals
from overlaykit.overlay.faults import reach
from overlaykit.record import Record
from overlaykit.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Final

    from overlaykit.changes.model import Change
    from overlaykit.changes.planning import Choice, Plan
    from overlaykit.changes.read import Comparison
    from overlaykit.changes.target import LeftElsewhere

_CAPABILITY: Final = b"security.capability"


class Written(Record, kw_only=True):
    """A path that was changed. `old_path`: of a renamed one."""

    path: str
    kind: str
    old_path: str | None = None


class Notable(Record, kw_only=True):
    """A path that got something that lends rights: `set-user-ID`, `set-group-ID`, `capabilities`, `device`."""

    path: str
    what: str


class Outcome(Record, kw_only=True):
    """What was written, or would be. With `conflicts` nothing is. `skipped`: where the target's files stay.

    `overwritten`: where they gave way. `merged`: where both were merged.
    """

    written: tuple[Written, ...] = ()
    notable: tuple[Notable, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    skipped: tuple[Conflict, ...] = ()
    overwritten: tuple[Conflict, ...] = ()
    merged: tuple[Conflict, ...] = ()


def apply(
    comparison: Comparison,
    target: str,
    request: Request,
    *,
    dry_run: bool = False,
    left_elsewhere: LeftElsewhere | None = None,
) -> Outcome:
    """Write changes into the directory `target`.

    `left_elsewhere`: `left_names` of the whole view, as it was before a part of it was applied.
    Requires: no view uses the upper or the target.
    Raises: Error, OSError: the target is as it was.
    """
    with ExitStack() as stack:
        root = open_directory(target, stack)
        found = os.fstat(root)
        refuse_fixed(root)
        if dry_run:
            places = Places({"target": root})
            earlier = None
            with suppress(NothingApplied):
                earlier = State(root, target, create=False)
                stack.callback(earlier.close)
            base = _base(comparison, found, request, earlier, left_elsewhere)
            return _outcome(_plan(comparison, places, base, request))
        try:
            state = State(root, target, create=True)
        except OSError as error:
            raise not_applied(OSError(error.errno, error.strerror), target) from None
        stack.callback(state.close)
        _end_undone(state, root)
        _end_unplanned(state, root)
        base = _base(comparison, found, request, state, left_elsewhere)
        places = Places({"target": root})
        moves = request.consumes and is_movable(request.applied, root)
        made = _plan(comparison, places, base, request, moves=moves)
        outcome = _outcome(made)
        if outcome.conflicts:
            return outcome
        if made.is_empty and not (request.consumes and os.listdir(request.applied)):
            if request.consumes and not request.paths and not request.within:
                mark_applied(request.upper, state.passed_time())
            return outcome
        if request.is_last and not outcome.written:
            # Times of directories are no change, and no upper stays that would have to lose its copies of these.
            return outcome
        _refuse_to_move(request.upper, root, made)
        try:
            application = state.new()
        except OSError as error:
            raise not_applied(OSError(error.errno, error.strerror), target) from None
        stack.callback(application.close)
        run = Run(application, root, state)
        stack.callback(run.close)
        try:
            run.begin(request, tuple(one.path for one in made.merged))
            steps = Staging(comparison, run.places, state, request, made).steps()
            attributes.sync_file_system(root)
            reach("apply.staged")
            application.journal.plan(steps)
        except OSError as error:
            run.close()
            run.forget()
            raise not_applied(error, target) from None
        except BaseException:
            run.close()
            run.forget()
            raise
        reach("apply.planned")
        conflict = run.go_on(target)
        if conflict is not None:
            return outcome.replace(written=(), notable=(), conflicts=(conflict,))
        return outcome


def is_on_one_mount(upper: str, target: str) -> bool:
    """Whether the files of an upper can be renamed into a target. Raises: OSError."""
    with ExitStack() as stack:
        return is_movable(upper, open_directory(target, stack))


def resume(target: str, begin: Callable[[Request], Outcome]) -> Outcome:
    """Finish an application that was cut off. `begin`: applies again what was cut off before the first step.

    Raises: Error, OSError: as `apply`; NothingApplied if none was cut off.
    """
    request = None
    with ExitStack() as stack:
        root = open_directory(target, stack)
        state = _existing(root, target, "finish")
        stack.callback(state.close)
        _end_undone(state, root)
        names = state.names()
        if not names:
            raise NothingApplied(target, "finish")
        application = state.open(names[-1])
        stack.callback(application.close)
        if application.is_applied:
            raise NothingApplied(target, "finish")
        if application.is_unplanned:
            begun = application.begun
            Run(application, root, state).forget()
            if begun is None:
                raise NothingApplied(target, "finish")
            request = Request(
                upper=begun.upper,
                frozen=begun.frozen,
                lowers=begun.lowers,
                within=begun.within,
                without=begun.without,
                paths=begun.paths,
                choice=begun.choice,
                merges=begun.merges,
                consumes=begun.consumes,
                is_last=begun.is_last,
            )
        else:
            run = Run(application, root, state)
            stack.callback(run.close)
            run.open_upper()
            conflict = run.go_on(target, again=True)
            if conflict is None:
                return Outcome()
            return Outcome(conflicts=(conflict,))
    return begin(request)


def undo(target: str, *, force: bool = False, dry_run: bool = False) -> None:
    """Take back the last application to a target, or what was done of it. `force`: also what was changed since.

    `dry_run`: only check whether it can be taken back.
    Raises: Error, OSError: NothingApplied, NotUndone, UpperInUse: nothing is taken back.
    """
    with ExitStack() as stack:
        root = open_directory(target, stack)
        state = _existing(root, target, "take back")
        stack.callback(state.close)
        if not dry_run and _end_undone(state, root):
            return
        names = state.names()
        if not names:
            raise NothingApplied(target, "take back")
        application = state.open(names.pop())
        stack.callback(application.close)
        run = Run(application, root, state)
        stack.callback(run.close)
        if dry_run and (application.is_undone or application.is_unplanned):
            return
        if application.is_unplanned:
            run.forget()
            return
        run.open_upper(undoes=True, drops=force)
        if application.is_applied:
            run.check_unchanged(force=force)
        if dry_run:
            return
        if application.is_applied:
            application.journal.finish(Undoing())
        run.take_back(force=force)
        application.journal.finish(Undone(time_ns=state.passed_time()))
        reach("apply.undone")
        run.mark_restored(state.passed_time())
        state.remove(application.name)
        # The removal changes times of files with several names.
        run.mark_restored(state.passed_time())
        _note_touched(state, run.inodes())


def last_upper(target: str) -> str | None:
    """The upper of the last application to a target; None: there is none. Raises: Error, OSError."""
    with ExitStack() as stack:
        root = open_directory(target, stack)
        try:
            state = State(root, target, create=False)
        except NothingApplied:
            return None
        stack.callback(state.close)
        names = state.names()
        if not names:
            return None
        application = state.open(names[-1])
        stack.callback(application.close)
        return None if application.begun is None else application.begun.upper


def drop(target: str) -> int:
    """Give up taking back what was applied to a target, and remove what that needs. Returns: how many applications.

    Raises: Error, OSError: CutOff if the last one was cut off.
    """
    with ExitStack() as stack:
        root = open_directory(target, stack)
        state = _existing(root, target, "drop")
        stack.callback(state.close)
        for application in state.applications():
            if application.is_cut_off:
                raise CutOff(target)
        names = state.names()
        for application in state.applications():
            if application.is_applied:
                run = Run(application, root, state)
                run.remove_store()
                run.close()
            state.remove(application.name)
        return len(names)


def _note_touched(state: State, inodes: set[int]) -> None:
    """Note in earlier applications that overlaykit itself has renamed files since."""
    now = state.passed_time()
    for application in state.applications():
        end = application.journal.end
        if isinstance(end, Applied):
            touched = tuple(sorted(inodes.union(end.touched)))
            application.journal.finish(end.replace(touched=touched, touched_ns=now))


def _end_undone(state: State, root: int) -> bool:
    """Remove an application that was taken back, but for its directory. Returns: whether there was one."""
    names = state.names()
    if not names:
        return False
    application = state.open(names[-1])
    try:
        if not application.is_undone:
            return False
        end = application.journal.end
        assert isinstance(end, Undone)
        state.remove(application.name)
        Run(application, root, state).mark_restored(end.time_ns)
        return True
    finally:
        application.close()


def _end_unplanned(state: State, root: int) -> None:
    """Remove an application that ended before its first step. Raises: CutOff, OSError."""
    names = state.names()
    if names:
        application = state.open(names[-1])
        try:
            if application.is_cut_off:
                raise CutOff(state.path)
            if application.is_unplanned:
                Run(application, root, state).forget()
        finally:
            application.close()


def _existing(root: int, target: str, what: str) -> State:
    try:
        return State(root, target, create=False)
    except NothingApplied:
        raise NothingApplied(target, what) from None


def _encoded(paths: Sequence[str]) -> list[bytes]:
    return [os.fsencode(os.path.normpath(path).lstrip("/")) for path in paths]


def _choice(request: Request) -> Choice:
    return "ours" if request.choice == "ours" else "theirs" if request.choice == "theirs" else ""


def _base(
    comparison: Comparison,
    root: os.stat_result,
    request: Request,
    state: State | None,
    left_elsewhere: LeftElsewhere | None,
) -> Base:
    lowers = [os.stat(os.path.join(path, request.within)) for path in request.lowers]
    began = read_began(request.upper, request.within)
    written: dict[int, int] = {}
    if state is not None and began.is_steady:
        for one in state.applications():
            # Of this view alone: what another one wrote has changed since.
            if one.begun is None or one.begun.upper != request.upper:
                continue
            end = one.journal.end if one.is_applied else None
            if isinstance(end, Applied) and end.time_ns > began.since_ns:
                for step in one.journal.steps or ():
                    # What was merged holds changes that the view lacks.
                    is_of_view = step.path not in one.begun.merged
                    if step.root == "target" and step.moved is not None and is_of_view:
                        written[step.moved.ino] = end.time_ns
                        written.update(dict.fromkeys(step.held, end.time_ns))
    return Base(
        root=root,
        is_lower=len(lowers) == 1 and os.path.samestat(lowers[0], root),
        began=began,
        written=written,
        left_elsewhere=left_elsewhere
        or functools.cache(
            lambda: (
                left_names(request.upper, request.frozen, request.lowers)
                if request.within
                else set()
            )
        ),
        # What texts were before the view changed them first.
        originals=originals.beside(os.path.realpath([request.upper, *request.frozen][-1])),
        merges=request.merges,
    )


def left_names(upper: str, frozen: Sequence[str], lowers: Sequence[str]) -> set[int]:
    """The inode numbers of all that a view has deleted or renamed. Raises: OSError."""
    from overlaykit.changes.opening import open_stack
    from overlaykit.changes.read import Comparison

    found: set[int] = set()
    top, below = open_stack(upper, frozen, lowers)
    with Comparison.of_upper(top, below) as comparison:
        for change in comparison.changes():
            if change.old is None or change.kind not in ("deleted", "replaced", "renamed"):
                continue
            found.add(change.old.stat.st_ino)
            if change.kind != "renamed" and change.old.is_directory:
                found.update(version.stat.st_ino for _, version in comparison.held(change))
    return found


def _plan(
    comparison: Comparison, places: Places, base: Base, request: Request, *, moves: bool = False
) -> Plan:
    return plan(
        comparison,
        places,
        base,
        _encoded(request.paths),
        _choice(request),
        _encoded(request.without),
        moves=moves,
    )


def _refuse_to_move(upper: str, root: int, made: Plan) -> None:
    """Raises: UpperMoves if a directory that holds the upper leaves its name: nothing would find it there again."""
    moved = {one.seen.ino for one in made.departures}
    moved.update(one.displaced.ino for one in made.arrivals if one.displaced is not None)
    device = os.fstat(root).st_dev
    above = os.path.realpath(upper)
    while above != "/":
        st = os.stat(above)
        if st.st_dev == device and st.st_ino in moved:
            raise UpperMoves(upper, above)
        above = os.path.dirname(above)


def _outcome(made: Plan) -> Outcome:
    decided = bool(made.choice)
    return Outcome(
        written=tuple(
            written for one in made.changes if not one.is_touch for written in _written(one)
        ),
        notable=tuple(notable for one in made.changes for notable in _notable(one)),
        conflicts=() if decided else tuple(made.conflicts),
        skipped=tuple(made.skipped),
        overwritten=tuple(made.conflicts) if decided else (),
        merged=tuple(made.merged),
    )


def _written(change: Change) -> Iterator[Written]:
    old_path = change.old_path if change.kind == "renamed" else None
    yield Written(
        path=os.fsdecode(change.path) or ".",
        kind=change.kind,
        old_path=None if old_path is None else os.fsdecode(old_path),
    )
    if change.inside is not None:
        for path in change.inside.paths:
            yield Written(path=os.fsdecode(path), kind="added")


def _notable(change: Change) -> Iterator[Notable]:
    new, old = change.new, change.old
    if new is None or (change.kind == "renamed" and not change.what):
        return
    path = os.fsdecode(change.path)
    if stat.S_ISCHR(new.mode) or stat.S_ISBLK(new.mode):
        yield Notable(path=path, what="device")
    had = 0 if old is None or "content" in change.what else old.mode
    if new.is_regular:
        if new.mode & stat.S_ISUID & ~had:
            yield Notable(path=path, what="set-user-ID")
        if new.mode & stat.S_ISGID & ~had:
            yield Notable(path=path, what="set-group-ID")
    if change.xattrs.get(_CAPABILITY) is not None:
        yield Notable(path=path, what="capabilities")
