"""Lookup and listing across the layers.

The rules are the kernel's (fs/overlayfs/namei.c and readdir.c). The topmost entry wins. A whiteout hides the entries
below it. A directory is merged with the directories of its name below it, down to an opaque one, a whiteout or a file
of another kind. A redirect is the path of a renamed directory in the layers below.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat

from overlaykit import attributes
from overlaykit.lean import NamedTuple
from overlaykit.overlay.marker_names import AUFS_WHITEOUT, is_whiteout_device
from overlaykit.overlay.markers import AUFS_OPAQUE, UNMARKED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Final, Literal, TypeAlias

    from overlaykit.overlay.layer import Layer, LayerDir
    from overlaykit.overlay.markers import DirectoryMarkers, Markers
    from overlaykit.overlay.nodes import Directory

_NAME_MAX: Final = 255

NEEDS_STAT: Final = frozenset((0, stat.S_IFCHR))
"""Kinds in a layer's listing that may be a whiteout: a device, or unknown (0)."""


class Found(NamedTuple):
    """The result of a lookup: the topmost entry, its `stat` and `layer_dir`; of a directory also the merged ones."""

    layer_dir: LayerDir
    name: bytes
    stat: os.stat_result
    upper: LayerDir | None = None
    lowers: tuple[LayerDir, ...] = ()
    redirect: bytes | None = None

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.stat.st_mode)


Entry: TypeAlias = "tuple[bytes, int, LayerDir, int]"
"""One entry of a listing: the name, the S_IFMT bits of its kind, the directory that has it, and its d_ino there. A
plain tuple, since there are many."""


Looked: TypeAlias = "os.stat_result | Literal[False] | None"
"""What is known of a name: a file's inode in the topmost layer, False: nothing, or None: not looked up."""


class Merge:
    """Looks names up in a stack of layers. Its only state is the stack; results are plain data."""

    def __init__(
        self,
        layers: Sequence[Layer],
        markers: Markers,
        *,
        follow: bool = True,
        traps: frozenset[tuple[int, int]] = frozenset(),
    ) -> None:
        """`follow`: follow redirects; otherwise a lookup of a directory with a redirect fails (EPERM).

        `traps`: directories, as device and inode number, whose lookup in a lower fails (ELOOP): the upper and its work
        directory, as in the kernel (fs/overlayfs/super.c, ovl_setup_trap).
        """
        self.layers = layers
        self.markers = markers
        self.follow = follow
        self.traps = traps

    def find(self, directory: Directory, name: bytes) -> Found | None:
        """Look `name` up in `directory`.

        Raises: OSError (EIO) for a redirect that is no path.
        """
        if name.startswith(AUFS_WHITEOUT):
            return None
        upper = directory.upper
        if upper is None:
            return self._find_below((), directory.lowers, name)
        st = stat_in(upper, name)
        if st is None:
            return self._find_below((upper,), directory.lowers, name)
        if not st.st_size and self.is_whiteout(upper, name, st):
            return None
        if not stat.S_ISDIR(st.st_mode):
            return Found(upper, name, st)
        layer_dir = upper.child(name)
        markers = self._check(self._of_directory(layer_dir, upper=True))
        below = None
        leads_below = bool(directory.lowers) or markers.redirect is not None
        if leads_below and not (markers.opaque or _is_opaque_by_name(layer_dir)):
            below = _Search(self, directory.lowers, name, found_above=True)
            if markers.redirect is not None:
                below.redirect(markers.redirect, upper.layer)
            below.run()
        return Found(
            upper,
            name,
            st,
            upper=layer_dir,
            lowers=tuple(below.directories) if below else (),
            redirect=markers.redirect,
        )

    def find_files(self, directory: Directory, names: Sequence[bytes]) -> list[Looked]:
        """Look many names up, as far as that takes nothing but the attributes of the topmost layer's entry.

        What takes more is None: it takes a `find`.
        """
        fd = directory.top.fd()
        stat_of = os.stat
        if_missing: Looked = None if directory.merged else False
        found: list[Looked] = []
        for name in names:
            try:
                st = stat_of(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                found.append(if_missing)
                continue
            except OSError:
                found.append(None)
                continue
            # An empty file may be a whiteout.
            is_file = st.st_size and not stat.S_ISDIR(st.st_mode)
            found.append(st if is_file and not name.startswith(AUFS_WHITEOUT) else None)
        return found

    def find_in_lowers(self, directory: Directory, name: bytes) -> Found | None:
        """Look `name` up in `directory` as if there were no upper."""
        if name.startswith(AUFS_WHITEOUT):
            return None
        return self._find_below((), directory.lowers, name)

    def _find_below(
        self, above: tuple[LayerDir, ...], lowers: tuple[LayerDir, ...], name: bytes
    ) -> Found | None:
        """Look `name` up in `lowers`.

        Requires: the directories `above` have no entry of that name.
        """
        # The fast form of `_Search`, which is for directories: only they have redirects.
        for index, layer_dir in enumerate(lowers):
            st = stat_in(layer_dir, name)
            if st is None:
                continue
            # Checked only now: most names that one layer lacks are in no layer.
            without = (*above, *lowers[:index])
            if without and any(self.has_aufs_whiteout(one, name) for one in without):
                return None
            if stat.S_ISDIR(st.st_mode):
                search = _Search(self, lowers[index:], name, found_above=False)
                search.run()
                return search.found
            if not st.st_size and self.is_whiteout(layer_dir, name, st):
                return None
            return Found(layer_dir, name, st)
        return None

    def is_whiteout(self, layer_dir: LayerDir, name: bytes, st: os.stat_result) -> bool:
        """Whether a layer's entry is a whiteout, in any form but AUFS."""
        if st.st_size:
            return False
        if not stat.S_ISREG(st.st_mode):
            return is_whiteout_device(st)
        upper = layer_dir.layer.writable
        try:
            held = self.holds_whiteout_files(layer_dir)
        except PermissionError:  # the directory's markers matter only if the file is marked
            if self.markers.is_whiteout_file(layer_dir.proc_path(name), upper=upper):
                raise
            return False
        return held and self.markers.is_whiteout_file(layer_dir.proc_path(name), upper=upper)

    def holds_whiteout_files(self, layer_dir: LayerDir) -> bool:
        """Whether some empty files in a layer's directory are whiteouts."""
        if layer_dir.whiteout_files is None:
            markers = self._of_directory(layer_dir, upper=layer_dir.layer.writable)
            layer_dir.whiteout_files = markers.whiteout_files
        return layer_dir.whiteout_files

    def has_aufs_whiteout(self, layer_dir: LayerDir, name: bytes) -> bool:
        """Whether an AUFS whiteout hides a name of the layers below; it does not hide one of its own layer."""
        # A name too long for the prefix cannot have one.
        return len(name) + len(AUFS_WHITEOUT) <= _NAME_MAX and (
            stat_in(layer_dir, AUFS_WHITEOUT + name) is not None
        )

    def down_to_opaque(self, roots: Sequence[LayerDir]) -> tuple[LayerDir, ...]:
        """The roots of lowers down to the first opaque one (OCI archives may have such a root)."""
        shown = []
        for root in roots:
            shown.append(root)
            if root is not roots[-1] and self.directory_markers(root).opaque:
                break
        return tuple(shown)

    def directory_markers(self, layer_dir: LayerDir) -> DirectoryMarkers:
        """The markers, of any form, of a lower's directory."""
        markers = self._of_directory(layer_dir, upper=False)
        if not markers.opaque and _is_opaque_by_name(layer_dir):
            return markers._replace(opaque=True)
        return self._check(markers)

    def _of_directory(self, layer_dir: LayerDir, *, upper: bool) -> DirectoryMarkers:
        path = layer_dir.proc_path()
        try:
            return self.markers.of_directory(path, upper=upper)
        except PermissionError:
            return layer_dir.layer.read(
                lambda: self.markers.of_directory(path, upper=upper), layer_dir.fd()
            )

    def _check(self, markers: DirectoryMarkers) -> DirectoryMarkers:
        if markers.redirect is not None and not self.follow:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM), os.fsdecode(markers.redirect))
        return markers

    def find_data(
        self, directory: Directory, name: bytes, layer: Layer, redirect: bytes | None
    ) -> Found | None:
        """Find the data of a metacopy, `name` in `directory`, which `layer` has: the first whole file below it.

        Raises: OSError (EIO) for a redirect that is no path.
        """
        if redirect is not None and not self.follow:
            return None
        starts = [one for one in directory.lowers if one.layer.index > layer.index]
        search = _Search(self, starts, name, found_above=True, data=True)
        if redirect is not None:
            search.redirect(redirect, layer)
        search.run()
        return search.found

    def layers_below(self, layer: Layer) -> list[LayerDir]:
        """The roots of the layers below one."""
        return [other.root for other in self.layers if other.index > layer.index]

    def find_below(self, directory: Directory, entry: Entry, *, written_to: bool) -> Found | None:
        """Look up an entry of a listing: faster than `find`, since the entry names its layer.

        `written_to`: the directory's upper has changed since the listing.
        """
        name, kind, layer_dir, _ = entry
        if kind == stat.S_IFDIR or (written_to and layer_dir is not directory.upper):
            return self.find(directory, name)
        st = stat_in(layer_dir, name)
        if st is None or self.is_whiteout(layer_dir, name, st):
            return None
        if stat.S_ISDIR(st.st_mode):  # replaced since the listing
            return self.find(directory, name)
        return Found(layer_dir, name, st)

    def entries(self, directory: Directory) -> list[Entry]:
        """List a directory: each name once, without whiteouts. One pass over each layer's directory."""
        if not directory.merged:
            return self._scan(directory.top, lower=directory.upper is None)[0]
        merged = self.merged_entries(directory)
        assert merged is not None
        return merged[0]

    def merged_entries(
        self, directory: Directory, most: int | None = None
    ) -> tuple[list[Entry], set[bytes]] | None:
        """As `entries`, of a merged directory, and the names that more than one layer has.

        None if a layer has more names than `most`.
        """
        names: dict[bytes, Entry | None] = {}
        several: set[bytes] = set()
        for layer_dir in directory.layer_dirs:
            lower = layer_dir is not directory.upper
            shown, hidden = self._scan(layer_dir, lower=lower, most=most)
            if most is not None and len(shown) > most:
                return None
            for entry in shown:
                if names.setdefault(entry[0], entry) is not entry:
                    several.add(entry[0])
            for name in hidden:  # after the layer's own names, which its whiteouts do not hide
                names.setdefault(name, None)
        return [entry for entry in names.values() if entry is not None], several

    def names_in(self, layer_dir: LayerDir) -> Iterator[bytes]:
        """The names that one layer's directory has, and those that its whiteouts hide; some may come twice."""
        shown, hidden = self._scan(layer_dir, lower=not layer_dir.layer.writable)
        return itertools.chain((entry[0] for entry in shown), hidden)

    def whiteout_files(self, layer_dir: LayerDir) -> list[bytes]:
        """The names of an upper directory's whiteouts of the attribute form."""
        return [
            name
            for name in self._scan(layer_dir, lower=False)[1]
            if (st := stat_in(layer_dir, name)) is not None and stat.S_ISREG(st.st_mode)
        ]

    def _scan(
        self, layer_dir: LayerDir, *, lower: bool, most: int | None = None
    ) -> tuple[list[Entry], list[bytes]]:
        """The entries of one layer's directory, and the names that its whiteouts hide; or more than `most` entries."""
        markers = self._of_directory(layer_dir, upper=not lower)
        shown: list[Entry] = []
        hidden: list[bytes] = []
        for portion in layer_dir.scan():
            names, kinds, inodes = zip(*portion, strict=True)
            if (
                markers.whiteout_files
                or not NEEDS_STAT.isdisjoint(kinds)
                or _have_aufs_names(names)
            ):
                self._separate(portion, layer_dir, markers, lower, shown, hidden)
            else:  # no whiteout can be among them; the usual and fast case
                shown.extend(zip(names, kinds, itertools.repeat(layer_dir), inodes, strict=False))
            if most is not None and len(shown) > most:
                break
        return shown, hidden

    def _separate(
        self,
        portion: Sequence[tuple[bytes, int, int]],
        layer_dir: LayerDir,
        markers: DirectoryMarkers,
        lower: bool,
        shown: list[Entry],
        hidden: list[bytes],
    ) -> None:
        """Append the entries of a portion of a listing to `shown`, and the names of its whiteouts to `hidden`."""
        regular, aufs = stat.S_IFREG, AUFS_WHITEOUT
        for name, kind, inode in portion:
            if name.startswith(aufs):
                if name != AUFS_OPAQUE:
                    hidden.append(name[len(aufs) :])
                continue
            if kind in NEEDS_STAT:
                st = stat_in(layer_dir, name)
                if st is None:
                    continue
                if is_whiteout_device(st):
                    hidden.append(name)
                    continue
                kind = stat.S_IFMT(st.st_mode)
            if (
                kind == regular
                and markers.whiteout_files
                and self.markers.is_whiteout_file(layer_dir.proc_path(name), upper=not lower)
            ):
                hidden.append(name)
                continue
            shown.append((name, kind, layer_dir, inode))


class _Search:
    """One search down the lowers for one name: below the directories `starts`, and after an absolute redirect from the
    layers' roots.

    `directories`: the directories to merge, top first. `found`: the topmost entry of any kind. With `found_above` a
    directory above is the topmost entry, and only directories count. With `data` a metacopy is, and only regular files
    count: `found` is the first that is none itself.
    """

    def __init__(
        self,
        merge: Merge,
        starts: Sequence[LayerDir],
        name: bytes,
        *,
        found_above: bool,
        data: bool = False,
    ) -> None:
        self._merge = merge
        self._starts = list(starts)
        self._path = [name]
        self._stop = False
        self._found_above = found_above
        self._data = data
        self.found: Found | None = None
        self.directories: list[LayerDir] = []

    def redirect(self, target: bytes, layer: Layer) -> None:
        """Continue below `layer` at the path of its redirect."""
        self._path = _redirected([], target)
        if target.startswith(b"/"):
            self._starts = self._merge.layers_below(layer)

    def run(self) -> None:
        while self._starts and not self._stop:
            self._look_in(self._starts.pop(0))
        if self.directories and self.found is not None:
            first = self.found
            self.found = Found(
                first.layer_dir, first.name, first.stat, lowers=tuple(self.directories)
            )

    def _look_in(self, layer_dir: LayerDir) -> None:
        """Walk the path in one layer, and keep the path for the layers below."""
        layer = layer_dir.layer
        # An absolute redirect continues below the last directory of `starts`, unless redirects are not followed.
        last = layer is self._merge.layers[-1] if self._merge.follow else not self._starts
        following: list[bytes] = []
        absolute = False
        path = self._path
        for position, name in enumerate(path, 1):
            final = position == len(path)
            st = stat_in(layer_dir, name)
            if st is None or self._merge.is_whiteout(layer_dir, name, st):
                self._stop = st is not None or self._merge.has_aufs_whiteout(layer_dir, name)
                following += path[position - 1 :]
                break
            if final and self._data and stat.S_ISREG(st.st_mode):
                redirect = self._look_at_file(layer_dir, name, st)
                absolute = absolute or (redirect or b"").startswith(b"/")
                following = _redirected(following, redirect or name)
                break
            if not stat.S_ISDIR(st.st_mode) or (final and self._data):
                if final and not self.directories and not self._found_above:
                    self.found = Found(layer_dir, name, st)
                self._stop = True
                break
            if (st.st_dev, st.st_ino) in self._merge.traps:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fsdecode(name))
            child = layer_dir.child(name)
            markers = UNMARKED if last else self._merge.directory_markers(child)
            # In an OCI archive a directory beside its own whiteout replaces those below (image-spec, layer.md).
            if markers.opaque or (not last and self._merge.has_aufs_whiteout(layer_dir, name)):
                self._stop = True
            if markers.redirect is not None:
                absolute = absolute or markers.redirect.startswith(b"/")
                following = _redirected(following, markers.redirect)
            else:
                following.append(name)
            if final:
                if not self.directories and not self._found_above:
                    self.found = Found(layer_dir, name, st)
                self.directories.append(child)
            layer_dir = child
        self._path = following
        if absolute:
            self._starts = self._merge.layers_below(layer)

    def _look_at_file(self, layer_dir: LayerDir, name: bytes, st: os.stat_result) -> bytes | None:
        """Take a file that may hold the data, or learn where they are below it. Returns: its redirect."""
        path = layer_dir.proc_path(name)
        marker = self._merge.markers.metacopy(path)
        if marker is None:
            self.found = Found(layer_dir, name, st)
        if marker is None or not marker.readable:
            self._stop = True
            return None
        redirect = self._merge.markers.file_redirect(path)
        if redirect is not None and not self._merge.follow:
            self._stop = True
        return redirect


def _redirected(prefix: list[bytes], target: bytes) -> list[bytes]:
    """The path of a redirect's target: a name in the directory `prefix`, or (absolute) a path from the root."""
    names = target[1:].split(b"/") if target.startswith(b"/") else [target]
    if any(name in (b"", b".", b"..") or b"/" in name for name in names):
        raise OSError(errno.EIO, "a redirect that is no path", os.fsdecode(target))
    return names if target.startswith(b"/") else [*prefix, *names]


def _have_aufs_names(names: Sequence[bytes]) -> bool:
    return b"\0" + AUFS_WHITEOUT in b"\0" + b"\0".join(names)


def _is_opaque_by_name(layer_dir: LayerDir) -> bool:
    return stat_in(layer_dir, AUFS_OPAQUE) is not None


def stat_in(layer_dir: LayerDir, name: bytes) -> os.stat_result | None:
    """The attributes of a name in a layer's directory; None if it has none."""
    fd = layer_dir.fd()
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    except PermissionError:
        return layer_dir.layer.read(lambda: attributes.stat_or_none(fd, name), fd)
