"""Whiteouts of the upper: each mount writes one form of them, and renames so that they stay.

The forms are those of `disk.Form`. With devices and attributes a whiteout lies under the name itself and takes effect
by one rename. With `aufs` a file `.wh.NAME` lies beside the name; it says nothing while the upper has the name, so it
is made first, and takes effect at the moment the name goes. Other forms fall back on such a file where the disk cannot
do a change in one step: a crash in between leaves the old tree or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from overlaykit import _native
from overlaykit.overlay import markers
from overlaykit.overlay.faults import reach
from overlaykit.overlay.tree import fail

if TYPE_CHECKING:
    from overlaykit.overlay.disk import Disk, Form
    from overlaykit.overlay.layer import LayerDir
    from overlaykit.overlay.markers import Marks
    from overlaykit.overlay.merge import Merge
    from overlaykit.overlay.nodes import Directory
    from overlaykit.overlay.work import Work

_SPARE_LINKS: Final = (
    30_000  # ext4 allows 65,000 links of one inode; the kernel's overlayfs also stops early
)
_NO_MORE_LINKS: Final = (errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP, errno.ENOENT, errno.ENOSYS)
_NEW_FILE: Final = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOTE: Final = os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_WHITEOUT_MODE: Final = 0o644
"""Every user that reads the layer must be able to read the attribute (xattr(7))."""


class Hidden(NamedTuple):
    """What hides a name that is to be made: a whiteout under the name itself (`entry`), a file beside it (`note`)."""

    entry: bool
    note: bool


NOT_HIDDEN: Final = Hidden(entry=False, note=False)


class Move(NamedTuple):
    """One rename in the upper. `hides`: something of a lower must stay hidden under the old name. `directory`: what is
    moved is one. `target`: the kind (S_IFMT) of what the view has under the new name; None: nothing."""

    old_place: LayerDir
    old_name: bytes
    new_place: LayerDir
    new_name: bytes
    hides: bool
    directory: bool
    target: int | None


class Whiteouts:
    """Writes whiteouts in the upper. `form`: the only one that is written; every one is read (see `merge`)."""

    def __init__(self, work: Work, marks: Marks, merge: Merge, disk: Disk, form: Form) -> None:
        self.form = form
        self._work = work
        self._marks = marks
        self._merge = merge
        self._disk = disk
        self._spare: bytes | None = None
        self._links = 0

    # What is there

    def find(self, directory: Directory, place: LayerDir, name: bytes) -> Hidden:
        """What hides `name`, which the view does not have, in the upper's `place` of a directory.

        Raises OSError (EEXIST) if something else is there.
        """
        st = _native.stat_or_none(place.fd(), name)
        if st is not None and not self._merge.is_whiteout(place, name, st):
            fail(errno.EEXIST, name)
        noted = bool(directory.lowers) and self._merge.is_noted(place, name)
        return Hidden(st is not None, noted)

    # Hiding

    def hide(self, place: LayerDir, name: bytes) -> None:
        """Hide a name under which the upper has a file, or nothing."""
        if self.form != "aufs":
            self._work.publish(self._fresh(place), place, name, replace=True)
            return
        self._note(place, name)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=place.fd())
        except OSError:
            self.drop_note(place, name)
            raise

    def hide_directory(self, place: LayerDir, name: bytes) -> None:
        """Hide a name under which the upper has a directory that shows nothing; it goes, with the marks in it."""
        if self.form == "aufs":
            self._note(place, name)
            try:
                self.remove_directory(place, name)
            except OSError:
                self.drop_note(place, name)
                raise
            return
        whiteout = self._fresh(place)
        reach("rmdir.covered")
        try:
            # One step; what comes back is the old directory, with whatever whiteouts it held.
            self._work.exchange(whiteout, place, name)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            noted = self._try_to_note(place, name)
            self._remove_in_place(place, name)
            self.hide(place, name)
            if noted:
                self.drop_note(place, name)
        else:
            reach("rmdir.removed")
            self._work.discard(whiteout)

    def remove_directory(self, place: LayerDir, name: bytes) -> None:
        """Remove a directory of the upper that shows nothing, with the marks in it."""
        work = self._work
        old = work.new_name()
        try:
            os.rename(name, old, src_dir_fd=place.fd(), dst_dir_fd=work.place.fd())
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._remove_in_place(place, name)
            reach("rmdir.removed")
        else:
            reach("rmdir.removed")
            work.discard(old)

    def _remove_in_place(self, place: LayerDir, name: bytes) -> None:
        """As `remove_directory`, for one that cannot be moved: on an overlay, one of its lower."""
        directory = place.child(name)
        try:
            self._marks.set_opaque(directory.proc_path())  # its whiteouts go one by one
            self._work.remove_all(directory)
        finally:
            directory.close()
        os.rmdir(name, dir_fd=place.fd())

    # Showing again

    def make_opaque(self, place: LayerDir) -> None:
        """Let nothing show through a directory of the upper, in which nothing does now."""
        if self._merge.holds_whiteout_files(place):  # one mark cannot say both
            for name in self._merge.whiteout_files(place):
                os.unlink(name, dir_fd=place.fd())
            place.whiteout_files = False
        self._marks.set_opaque(place.proc_path())

    def publish(
        self, temporary: bytes, stage: LayerDir, place: LayerDir, name: bytes, hidden: Hidden
    ) -> None:
        """Let something new appear under a name, whatever hides it there."""
        work = self._work
        st = os.stat(temporary, dir_fd=stage.fd(), follow_symlinks=False)
        directory = stat.S_ISDIR(st.st_mode)
        if directory and (hidden.entry or hidden.note):
            work.modes.widen_to_move(stage, temporary, place, name)
            self._marks.set_opaque(stage.proc_path(temporary))
            reach("create.opaque")
        if directory and hidden.entry and self.form != "aufs":
            work.exchange(temporary, place, name, stage)
            reach("create.published")
            work.discard(temporary, stage)
        else:
            if directory and hidden.entry:
                self._turn_into_note(place, name)
            work.publish(temporary, place, name, stage, replace=hidden.entry and not directory)
            reach("create.published")
        if hidden.note or self.form == "aufs":
            self.drop_note(place, name)

    def move(self, move: Move) -> None:
        """rename(2), leaving a whiteout where one is needed. Raises OSError, with nothing changed."""
        if self.form == "aufs":
            self._move_with_notes(move)
        else:
            self._move(move)
        self.drop_note(move.new_place, move.new_name)

    def _move(self, move: Move) -> None:
        if move.directory and self._is_onto_whiteout(move):  # a directory replaces no device
            self._mark(move.old_place)
            self._rename(move, _native.RENAME_EXCHANGE)
            if not move.hides:
                with contextlib.suppress(OSError):  # it hides nothing
                    os.unlink(move.old_name, dir_fd=move.old_place.fd())
        elif not move.hides:
            self._rename(move, 0)
        elif self.form == "device" and self._disk.rename_whiteout:
            self._rename(move, _native.RENAME_WHITEOUT)
        elif move.target is None:
            self._mark(move.old_place)
            onto_whiteout = self._is_onto_whiteout(move)
            if not onto_whiteout:
                self.hide(move.new_place, move.new_name)
            try:
                self._rename(move, _native.RENAME_EXCHANGE)
            except OSError:
                if not onto_whiteout:
                    with contextlib.suppress(OSError):
                        os.unlink(move.new_name, dir_fd=move.new_place.fd())
                raise
        else:
            self._move_onto(move)

    def _move_onto(self, move: Move) -> None:
        """Replace something, and hide the old name, in two steps."""
        place, name = move.old_place, move.old_name
        whiteout = self._fresh(place)  # before: room for it may be wanting
        noted = self._try_to_note(place, name)
        try:
            self._rename(move, 0)
        except OSError:
            self._work.discard(whiteout)
            if noted:
                self.drop_note(place, name)
            raise
        try:
            self._work.publish(whiteout, place, name)
        except OSError:
            if not noted:
                raise
        else:
            self.drop_note(place, name)

    def _move_with_notes(self, move: Move) -> None:
        work = self._work
        new_place, new_name = move.new_place, move.new_name
        if move.hides:
            self._note(move.old_place, move.old_name)
        old = None
        try:
            if move.directory:
                if move.target is not None and _native.stat_or_none(new_place.fd(), new_name):
                    self._note(new_place, new_name)
                    old = work.new_name()
                    _native.renameat2(new_place.fd(), new_name, work.place.fd(), old)
                elif self._is_onto_whiteout(move):
                    self._turn_into_note(new_place, new_name)
            self._rename(move, 0)
        except OSError:
            if old is not None:
                with contextlib.suppress(OSError):
                    _native.renameat2(work.place.fd(), old, new_place.fd(), new_name)
            if move.hides:
                self.drop_note(move.old_place, move.old_name)
            raise
        if old is not None:
            work.discard(old)

    def _rename(self, move: Move, flags: int) -> None:
        modes = self._work.modes
        modes.widen_to_move(move.old_place, move.old_name, move.new_place, move.new_name)
        _native.renameat2(
            move.old_place.fd(), move.old_name, move.new_place.fd(), move.new_name, flags
        )
        reach("rename.moved")

    def _is_onto_whiteout(self, move: Move) -> bool:
        """Whether a whiteout lies under the new name."""
        if move.target is not None:
            return False
        st = _native.stat_or_none(move.new_place.fd(), move.new_name)
        return st is not None and self._merge.is_whiteout(move.new_place, move.new_name, st)

    # Whiteouts under the name

    def _fresh(self, place: LayerDir) -> bytes:
        """The name, in the work directory, of a whiteout to be moved into `place`. One inode serves many of them."""
        self._mark(place)
        name = self._work.new_name()
        if self._spare is not None:
            if self._links < _SPARE_LINKS and self._link(self._spare, name):
                self._links += 1
                return name
            self._work.discard(self._spare)
            self._spare = None
        self._make(name)
        if self._disk.hard_links:
            spare = self._work.new_name()
            # A spare saves work later; that there is no room for one is no failure.
            with contextlib.suppress(OSError):
                if self._link(name, spare):
                    self._spare, self._links = spare, 2
        return name

    def _link(self, old: bytes, new: bytes) -> bool:
        fd = self._work.place.fd()
        try:
            os.link(old, new, src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_MORE_LINKS:
                raise
            return False
        return True

    def _make(self, name: bytes) -> None:
        place = self._work.place
        if self.form == "device":
            os.mknod(name, stat.S_IFCHR, markers.WHITEOUT_DEVICE, dir_fd=place.fd())
            return
        fd = os.open(name, _NEW_FILE, _WHITEOUT_MODE, dir_fd=place.fd())
        try:
            self._marks.set_whiteout(fd)
        except OSError:
            self._work.discard(name)
            raise
        finally:
            os.close(fd)

    def _mark(self, place: LayerDir) -> None:
        """Say of a directory, before the first one comes, that some empty files in it are whiteouts."""
        if self.form == "xattr" and not self._merge.holds_whiteout_files(place):
            self._marks.set_whiteout_files(place.proc_path())
            place.whiteout_files = True

    # Whiteouts beside the name

    def _note(self, place: LayerDir, name: bytes) -> None:
        note = markers.AUFS_WHITEOUT + name
        os.close(os.open(note, _NOTE, _WHITEOUT_MODE, dir_fd=place.fd()))
        reach("whiteout.noted")

    def _try_to_note(self, place: LayerDir, name: bytes) -> bool:
        """Where the upper lies on a view of ours, or on fuse-overlayfs, there are no such names."""
        try:
            self._note(place, name)
        except OSError:
            return False
        return True

    def drop_note(self, place: LayerDir, name: bytes) -> None:
        """Remove the file that hides a name; beside a name of the upper's it says nothing."""
        with contextlib.suppress(OSError):
            os.unlink(markers.AUFS_WHITEOUT + name, dir_fd=place.fd())

    def _turn_into_note(self, place: LayerDir, name: bytes) -> None:
        """Make room for a directory where another mount has left a whiteout under the name."""
        self._note(place, name)
        os.unlink(name, dir_fd=place.fd())
