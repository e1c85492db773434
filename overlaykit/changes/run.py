"""The steps of one application, forwards and backwards, as its journal has them."""

from __future__ import annotations

import errno
import fcntl
import os
from collections import Counter
from contextlib import ExitStack
from itertools import groupby

from overlaykit import _native, attributes, mountinfo
from overlaykit.beneath import INODE
from overlaykit.changes.journal import Applied, Begun, Undoing
from overlaykit.changes.planning import Conflict
from overlaykit.changes.sides import prefix_of_new
from overlaykit.changes.steps import Displaced, Places, Step
from overlaykit.changes.target import refuse_fixed
from overlaykit.errors import Error
from overlaykit.overlay import began
from overlaykit.overlay.began import Began
from overlaykit.overlay.faults import reach
from overlaykit.overlay.marker_names import TRUSTED_PREFIX, USER_PREFIX
from overlaykit.overlay.markers import xattr_names
from overlaykit.progress import counted_all
from overlaykit.reader import opened_past_modes
from overlaykit.record import Record
from overlaykit.scope import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Final

    from overlaykit.changes.state import Application, State

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_TOGETHER: Final = 128
"""The most steps between two looks at whether a directory is still under its name."""
_GONE: Final = b"gone"
"""In the directory of an application: in place of an upper that is gone."""


class NotApplied(Error):
    message = "{0}: {1}: nothing is applied, and the target is as it was"


class NotUndone(Error):
    message = "{0}: it was changed since it was applied: 'overlaykit apply --undo --force' takes it back all the same"


class NotThere(Error):
    message = "{0}: another file is there since it was applied: move that away, then take back"


class UpperInUse(Error):
    message = "{0}: it holds other changes now: apply or remove these first"


class UpperGone(Error):
    message = (
        "{0}: the upper is gone, to which its files go back: make that directory again ('mkdir -p {0}'), or drop them "
        "('overlaykit apply --undo --force')"
    )


class UpperMounted(Error):
    message = "{0}: a view or a mount uses this upper: end that first ('overlaykit ps')"


class UpperMoves(Error):
    message = "{0}: the view moves or deletes the directory {1}, which holds this upper: move the upper away first"


class NotTakenBack(Error):
    message = "{0}: {1}, and not all is taken back: 'overlaykit apply --undo {0}' does the rest once that is mended"


class NoRoomBeside(Error):
    message = "{0}: its files cannot be put aside ({1}): keep them there (--keep)"


class Request(Record, kw_only=True):
    """What to apply. `upper`, `frozen`, `lowers`: paths of what is compared. `consumes`: the upper is empty afterwards.
    `is_last`: and then it is removed.

    `merges`: texts that both have changed are merged, before the `choice` counts.
    `within`: a directory of both that is applied, the root of all paths. `without`: paths that are left out.
    """

    upper: str
    frozen: tuple[str, ...] = ()
    lowers: tuple[str, ...]
    within: str = ""
    paths: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    choice: str = ""
    merges: bool = False
    consumes: bool = True
    is_last: bool = False

    @property
    def applied(self) -> str:
        """The directory of the upper that is applied."""
        return os.path.join(self.upper, self.within).rstrip("/")


class Run:
    """The steps of one application, forwards and backwards."""

    def __init__(self, application: Application, root: int, state: State) -> None:
        self._application = application
        self._state = state
        self._stack = ExitStack()
        self._opened: list[int] = []
        self._upper_is_gone = False
        self.places = Places({"target": root, "state": application.fd})

    def close(self) -> None:
        self._stack.close()

    def begin(self, request: Request, merged: tuple[str, ...] = ()) -> None:
        """Write what is asked for, and open the upper. `merged`: paths of files that are merged."""
        store = ""
        if request.consumes and not is_movable(request.applied, self.places.roots["target"]):
            above, name = os.path.split(os.path.realpath(request.upper))
            store = os.path.join(above, f".{name}.applied-{os.urandom(4).hex()}")
        root = os.fstat(self.places.roots["target"])
        self._application.journal.begin(
            Begun(
                root=root.st_ino,
                upper=request.upper,
                frozen=request.frozen,
                lowers=request.lowers,
                within=request.within,
                paths=request.paths,
                without=request.without,
                choice=request.choice,
                merges=request.merges,
                merged=merged,
                consumes=request.consumes,
                is_last=request.is_last,
                store=store,
            )
        )
        reach("apply.begun")
        if store:
            try:
                os.mkdir(store, 0o700)
            except OSError as error:
                raise NoRoomBeside(request.upper, error.strerror) from None
        self.open_upper()

    def open_upper(self, *, undoes: bool = False, drops: bool = False) -> None:
        """Open the upper, locked, and the directory for what it holds. Raises: UpperGone, UpperMounted, OSError.

        `undoes`: what it held gets back to it, or is dropped if it is gone, and was to be removed or with `drops`.
        """
        begun = self._begun
        if not begun.consumes:
            return
        if os.fstat(self.places.roots["target"]).st_ino != begun.root:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        try:
            upper = open_directory(begun.upper, self._stack)
            applied = open_directory(os.path.join(begun.upper, begun.within), self._stack)
        except FileNotFoundError:
            if not (undoes and (begun.is_last or drops)) or begun.store:
                raise UpperGone(os.path.join(begun.upper, begun.within).rstrip("/")) from None
            with suppress(FileExistsError):
                os.mkdir(_GONE, 0o700, dir_fd=self._application.fd)
            upper = os.open(_GONE, _DIRECTORY | os.O_NOFOLLOW, dir_fd=self._application.fd)
            self._stack.callback(os.close, upper)
            applied = upper
            self._upper_is_gone = True
        try:
            fcntl.flock(upper, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as daemons do
        except BlockingIOError:
            raise UpperMounted(begun.upper) from None
        if _is_shown(upper):
            raise UpperMounted(begun.upper)
        self.places.roots["upper"] = applied
        if begun.store:
            self.places.roots["store"] = open_directory(begun.store, self._stack)
        else:
            store = os.open(b"upper", _DIRECTORY | os.O_NOFOLLOW, dir_fd=self._application.fd)
            self._stack.callback(os.close, store)
            self.places.roots["store"] = store

    @property
    def _begun(self) -> Begun:
        begun = self._application.journal.begun
        assert begun is not None
        return begun

    @property
    def _steps(self) -> list[Step]:
        steps = self._application.journal.steps
        assert steps is not None
        return steps

    def _next(self) -> int:
        """The index of the first step that has to be taken: behind the last rename that was done."""
        steps = self._steps
        for index in range(len(steps) - 1, -1, -1):
            if steps[index].renames and self.places.is_done(steps[index]):
                return index + 1
        return 0

    def go_on(self, target: str, *, again: bool = False) -> Conflict | None:
        """Take all steps that are left; after a failure, take back all.

        Returns: the file that is not what was checked, after which all is taken back. Raises: NotApplied.
        """
        steps = self._steps
        try:
            left = enumerate(counted_all(steps[self._next() if again else 0 :], "applying steps"))
            for (where, _), group in groupby(left, lambda one: (one[1].where, one[0] // _TOGETHER)):
                if where is None:
                    for _, step in group:
                        self.places.do(step, again=again)
                        reach("apply.step")
                else:
                    self._rename((step for _, step in group), again=again)
            self._sync()
            reach("apply.stepped")
            self._application.journal.finish(Applied(time_ns=self._state.passed_time()))
            reach("apply.applied")
        except Displaced as displaced:
            self._give_up(target)
            return Conflict(path=displaced.path, reason="it changed while this was applied")
        except OSError as error:
            self._give_up(target)
            raise not_applied(error, target) from None
        except KeyboardInterrupt:
            self._give_up(target)
            raise
        if self._begun.consumes and not self._begun.within:
            mark_applied(self._begun.upper, self._state.passed_time())
        self._state.forget_times()
        return None

    def _rename(self, steps: Iterable[Step], *, again: bool) -> None:
        """Rename files from one directory into another, each found once. Raises: as `Places.do`.

        Where the path of a directory leads elsewhere in the end, nothing was renamed.
        """
        taken: list[Step] = []
        with self.places.holding():
            try:
                for step in steps:
                    taken.append(step)
                    self.places.do(step, again=again)
                    reach("apply.step")
                if len(taken) > 1 and not self.places.stays():
                    raise Displaced(taken[-1], taken[-1].path.rpartition("/")[0])
            except BaseException:
                if not self.places.stays():  # their paths do not lead to what was renamed
                    for step in reversed(taken):
                        with suppress(Displaced, OSError):
                            self.places.undo(step)
                raise

    def _give_up(self, target: str) -> None:
        """Take all steps back, and forget them. Raises: NotTakenBack, NotThere: they are left for `resume`, `undo`."""
        try:
            self.take_back(force=True)
            self._state.remove(self._application.name)
        except OSError as error:
            raise NotTakenBack(target, error.strerror) from None

    def forget(self) -> None:
        """Remove an application of which no step was taken. Raises: OSError."""
        if self._application.begun is not None:
            self._give_up_store()
        self._state.remove(self._application.name)

    def take_back(self, *, force: bool) -> None:
        """Take back all steps that were taken.

        Raises: NotUndone, or NotThere if forced, with all of them taken again; OSError.
        """
        steps = self._steps
        done = self._next()
        renames = [index for index, step in enumerate(steps) if step.renames]
        closed = not renames or done > renames[-1]
        begun = next((index for index in renames if index >= done), -1)
        undone: list[Step] = []
        try:
            for index in range(len(steps) - 1, -1, -1):
                step = steps[index]
                if step.operation == "close" and not closed:
                    continue
                if self._upper_is_gone and step.root == "upper" and not step.path:
                    continue
                if index == begun:  # perhaps its attributes are removed
                    with suppress(Displaced):
                        self.places.undo(step)
                    continue
                if step.renames and index > done:
                    continue
                try:
                    self.places.undo(step)
                except Displaced:
                    if not force or step.renames:
                        raise
                undone.append(step)
                reach("apply.unstep")
        except Displaced as displaced:
            for step in reversed(undone):
                with suppress(Displaced):
                    self.places.do(step, again=True)
            if isinstance(self._application.journal.end, Undoing):
                self._application.journal.finish(Applied(time_ns=self._state.passed_time()))
            raise (NotThere if force else NotUndone)(displaced.path) from None
        self._sync()
        self._state.forget_times()
        self._give_up_store()

    def _sync(self) -> None:
        for fd in {os.fstat(fd).st_dev: fd for fd in self.places.roots.values()}.values():
            attributes.sync_file_system(fd)

    def mark_restored(self, time_ns: int) -> None:
        """Note in the upper until when the layer's files were put back, if all were, and none had changed before.

        Requires: the end is written: a mark that is missing makes conflicts, a wrong one hides them.
        """
        begun = self._begun
        if not (begun.paths or begun.choice or begun.merged):
            _mark(
                begun.upper,
                lambda path, prefix: began.record_restored(path, prefix, time_ns),
                within=begun.within,
            )

    def check_unchanged(self, *, force: bool) -> None:
        """Whether all is as it was applied. Raises: NotUndone, UpperInUse."""
        end = self._application.journal.end
        assert isinstance(end, Applied)
        if self._begun.consumes:
            left = os.listdir(self.places.roots["upper"])
            taken = {step.source for step in self._steps if step.source_root == "upper"}
            if taken.intersection(left):
                raise UpperInUse(self._begun.upper)
        for step in self._steps:
            if step.operation == "close" and step.root == "target":
                self._refuse_fixed(step.path)
        if force:
            return
        touched = set(end.touched)
        closed = {step.path for step in self._steps if step.operation == "close"}
        for step in self._steps:
            if not step.renames or step.root != "target":
                continue
            assert step.moved is not None
            st = self.places.stat("target", step.path)
            if st is None or st.st_ino != step.moved.ino:
                raise NotUndone(step.path)
            until = end.touched_ns if st.st_ino in touched else end.time_ns
            is_new = not step.source.startswith("old/") or step.path in closed
            if is_new and st.st_ctime_ns > until:
                raise NotUndone(step.path)
            if step.held:
                self._check_held(step, end)

    def _refuse_fixed(self, path: str) -> None:
        try:
            fd = self.places.open("target", path)
        except FileNotFoundError:  # which is said for what was in it
            return
        try:
            refuse_fixed(fd)
        finally:
            os.close(fd)

    def _check_held(self, step: Step, end: Applied) -> None:
        """Whether a directory that was moved whole holds what it held. Raises: NotUndone."""
        touched = set(end.touched)
        left = Counter(step.held)
        for path, st in self.places.held(step):
            until = end.touched_ns if st.st_ino in touched else end.time_ns
            if not left[st.st_ino] or st.st_ctime_ns > until:
                raise NotUndone(f"{step.path}/{path}")
            left[st.st_ino] -= 1
        if any(left.values()):
            raise NotUndone(step.path)

    def inodes(self) -> set[int]:
        """The inode numbers of all files that the steps move, or whose metadata they set."""
        seen = {
            seen.ino
            for step in self._steps
            for seen in (step.moved, step.displaced)
            if seen is not None
        }
        return seen.union(*(step.held for step in self._steps))

    def _give_up_store(self) -> None:
        if self._begun.store:
            with suppress(OSError):
                os.rmdir(self._begun.store)

    def remove_store(self) -> None:
        """Remove what the upper held, if that lies beside it."""
        if self._begun.store:
            from overlaykit.rmtree import rmtree_path

            with suppress(FileNotFoundError):
                rmtree_path(self._begun.store)


def is_movable(upper: str, target: int) -> bool:
    """Whether files can be renamed from the upper into the target: they are on one mount. Raises: OSError."""
    fd = opened_past_modes(lambda: os.open(upper, INODE | os.O_DIRECTORY))
    try:
        there, here = (
            attributes.statx(one, "", _native.AT_EMPTY_PATH, _native.STATX_MNT_ID)
            for one in (fd, target)
        )
    finally:
        os.close(fd)
    return (there.dev, there.mnt_id) == (here.dev, here.mnt_id)


def mark_applied(upper: str, time_ns: int) -> None:
    """Note in an upper, which is empty, that until then all changes that it held were applied."""
    _mark(upper, lambda path, prefix: began.record(path, prefix, time_ns))


def _mark(upper: str, record: Callable[[bytes, bytes], None], within: str = "") -> None:
    with suppress(OSError):  # it is gone
        prefix = _prefix(os.fsencode(upper))
        path = os.fsencode(os.path.join(os.path.realpath(upper), within).rstrip("/"))
        if os.path.realpath(path) != path:  # a view has put a symlink there
            return
        for one in (TRUSTED_PREFIX, USER_PREFIX) if prefix is None else (prefix,):
            with suppress(OSError):
                record(path, one)
                return


def mark_beginning(upper: str) -> None:
    """Note in a new upper, which a view shows later, when its changes began. Raises: OSError."""
    began.record(os.fsencode(upper), prefix_of_new())


def _is_shown(upper: int) -> bool:
    """Whether the kernel's overlayfs, which takes no lock, shows an upper in a mount namespace that can be looked at.

    Those of other users, and those without a process, cannot.
    """
    st = os.fstat(upper)
    return any(
        _shows(f"/proc/{process}/root", mount, st)
        for process in _one_of_each_namespace()
        for mount in _mounts_of(process)
        if mount.fstype == "overlay"
    )


def _one_of_each_namespace() -> Iterable[str]:
    """A process of each mount namespace that can be looked at, as a name in /proc."""
    found = {os.readlink("/proc/self/ns/mnt"): "self"}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                found.setdefault(os.readlink(f"/proc/{name}/ns/mnt"), name)
    return found.values()


def _mounts_of(process: str) -> list[mountinfo.Mount]:
    with suppress(OSError):
        return mountinfo.of_process(process)
    return []


def _shows(root: str, mount: mountinfo.Mount, upper: os.stat_result) -> bool:
    for option in mount.options:
        name, _, path = option.partition("=")
        if name == "upperdir":
            with suppress(OSError):
                if path.startswith("/"):
                    return os.path.samestat(os.stat(root + path), upper)
                # A path from an unknown directory. Its root has the times of the upper's.
                return os.stat(root + mount.mountpoint).st_ctime_ns == upper.st_ctime_ns
    return False


def read_began(upper: str, within: str = "") -> Began:
    """What an upper says of the layers below it, and of what was put back below `within` alone. Raises: OSError."""
    path = os.fsencode(upper)
    prefix = _prefix(path)
    if prefix is None:
        return Began()
    return began.read(path, prefix, os.fsencode(os.path.join(upper, within)))


def not_applied(error: OSError, target: str) -> Error:
    """The error of an application that has failed, and was taken back."""
    name = target if error.filename is None else os.fsdecode(error.filename)
    return NotApplied(name, error.strerror or str(error))


def open_directory(path: str, stack: ExitStack) -> int:
    """Open a directory, until `stack` ends. Raises: OSError."""
    fd = opened_past_modes(lambda: os.open(path, _DIRECTORY))
    stack.callback(os.close, fd)
    return fd


def _prefix(path: bytes) -> bytes | None:
    """The prefix of an upper's markers, if it has one."""
    names = xattr_names(path)
    for prefix in (TRUSTED_PREFIX, USER_PREFIX):
        if any(name.startswith(prefix) for name in names):
            return prefix
    return None
