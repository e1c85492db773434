"""Whiteouts of the upper: creation, removal, and renames that leave one.

A mount writes one form of whiteouts (`disk.Form`). A device or an empty file with an attribute lies under the name
itself and takes effect by one rename. An AUFS whiteout is a file `.wh.NAME` beside the name. It has no effect while the
upper has the name: it is made first, and takes effect when the name is removed. The other forms use an AUFS whiteout
for the time of a change that the file system cannot make in one step. A crash leaves the old tree or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from overlaykit import _native, attributes
from overlaykit.overlay.failure import fail
from overlaykit.overlay.faults import reach
from overlaykit.overlay.marker_names import AUFS_WHITEOUT, WHITEOUT_DEVICE

if TYPE_CHECKING:
    from overlaykit.overlay.disk import Disk, Form
    from overlaykit.overlay.layer import LayerDir
    from overlaykit.overlay.markers import Markers
    from overlaykit.overlay.merge import Merge
    from overlaykit.overlay.nodes import Directory
    from overlaykit.overlay.work import Work

# ext4 allows 65,000 links of one inode.
_SPARE_LINKS: Final = 30_000
_NO_MORE_LINKS: Final = (errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP, errno.ENOENT, errno.ENOSYS)
_NEW_FILE: Final = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_AUFS_FILE: Final = os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_WHITEOUT_MODE: Final = 0o644
"""Readable: a reader of the layer needs that to read the attribute (xattr(7))."""


class Hidden(NamedTuple):
    """Which whiteouts hide a name in the upper: one under the name itself, an AUFS file `.wh.NAME` beside it."""

    by_entry: bool
    by_aufs: bool


NOT_HIDDEN: Final = Hidden(by_entry=False, by_aufs=False)


class Move(NamedTuple):
    """One rename in the upper.

    `needs_whiteout`: a lower has the old name. `is_directory`: the renamed file is a directory. `target`: the kind
    (S_IFMT) of what the view shows under the new name; None: nothing.
    """

    old_dir: LayerDir
    old_name: bytes
    new_dir: LayerDir
    new_name: bytes
    needs_whiteout: bool
    is_directory: bool
    target: int | None


class Whiteouts:
    """Writes whiteouts in the upper, all in the one `form`. `merge` reads every form."""

    def __init__(self, work: Work, markers: Markers, merge: Merge, disk: Disk, form: Form) -> None:
        self.form = form
        self._work = work
        self._markers = markers
        self._merge = merge
        self._disk = disk
        self._spare: bytes | None = None
        self._links = 0

    def begin_again(self) -> None:
        """Go on in another upper, whose work directory has no spare whiteout."""
        self._spare, self._links = None, 0

    def find(self, directory: Directory, layer_dir: LayerDir, name: bytes) -> Hidden:
        """The whiteouts that hide `name` in `layer_dir`, which is the upper of `directory`.

        Requires: the view has no such name.
        Raises: OSError (EEXIST) if the upper has an entry that is no whiteout.
        """
        st = attributes.stat_or_none(layer_dir.fd(), name)
        if st is not None and not self._merge.is_whiteout(layer_dir, name, st):
            fail(errno.EEXIST, name)
        has_aufs = bool(directory.lowers) and self._merge.has_aufs_whiteout(layer_dir, name)
        return Hidden(st is not None, has_aufs)

    # Make whiteouts

    def hide(self, layer_dir: LayerDir, name: bytes) -> None:
        """Put a whiteout in place of a file of the upper, or where the upper has nothing."""
        if self.form != "aufs":
            self._work.publish(self._new_whiteout(layer_dir), layer_dir, name, replace=True)
            return
        self._make_aufs_whiteout(layer_dir, name)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=layer_dir.fd())
        except OSError:
            self.remove_aufs_whiteout(layer_dir, name)
            raise

    def hide_lower(self, layer_dir: LayerDir, name: bytes) -> None:
        """Put a whiteout where the upper has nothing, in one step if possible."""
        if not self._link_spare(layer_dir, name):
            self.hide(layer_dir, name)

    def hide_directory(self, layer_dir: LayerDir, name: bytes) -> None:
        """Replace a directory of the upper with a whiteout, and remove the markers in it.

        Requires: the view shows the directory as empty.
        """
        if self.form == "aufs":
            self._make_aufs_whiteout(layer_dir, name)
            try:
                self.remove_directory(layer_dir, name)
            except OSError:
                self.remove_aufs_whiteout(layer_dir, name)
                raise
            return
        whiteout = self._new_whiteout(layer_dir)
        reach("rmdir.covered")
        try:
            # Atomic: the old directory, with its whiteouts, is then in the work directory.
            self._work.exchange(whiteout, layer_dir, name)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            has_aufs = self._try_aufs_whiteout(layer_dir, name)
            self._remove_in_place(layer_dir, name)
            self.hide(layer_dir, name)
            if has_aufs:
                self.remove_aufs_whiteout(layer_dir, name)
        else:
            reach("rmdir.removed")
            self._work.remove(whiteout)

    def remove_directory(self, layer_dir: LayerDir, name: bytes) -> None:
        """Remove a directory of the upper, with the markers in it.

        Requires: the view shows the directory as empty.
        """
        work = self._work
        old = work.new_name()
        try:
            os.rename(name, old, src_dir_fd=layer_dir.fd(), dst_dir_fd=work.layer_dir.fd())
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._remove_in_place(layer_dir, name)
            reach("rmdir.removed")
        else:
            reach("rmdir.removed")
            work.remove(old)

    def _remove_in_place(self, layer_dir: LayerDir, name: bytes) -> None:
        """Do as `remove_directory` where no rename is possible: on an overlay, for a directory of its lower."""
        directory = layer_dir.child(name)
        try:
            # Removing its whiteouts one by one must show nothing of a lower.
            self._markers.set_opaque(directory.proc_path())
            self._work.remove_content(directory)
        finally:
            directory.close()
        os.rmdir(name, dir_fd=layer_dir.fd())

    # Create and rename where whiteouts may be

    def make_opaque(self, layer_dir: LayerDir) -> None:
        """Mark a directory of the upper opaque.

        Requires: the view shows nothing of a lower in it.
        """
        # One attribute holds both values, "opaque" and "has whiteout files".
        if self._merge.holds_whiteout_files(layer_dir):
            for name in self._merge.whiteout_files(layer_dir):
                os.unlink(name, dir_fd=layer_dir.fd())
            layer_dir.whiteout_files = False
        self._markers.set_opaque(layer_dir.proc_path())

    def publish(
        self, temporary: bytes, work_dir: LayerDir, layer_dir: LayerDir, name: bytes, hidden: Hidden
    ) -> None:
        """Rename a new file from the work directory to a name, and remove the whiteouts that hide the name."""
        work = self._work
        st = os.stat(temporary, dir_fd=work_dir.fd(), follow_symlinks=False)
        directory = stat.S_ISDIR(st.st_mode)
        if directory and (hidden.by_entry or hidden.by_aufs):
            work.modes.widen_to_move(work_dir, temporary, layer_dir, name)
            self._markers.set_opaque(work_dir.proc_path(temporary))
            reach("create.opaque")
        if directory and hidden.by_entry and self.form != "aufs":
            work.exchange(temporary, layer_dir, name, work_dir)
            reach("create.published")
            work.remove(temporary, work_dir)
        else:
            if directory and hidden.by_entry:
                self._replace_with_aufs_whiteout(layer_dir, name)
            work.publish(
                temporary, layer_dir, name, work_dir, replace=hidden.by_entry and not directory
            )
            reach("create.published")
        if hidden.by_aufs or self.form == "aufs":
            self.remove_aufs_whiteout(layer_dir, name)

    def move(self, move: Move) -> None:
        """Rename, and leave a whiteout where one is needed.

        Raises: OSError, with nothing changed.
        """
        if self.form == "aufs":
            self._move_with_aufs_whiteouts(move)
        else:
            self._move(move)
        self.remove_aufs_whiteout(move.new_dir, move.new_name)

    def _move(self, move: Move) -> None:
        # rename(2) does not replace a device with a directory.
        if move.is_directory and self._is_onto_whiteout(move):
            self._announce_whiteout_files(move.old_dir)
            self._rename(move, _native.RENAME_EXCHANGE)
            if not move.needs_whiteout:
                # The whiteout hides nothing there.
                with contextlib.suppress(OSError):
                    os.unlink(move.old_name, dir_fd=move.old_dir.fd())
        elif not move.needs_whiteout:
            self._rename(move, 0)
        elif (
            self.form == "device"
            and self._disk.rename_whiteout
            and (move.target is not None or not self._disk.hard_links)
        ):
            self._rename(move, _native.RENAME_WHITEOUT)
        elif move.target is None:
            # With a hard link this takes no new inode, which RENAME_WHITEOUT does.
            self._announce_whiteout_files(move.old_dir)
            is_covered = self._cover(move)
            reach("rename.covered")
            try:
                self._rename(move, _native.RENAME_EXCHANGE)
            except OSError:
                if is_covered:
                    with contextlib.suppress(OSError):
                        os.unlink(move.new_name, dir_fd=move.new_dir.fd())
                raise
        else:
            self._move_onto(move)

    def _cover(self, move: Move) -> bool:
        """Put a whiteout under the new name. Returns: false if there is one already.

        Requires: the view shows nothing under the new name.
        """
        layer_dir, name = move.new_dir, move.new_name
        if self._link_spare(layer_dir, name):
            return True
        if self._is_onto_whiteout(move):
            return False
        self.hide(layer_dir, name)
        return True

    def _link_spare(self, layer_dir: LayerDir, name: bytes) -> bool:
        """Make a name of the upper, which has none, one of the spare whiteout. Returns: false if nothing is made."""
        if self._spare is None or self._links >= _SPARE_LINKS:
            return False
        self._announce_whiteout_files(layer_dir)
        work = self._work.layer_dir
        try:
            os.link(
                self._spare,
                name,
                src_dir_fd=work.fd(),
                dst_dir_fd=layer_dir.fd(),
                follow_symlinks=False,
            )
        except OSError:  # `hide` knows the ways out
            return False
        self._links += 1
        return True

    def _move_onto(self, move: Move) -> None:
        """Replace a file and hide the old name, in two steps."""
        layer_dir, name = move.old_dir, move.old_name
        whiteout = self._new_whiteout(layer_dir)  # first, since the disk may be full
        has_aufs = self._try_aufs_whiteout(layer_dir, name)
        try:
            self._rename(move, 0)
        except OSError:
            self._work.remove(whiteout)
            if has_aufs:
                self.remove_aufs_whiteout(layer_dir, name)
            raise
        try:
            self._work.publish(whiteout, layer_dir, name)
        except OSError:
            if not has_aufs:
                raise
        else:
            self.remove_aufs_whiteout(layer_dir, name)

    def _move_with_aufs_whiteouts(self, move: Move) -> None:
        work = self._work
        new_dir, new_name = move.new_dir, move.new_name
        if move.needs_whiteout:
            self._make_aufs_whiteout(move.old_dir, move.old_name)
        old = None
        try:
            if move.is_directory:
                if move.target is not None and attributes.stat_or_none(new_dir.fd(), new_name):
                    self._make_aufs_whiteout(new_dir, new_name)
                    old = work.new_name()
                    _native.renameat2(new_dir.fd(), new_name, work.layer_dir.fd(), old)
                elif self._is_onto_whiteout(move):
                    self._replace_with_aufs_whiteout(new_dir, new_name)
            self._rename(move, 0)
        except OSError:
            if old is not None:
                with contextlib.suppress(OSError):
                    _native.renameat2(work.layer_dir.fd(), old, new_dir.fd(), new_name)
            if move.needs_whiteout:
                self.remove_aufs_whiteout(move.old_dir, move.old_name)
            raise
        if old is not None:
            work.remove(old)

    def _rename(self, move: Move, flags: int) -> None:
        modes = self._work.modes
        modes.widen_to_move(move.old_dir, move.old_name, move.new_dir, move.new_name)
        _native.renameat2(move.old_dir.fd(), move.old_name, move.new_dir.fd(), move.new_name, flags)
        reach("rename.moved")

    def _is_onto_whiteout(self, move: Move) -> bool:
        """Whether the new name is a whiteout."""
        if move.target is not None:
            return False
        st = attributes.stat_or_none(move.new_dir.fd(), move.new_name)
        return st is not None and self._merge.is_whiteout(move.new_dir, move.new_name, st)

    # Whiteouts under the name: devices and empty files

    def _new_whiteout(self, layer_dir: LayerDir) -> bytes:
        """Make a whiteout for `layer_dir` in the work directory, as a hard link if possible. Returns its name there."""
        self._announce_whiteout_files(layer_dir)
        name = self._work.new_name()
        if self._spare is not None:
            if self._links < _SPARE_LINKS and self._link(self._spare, name):
                self._links += 1
                return name
            self._work.remove(self._spare)
            self._spare = None
        self._make(name)
        if self._disk.hard_links:
            spare = self._work.new_name()
            # The spare is an optimization: a full disk is no failure here.
            with contextlib.suppress(OSError):
                if self._link(name, spare):
                    self._spare, self._links = spare, 2
        return name

    def _link(self, old: bytes, new: bytes) -> bool:
        fd = self._work.layer_dir.fd()
        try:
            os.link(old, new, src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_MORE_LINKS:
                raise
            return False
        return True

    def _make(self, name: bytes) -> None:
        layer_dir = self._work.layer_dir
        if self.form == "device":
            os.mknod(name, stat.S_IFCHR, WHITEOUT_DEVICE, dir_fd=layer_dir.fd())
            return
        fd = os.open(name, _NEW_FILE, _WHITEOUT_MODE, dir_fd=layer_dir.fd())
        try:
            self._markers.set_whiteout(fd)
        except OSError:
            self._work.remove(name)
            raise
        finally:
            os.close(fd)

    def _announce_whiteout_files(self, layer_dir: LayerDir) -> None:
        """Mark a directory, before its first whiteout file, as one that has some."""
        if self.form == "xattr" and not self._merge.holds_whiteout_files(layer_dir):
            self._markers.set_whiteout_files(layer_dir.proc_path())
            layer_dir.whiteout_files = True

    # AUFS whiteouts

    def _make_aufs_whiteout(self, layer_dir: LayerDir, name: bytes) -> None:
        path = AUFS_WHITEOUT + name
        os.close(os.open(path, _AUFS_FILE, _WHITEOUT_MODE, dir_fd=layer_dir.fd()))
        reach("whiteout.aufs_made")

    def _try_aufs_whiteout(self, layer_dir: LayerDir, name: bytes) -> bool:
        """Make an AUFS whiteout, if the upper can have one: a view of ours and fuse-overlayfs refuse such names."""
        try:
            self._make_aufs_whiteout(layer_dir, name)
        except OSError:
            return False
        return True

    def remove_aufs_whiteout(self, layer_dir: LayerDir, name: bytes) -> None:
        """Remove an AUFS whiteout, if there is one. Errors are ignored: beside a name of the upper it has no effect."""
        with contextlib.suppress(OSError):
            os.unlink(AUFS_WHITEOUT + name, dir_fd=layer_dir.fd())

    def _replace_with_aufs_whiteout(self, layer_dir: LayerDir, name: bytes) -> None:
        """Replace a whiteout under the name with an AUFS whiteout, so that a directory can take the name."""
        self._make_aufs_whiteout(layer_dir, name)
        os.unlink(name, dir_fd=layer_dir.fd())
