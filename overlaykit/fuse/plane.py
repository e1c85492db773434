"""What the data plane (native/plane.c) may answer by itself, and what comes back from it.

A directory is granted for reading if one plain directory of a lower is all that shows in it, once a request about it
has reached Python. The grant ends before the directory is copied up or removed. A merged directory is resolved: the
plane gets its names, once enough requests have come (`_NAMES_FOR_A_REQUEST`), and for each the lower that it is found
in, or that only Python finds it. A name that Python changes there is Python's from then on. A directory of the upper is
granted for changes of names that no lower has in it. Nodes that the plane has given out cross to Python when a request
that names them does, or when Python looks their names up. A file of the upper that Python has copied up, renamed or
found goes back to the plane at the end of the request (`Plane.give`). A small file that is opened for writing or
renamed is copied up, and a file is removed, while the plane has it (`Plane.answer_after_change`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import struct
import time
from typing import TYPE_CHECKING, Final

from overlaykit import _native, attributes
from overlaykit.fuse.statistics import KINDS, LATENCIES, of_opcodes
from overlaykit.overlay.callers import asking
from overlaykit.overlay.nodes import Directory, File
from overlaykit.overlay.numbering import FIRST_FREE

if TYPE_CHECKING:
    from collections.abc import Callable

    from overlaykit.fuse.copying import Copying
    from overlaykit.fuse.spec import MountOptions
    from overlaykit.fuse.statistics import Latencies
    from overlaykit.overlay.filesystem import Filesystem
    from overlaykit.overlay.layer import LayerDir
    from overlaykit.overlay.liveness import Version
    from overlaykit.overlay.merge import Entry
    from overlaykit.overlay.nodes import Node
    from overlaykit.overlay.smallcopy import SmallCopy

log: Final = logging.getLogger(__name__)

_NO_ID: Final = 0xFFFFFFFF
_NANOSECONDS: Final = 1_000_000_000
_MOST_LOWERS: Final = 8
"""Directories in which more lowers show are not granted for changes: each name is looked for in all of them."""
_NAMES_FOR_A_REQUEST: Final = 64
"""Reading a name costs about a hundredth of a request to Python. So with the fourth request, the sixteenth, and so on,
a directory's names are read if they are no more than this for each: which takes no longer than the requests did."""
_MOST_RESOLVED: Final = 1 << 15
_FORGOTTEN: Final = struct.Struct("=Qq")
_STORE: Final = struct.Struct("=IiQQQII")
"""Of linux/fuse.h: fuse_out_header, whose `error` is the kind of a notification, and fuse_notify_store_out."""
_NOTIFY_STORE: Final = 4
_PAGE_BYTES: Final = 4096
_FOR_CHANGES: Final = 2
"""`_native.plane_is_granted`."""
_ENTRY_BYTES: Final = 512
"""Room for any entry of a listing: getdents64(2) reads no more of a wide directory than fits."""
_MOST_MERGED: Final = 64
"""A directory with more merged directories in it is not listed by the plane: the nodeid of each takes a lookup."""


class Plane:
    """Implements `overlay.nodes.Plane`. One per process, as the session is.

    `count`: counts a request that Python had a part in, by its name and the nanoseconds that it took.
    `timeout`: how long the kernel may cache names and attributes, in seconds; `live_timeout`: those of lowers that
    others may change. `is_kept`: the daemon has a keeper. `is_live`: others may change a lower. `device`: the
    session's, once it waits for requests.
    """

    def __init__(
        self,
        filesystem: Filesystem,
        options: MountOptions,
        copying: Copying,
        count: Callable[[str, int], None],
        *,
        timeout: float,
        live_timeout: float,
        acl: bool,
        is_kept: bool,
        is_live: bool,
    ) -> None:
        self._filesystem = filesystem
        self._copying = copying
        self._count = count
        self.is_kept = is_kept
        self.device = -1
        # Without an upper each file that is opened is the kernel's (`passthrough`), which Python registers.
        registers_all = filesystem.root.upper is None and not filesystem.files.writes_back
        self._is_on = options.data_plane and not registers_all
        owners = filesystem.tree.owners
        ids = (owners.users, owners.groups)
        self._shows_owners = all(one.squash_to is None and not one.ranges for one in ids)
        # What comes to a lower later is found, at once or when the timeout is over: no names are kept then.
        self._resolves = self._shows_owners and options.timeout is None and not is_live
        users, groups = ids
        _native.plane_start(
            *_parts(timeout),
            (_id(users.unmapped), _id(groups.unmapped)),
            (_id(users.unmapped_in_upper), _id(groups.unmapped_in_upper)),
            options.static_nlink,
            options.xattr,
            acl,
            len(os.sched_getaffinity(0)) > 1,
            filesystem.shares.plane,
            filesystem.shares.plane,
            filesystem.files.no_open,
            self._resolves,
            *_parts(live_timeout),
        )
        self._claim_traps()
        filesystem.nodes.plane = self
        tree = filesystem.tree
        self._too_wide: set[int] = set()
        self._upper_device = -1
        if (
            self._is_on
            and self._shows_owners
            and filesystem.root.upper is not None
            and tree.layers[0].override is None
            and not tree.layers[0].idmapped
            and tree.quota is None
            and filesystem.files.writes_back
            and not options.by_project
            and not options.dirsync
        ):
            self._upper_device = filesystem.root.upper.stat().st_dev

    def _claim_traps(self) -> None:
        filesystem = self._filesystem
        for device, inode in filesystem.tree.merge.traps:
            # A lookup of them fails.
            _native.plane_claim(filesystem.lookup.numbering.key(device, inode))

    # For the overlay

    def claim(self, nodeid: int) -> int:
        return _native.plane_claim(nodeid)

    def drop(self, nodeid: int) -> None:
        self._too_wide.discard(nodeid)
        _native.plane_drop(nodeid)

    def fetch(self, directory: Directory, name: bytes) -> Node | None:
        for crossing in _native.plane_fetch(directory.nodeid, name):
            self._adopt(*crossing)
        # One that an earlier daemon has left may have lost the name.
        return directory.children.get(name)

    def fetch_node(self, nodeid: int) -> None:
        for crossing in _native.plane_fetch(nodeid, b""):
            self._adopt(*crossing)

    def note(self, nodeid: int, above: int, name: bytes) -> None:
        _native.plane_link(nodeid, above, name)

    def keep(self, nodeid: int, fd: int) -> None:
        _native.plane_keep(nodeid, fd)

    def begin_rename(
        self, above: int, name: bytes, onto: int, new_name: bytes, exchanged: int
    ) -> None:
        flags = _native.RENAME_EXCHANGE if exchanged else 0
        _native.plane_begin_rename(above, name, onto, new_name, flags, exchanged)

    def end_rename(self) -> None:
        _native.plane_end_rename()

    def revoke(self, directory: Directory) -> None:
        if _native.plane_revoke(directory.nodeid, False, b""):
            # A reader continues in the listing as it is now.
            self._filesystem.listings.get(directory, restart=True)

    def names(self) -> dict[int, list[bytes]]:
        found: dict[int, list[bytes]] = {}
        for nodeid, name in _native.plane_names():
            found.setdefault(nodeid, []).append(name)
        return found

    def let_go(self, directory: Directory) -> None:
        self._too_wide.discard(directory.nodeid)
        _native.plane_let_go(directory.nodeid)

    def begin_leaving(self) -> None:
        nodes = self._filesystem.nodes
        for nodeid in _native.plane_readers():
            if nodeid not in nodes.by_nodeid:
                self.fetch_node(nodeid)
            directory = nodes.by_nodeid.get(nodeid)
            if isinstance(directory, Directory) and not directory.orphaned:
                # A reader continues in the listing as it is now.
                self._filesystem.listings.get(directory, restart=True)

    def leave(self) -> None:
        self._too_wide.clear()
        _native.plane_leave()

    def begin_again(self) -> None:
        """Go on with other layers, after `leave`."""
        self._claim_traps()
        self.offer(self._filesystem.root)

    def unresolve(self, directory: Directory, name: bytes) -> None:
        if _native.plane_revoke(directory.nodeid, True, name):
            self._filesystem.listings.get(directory, restart=True)

    # For the session

    def answer_after_change(self) -> bool:
        """Copy up the plane's small plain file that the pending request opens or renames, or remove one of a lower.

        The node stays the plane's. Requires: called before `take_back`.
        Returns: whether the plane has answered the request then.
        """
        wanted = _native.plane_to_change() if self._upper_device >= 0 else None
        if wanted is None:
            return False
        began = time.perf_counter_ns()
        opcode, nodeid, above, name, place, flags, pid, onto, new_name = wanted
        nodes = self._filesystem.nodes.by_nodeid
        directory, new_directory = nodes.get(above), nodes.get(onto)
        is_done = False
        asking.set(pid)
        try:
            if not isinstance(directory, Directory):
                pass
            elif opcode == _native.FUSE_OPEN:
                is_done = self._copy(directory, name, place, nodeid, flags)
            elif opcode == _native.FUSE_UNLINK:
                is_done = self._remove(directory, name, place)
            elif isinstance(new_directory, Directory):
                is_done = self._rename(
                    directory, name, place, nodeid, new_directory, new_name, is_free=bool(flags)
                )
        except OSError:  # the other way reports it, or gets round it
            pass
        except Exception:
            log.exception("a change failed")
        finally:
            if opcode == _native.FUSE_UNLINK and not is_done:
                _native.plane_take_removal(b"")
            self._filesystem.between_operations()
        if is_done:
            self._count(KINDS[opcode], time.perf_counter_ns() - began)
        return is_done

    def _copy(self, directory: Directory, name: bytes, place: int, nodeid: int, flags: int) -> bool:
        copy = self._copying.copy_without_node(
            directory, name, place, nodeid, keep_data=not flags & os.O_TRUNC
        )
        if copy is None:
            return False
        if 0 < len(copy.content) <= _PAGE_BYTES and self._resolves:
            self._store(nodeid, copy.content)
        descriptor = copy.take()
        is_taken = _native.plane_take_copy(descriptor, self._changed(copy, nodeid))
        if not is_taken:
            os.close(descriptor)
        return is_taken

    def _store(self, nodeid: int, data: bytes) -> None:
        """Put a file's data, of one page, into the kernel's cache, which asks for them before most writes.

        Requires: no program has the file open: one that reads it would wait for this process, and this for its page.
        """
        size = len(data)
        header = _STORE.pack(_STORE.size + size, _NOTIFY_STORE, 0, nodeid, 0, size, 0)
        with contextlib.suppress(OSError):  # the kernel has no room
            os.writev(self.device, (header, data))

    def _changed(self, copy: SmallCopy, nodeid: int) -> int:
        """The change time of a copy for the kernel."""
        return self._filesystem.nodes.change_times.get(nodeid, copy.stat.st_ctime_ns)

    def _remove(self, directory: Directory, name: bytes, place: int) -> bool:
        where = self._filesystem.removal.unlink_below(directory, name, place)
        return bool(where) and _native.plane_take_removal(where)

    def _rename(
        self,
        directory: Directory,
        name: bytes,
        place: int,
        nodeid: int,
        new_directory: Directory,
        new_name: bytes,
        *,
        is_free: bool,
    ) -> bool:
        filesystem = self._filesystem
        if filesystem.copyup.metacopy:
            return False
        copy = self._copying.copy_without_node(
            directory, name, place, nodeid, keep_data=True, keeps_times=False
        )
        if copy is None:
            return False
        descriptor = copy.take()
        try:
            return filesystem.renaming.rename_below(
                directory, name, new_directory, new_name, is_free=is_free
            ) and _native.plane_take_copy(descriptor, self._changed(copy, nodeid))
        finally:
            _native.plane_end_rename()
            os.close(descriptor)

    def answer_after_grant(self) -> bool:
        """Grant the directory that the pending request is about, if it is one to grant.

        Returns: whether the plane has answered the request then.
        """
        wanted = _native.plane_wanted() if self._is_on else None
        if wanted is None:
            return False
        nodeid, times, lists, makes, pid, name = wanted
        directory = self._filesystem.nodes.by_nodeid.get(nodeid)
        if not isinstance(directory, Directory):
            return False
        try:
            if makes:
                is_new = self._offer_copied_up(directory, name, pid)
            elif not directory.merged:
                is_new = self.offer(directory)
            elif lists:
                is_new = self._resolve(directory, _MOST_RESOLVED)
            elif _is_power_of_4(times):
                is_new = self._resolve(directory, min(_NAMES_FOR_A_REQUEST * times, _MOST_RESOLVED))
            else:
                return False
            return is_new and _native.plane_retry()
        except Exception:
            log.exception("a grant failed")
            return False
        finally:
            self._filesystem.between_operations()

    def offer(self, directory: Directory) -> bool:
        """Grant a directory, if it is one to grant and has not been granted yet: one of the upper alone for changes.

        Returns: whether it is granted now, and was not before.
        """
        if not self._is_on or directory.orphaned or _native.plane_is_granted(directory.nodeid):
            return False
        if directory.upper is not None:
            return not directory.lowers and self.offer_changes(directory)
        if len(directory.lowers) != 1:
            return False
        if directory.is_live and self._filesystem.lookup.leads_to_pinned(directory):
            return False
        (lower,) = directory.lowers
        layer = lower.layer
        if not self._shows_owners or layer.idmapped or layer.override is not None:
            return False
        try:
            base = self._filesystem.lookup.numbering.base(lower.stat().st_dev)
            if base >= 0 and not self._holds_copies(lower):
                lists = self._filesystem.entries.lists_files(lower)
                return _native.plane_grant(
                    directory.nodeid,
                    (directory.parent or directory).nodeid,
                    lower.fd(),
                    base,
                    lists,
                    lists and layer.mounted_in == frozenset(),
                    _liveness(directory),
                )
        except OSError:  # a request says what fails
            pass
        return False

    def offer_changes(self, directory: Directory) -> bool:
        """Grant a directory for changes, if it is one to grant and has not been granted yet: whether it is now."""
        upper = directory.upper
        if (
            self._upper_device < 0
            or upper is None
            or directory.orphaned
            or len(directory.lowers) > _MOST_LOWERS
            or _native.plane_is_granted(directory.nodeid) == _FOR_CHANGES
        ):
            return False
        try:
            device = upper.stat().st_dev
            base = self._filesystem.lookup.numbering.base(device)
            if device != self._upper_device or base < 0:
                return False
            lowers = [lower.fd() for lower in directory.lowers]
            return _native.plane_grant_changes(
                directory.nodeid, upper.fd(), base, lowers, _liveness(directory)
            )
        except OSError:  # a request says what fails
            return False

    def _offer_copied_up(self, directory: Directory, name: bytes, pid: int) -> bool:
        """As `offer_changes`, for the process that makes a name in the directory, which is copied up for that."""
        if self._upper_device < 0 or len(directory.lowers) > _MOST_LOWERS:
            return False
        asking.set(pid)
        try:
            self._filesystem.tree.writable_directory(directory, name)
        except OSError:  # the request says so
            return False
        return self.offer_changes(directory)

    def give(self, node: Node) -> None:
        """Give a file of the upper to the plane, with its open file, if all of it can be the plane's.

        Requires: no other request is under way, which may rely on the node.
        """
        if not isinstance(node, File) or self._upper_device < 0 or not node.is_plain_upper:
            return
        if self._filesystem.files.no_open:  # an open file is not its handles' there
            return
        nodes = self._filesystem.nodes
        ((directory, name),) = node.links
        opened = node.opened
        if (
            nodes.by_nodeid.get(node.nodeid) is not node
            or not directory.nlookup
            or not node.nlookup
            or node.inode_number != node.nodeid
            or (opened is not None and (not opened.count or not opened.writable))
            or (opened is not None and (opened.users or opened.failure))
        ):
            return
        with contextlib.suppress(OSError):  # an idle file may be out of reach
            if _native.plane_give(
                node.nodeid,
                directory.nodeid,
                name,
                node.nlookup,
                -1 if opened is None else opened.fd,
                0 if opened is None else opened.count,
                nodes.change_times.get(node.nodeid, 0),
                (None, 0, 0, False) if opened is None else opened.state,
            ):
                if opened is not None:
                    self._filesystem.files.give_away(opened)
                nodes.give(node)

    def _resolve(self, directory: Directory, most: int) -> bool:
        """Hand over the names of a merged directory, unless they are more than `most`: whether that is done."""
        upper = directory.upper
        if (
            not self._resolves
            or directory.orphaned
            or directory.nodeid in self._too_wide
            or len(directory.lowers) > _MOST_LOWERS
            or (upper is not None and self._upper_device < 0)
        ):
            return False
        try:
            if upper is not None and upper.stat().st_dev != self._upper_device:
                return False
            if self._resolve_alone(directory, most):
                return True
            merged = self._filesystem.tree.merge.merged_entries(directory, most)
            if merged is None or len(merged[0]) > _MOST_RESOLVED:
                if most == _MOST_RESOLVED:
                    self._too_wide.add(directory.nodeid)
                return False
            return _native.plane_resolve(
                directory.nodeid,
                (directory.parent or directory).nodeid,
                -1 if upper is None else upper.fd(),
                [lower.fd() for lower in directory.lowers],
                *self._resolved(directory, *merged),
            )
        except OSError:  # a request says what fails
            return False

    def _resolve_alone(self, directory: Directory, most: int) -> bool:
        """As `_resolve`, if one lower has all names: the plane reads them. Returns false also if they may be marks."""
        listing = directory.listing
        if listing is not None and listing.readers > 0:
            return False
        full = [one for one in directory.layer_dirs if not _is_empty(one)]
        if len(full) != 1 or full[0] not in directory.lowers:
            return False
        lower = full[0]
        layer = lower.layer
        filesystem = self._filesystem
        base = filesystem.lookup.numbering.base(lower.stat().st_dev)
        if (
            base < 0
            or layer.idmapped
            or layer.override is not None
            or filesystem.tree.merge.holds_whiteout_files(lower)
            or self._holds_copies(lower)
        ):
            return False
        lists = filesystem.entries.lists_files(lower)
        below = lists and layer.mounted_in == frozenset()
        is_done = _native.plane_resolve(
            directory.nodeid,
            (directory.parent or directory).nodeid,
            -1 if directory.upper is None else directory.upper.fd(),
            [one.fd() for one in directory.lowers],
            [(base, below) if one is lower else (0, False) for one in directory.lowers],
            True,
            (directory.lowers.index(lower), lists, most),
        )
        if is_done:
            directory.drop_listing()
        return is_done

    def _resolved(
        self, directory: Directory, entries: list[Entry], several: set[bytes]
    ) -> tuple[list[tuple[int, bool]], bool, list[tuple[bytes, int, int, int]]]:
        """The last arguments of `_native.plane_resolve`. `several`: names that more than one layer has."""
        filesystem = self._filesystem
        lowers = []
        places: dict[LayerDir, int] = {}
        for index, lower in enumerate(directory.lowers):
            layer = lower.layer
            base = filesystem.lookup.numbering.base(lower.stat().st_dev)
            lists = filesystem.entries.lists_files(lower) and layer.mounted_in == frozenset()
            lowers.append((max(base, 0), lists))
            if (
                base >= 0
                and not layer.idmapped
                and layer.override is None
                and not self._holds_copies(lower)
            ):
                places[lower] = index
        lists = self._begins_alike(directory, entries)
        nodeids = filesystem.entries.nodeids(directory, entries)
        names = []
        merged = others = 0
        for entry, nodeid in zip(entries, nodeids, strict=True):
            name, kind, layer_dir, _ = entry
            place = places.get(layer_dir, _native.PLACE_OF_PYTHON)
            if kind == stat.S_IFDIR:
                if name in several:
                    place = _native.PLACE_OF_PYTHON
                    merged += 1
                    if not nodeid and lists and merged <= _MOST_MERGED:
                        nodeid = self._nodeid(directory, entry)
            elif kind not in (stat.S_IFREG, stat.S_IFLNK):
                place = _native.PLACE_OF_PYTHON
            others += place == _native.PLACE_OF_PYTHON and kind != stat.S_IFDIR
            lists = lists and (place != _native.PLACE_OF_PYTHON or nodeid != 0)
            names.append((name, place, kind >> 12, nodeid))
        return lowers, lists and others <= max(8, len(names) // 8), names

    def _holds_copies(self, lower: LayerDir) -> bool:
        """Whether inode numbers of files in a lower's directory are others', which only Python finds."""
        is_impure = self._filesystem.tree.markers.is_impure
        return lower.layer.frozen and is_impure(lower.proc_path())

    def _begins_alike(self, directory: Directory, entries: list[Entry]) -> bool:
        """Whether no reader continues a listing with other positions than `entries` have, which come in this order."""
        listing = directory.listing
        if listing is None:
            return True
        if listing.readers <= 0:
            directory.drop_listing()
            return True
        return listing.positions == range(1, len(entries) + 1) and all(
            one[0] == other[0] for one, other in zip(listing.entries, entries, strict=True)
        )

    def _nodeid(self, directory: Directory, entry: Entry) -> int:
        """The nodeid of a directory, which lookups make again; 0 if they may not."""
        found = self._filesystem.entries.look_up(directory, entry)
        if found is None:
            return 0
        nodeid = found.node.nodeid
        self._filesystem.nodes.evict_if_unused(found.node)
        return nodeid if nodeid < FIRST_FREE else 0

    def note_changes(self, directory: Directory) -> bool:
        """Note for a directory's listing what the plane has changed in it.

        Returns: whether it is granted for changes, so that a listing gives names only: a node that Python knows is the
        plane's no more.
        """
        is_granted, is_changed = _native.plane_changed(directory.nodeid)
        if is_changed:
            directory.mark_changed()
            directory.mark_upper_written()
        return is_granted

    def descriptor(self, handle: int) -> int:
        """A descriptor of a file that the plane has open, the caller's to close; -1 if it is not the plane's.

        Raises: OSError.
        """
        return _native.plane_descriptor(handle) if handle & _native.OUR_HANDLE else -1

    def take_back(self) -> None:
        """Take over the nodes of the request that Python is to answer, and what the plane has kept of others."""
        for crossing in _native.plane_crossings():
            self._adopt(*crossing)
            self._filesystem.between_operations()  # many directories may cross at once
        nodes = self._filesystem.nodes
        for nodeid, changed in _FORGOTTEN.iter_unpack(_native.plane_forgotten()):
            if changed:
                nodes.change_times.record(nodeid, changed)
            else:
                nodes.forget(nodeid, 1)

    def count_lookup(self, node: Node) -> None:
        """Count a lookup of a node. Requires: called before the reply."""
        node.count_lookup()
        if self.is_kept:
            _native.plane_count(node.nodeid)

    def handle(self, nodeid: int, handle: int, *, writable: bool) -> int:
        """The number of a file handle for the kernel: the plane knows it, and with a keeper another daemon too."""
        return _native.plane_open(nodeid, handle, writable)

    def is_resent(self) -> bool:
        """Whether the request that Python got last has begun in a daemon that was killed."""
        return self.is_kept and _native.plane_resent()

    def finish_rename(self) -> tuple[int, bytes, int, bytes] | None:
        """Note in the table the last rename, if it was carried out and a daemon was killed before it had noted that.

        Returns: the rename, if it was carried out: the request may be sent again.
        """
        renaming = _native.plane_renaming()
        if renaming is None:
            return None
        above, name, onto, new_name, inode, is_under_way = renaming
        is_done = False
        with contextlib.suppress(OSError):  # the directory has gone
            filesystem = self._filesystem
            for nodeid in (above, onto):
                self.fetch_node(nodeid)
            directories = [filesystem.nodes.directory(nodeid) for nodeid in (above, onto)]
            is_done = filesystem.renaming.is_done(
                directories[0], name, directories[1], new_name, inode
            )
            if is_done and is_under_way:
                _native.plane_renamed()
        _native.plane_end_rename()
        return (above, name, onto, new_name) if is_done else None

    def held(self) -> dict[str, int]:
        """What it holds in memory, as `Filesystem.counts`."""
        names = ("nodes", "nlookup", "open_files", "directories")
        return dict(zip(names, _native.plane_held(), strict=True))

    def answered(self) -> int:
        """How many requests the plane has answered."""
        return sum(one.count for one in self.latencies().values())

    def latencies(self) -> dict[str, Latencies]:
        """How many of each kind, and how long they took."""
        counts = memoryview(_native.plane_counts()).cast("Q")
        size = 1 + LATENCIES
        return of_opcodes([counts[at : at + size] for at in range(0, len(counts), size)])

    def close(self) -> None:
        """Close the plane's descriptors."""
        # Programs wait for the end of a mount: one call closes those whose numbers follow.
        numbers = sorted(memoryview(_native.plane_close()).cast("i"))
        first = 0
        for at in range(1, len(numbers) + 1):
            if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
                _native.close_range(numbers[first], numbers[at - 1], 0)
                first = at

    def _adopt(
        self,
        above: int,
        name: bytes,
        nodeid: int,
        lookups: int,
        handles: list[tuple[int, bool]],
        changed: int,
        state: tuple[int | None, int, int, bool],
        inode: int,
        is_made: bool,
        place: int,
        is_left: bool,
    ) -> Node | None:
        filesystem = self._filesystem
        node: Node | None = None
        outer = filesystem.nodes.expected
        is_given = place == _native.PLACE_OF_PYTHON
        filesystem.nodes.expected = nodeid if is_left or is_given else 0
        directory = filesystem.nodes.by_nodeid.get(above)
        with contextlib.suppress(OSError):  # the lower has changed
            if is_left or (name and not above):
                if isinstance(directory, Directory) or not above:
                    node = filesystem.lookup.adopt_left(
                        directory if isinstance(directory, Directory) else None,
                        name,
                        inode,
                        made=is_made and not is_given,
                    )
            elif inode >= 0:
                node = filesystem.lookup.adopt_nameless(inode)
            elif is_made and not is_given and isinstance(directory, Directory):
                node = filesystem.lookup.adopt_made(directory, name)
            elif (
                name
                and isinstance(directory, Directory)
                and len(directory.lowers) > place
                and directory.merged
            ):
                # Other lowers need not be asked again: one may take long to answer.
                node = filesystem.lookup.adopt_below(directory, name, directory.lowers[place])
            elif name and isinstance(directory, Directory):
                found = filesystem.lookup.find(directory, name)
                node = None if found is None else found.node
        filesystem.nodes.expected = outer
        if not _native.plane_crossed(nodeid) or node is None:
            return node
        if is_left and inode >= 0 and not isinstance(node, Directory) and node.links:
            _native.plane_keep(nodeid, -1)
        node.count_lookup(lookups)
        if isinstance(node, File) and node.told is not None and not node.has_upper:
            self._mark_told(node, node.told, is_left=is_left)
        if changed:
            filesystem.nodes.change_times.record(nodeid, changed)
        for handle, is_writing in handles:
            opened = 0
            with contextlib.suppress(OSError):
                file = filesystem.nodes.file(nodeid)
                if filesystem.files.no_open:
                    opened = filesystem.files.hold(file, writing=is_writing)
                else:
                    # A file of a lower is copied up by the first write.
                    writes = is_writing and not (is_left and file.needs_copy())
                    opened = filesystem.files.open(
                        file, os.O_RDWR if writes else os.O_RDONLY, lazily=is_writing and not writes
                    )
                filesystem.files.by_handle[opened].continue_from(*state)
            _native.plane_bind(handle, opened)
        return node

    def _mark_told(self, node: File, told: Version, *, is_left: bool) -> None:
        """Note what the kernel knows of a file of a live lower; nothing for sure, if an earlier daemon has left it."""
        known = _native.plane_told(node.nodeid)
        if known is not None:
            size, modified, changed, fresh = known
            told = told._replace(size=size, modified_ns=modified, changed_ns=changed)
            node.mark_told(told, fresh, node.shown)
        elif is_left:
            node.mark_told(told._replace(size=-1), 0, node.shown)


def _is_empty(layer_dir: LayerDir) -> bool:
    fd = layer_dir.open_for_reading()
    try:
        return not attributes.entries(fd, _ENTRY_BYTES)
    finally:
        os.close(fd)


def _parts(seconds: float) -> tuple[int, int]:
    """A time as seconds and nanoseconds."""
    whole, rest = divmod(seconds, 1)
    return int(whole), int(rest * _NANOSECONDS)


def _liveness(directory: Directory) -> int:
    """What others may change of a directory's lowers, as `_native.plane_grant` takes it."""
    if not directory.is_live:
        return _native.UNCHANGING
    in_memory = any(not one.layer.has_flusher(one.stat().st_dev, one) for one in directory.lowers)
    return _native.LIVE_IN_MEMORY if in_memory else _native.LIVE


def _is_power_of_4(number: int) -> bool:
    return number.bit_count() == 1 and number.bit_length() % 2 == 1


def _id(number: int) -> int:
    """An id of `owners.Ids`, -1 for none, as the plane takes it."""
    return number if number >= 0 else _NO_ID
