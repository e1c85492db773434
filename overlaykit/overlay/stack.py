"""The stack of a mount: its layers opened, its upper's disk probed, and the tree that merges them."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from overlaykit import _native
from overlaykit.overlay import overrides
from overlaykit.overlay.copyup import CopyUp
from overlaykit.overlay.disk import Unfit, probe
from overlaykit.overlay.failure import fail
from overlaykit.overlay.layer import Layer, Reader
from overlaykit.overlay.markers import TRUSTED_PREFIX, USER_PREFIX, Markers, xattr_names
from overlaykit.overlay.merge import Merge
from overlaykit.overlay.nodes import Table
from overlaykit.overlay.overrides import Override
from overlaykit.overlay.owners import AS_THEY_ARE, Owners
from overlaykit.overlay.tree import Tree
from overlaykit.overlay.whiteouts import Whiteouts
from overlaykit.overlay.work import Work

if TYPE_CHECKING:
    from collections.abc import Sequence

    from overlaykit.overlay.descriptors import Descriptors
    from overlaykit.overlay.disk import Disk, Form


@dataclass(frozen=True, slots=True)
class OpenedLayer:
    """A directory to be merged: a descriptor of it (O_PATH will do; it is taken over) and its path, to be shown.

    `mounted_in`: the directories, as paths from its root, in which other mounts lie on something, as far as the
    descriptor shows them; None if that is not known. Mounts made later are changes of a layer, as any other.
    `lock`: a descriptor that keeps others from writing to it, taken over and closed last (-1: none).
    `idmapped`: the mount that it lies on has mapped its owners already.
    """

    fd: int
    path: str
    mounted_in: frozenset[bytes] | None = None
    lock: int = -1
    idmapped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeOptions:
    """How to mount. The names are those of the kernel's overlayfs.

    `volatile`: nothing is synced; after a crash the upper is worth nothing. `userxattr`: marks as `user.overlay.*` even
    where `trusted.` could be written. `redirect_dir`: `on`, directories with lower parts can be renamed; `follow`, only
    those that were are followed; `nofollow`, not even that (EPERM). `index`: hard links of a lower stay one file when
    they are copied up, also over a remount. `uuid`: if off and all layers lie on one file system, the index does not
    name it, so that it holds on a copy of the disk. `override`: the attribute that holds the owners and modes of
    what is in the upper instead of its inodes (see `overrides`). `whiteout`: the form in which whiteouts are written;
    None: one that the upper's file system can carry (see `disk`). `reader`: for what modes of lowers keep us out of.
    """

    volatile: bool = False
    userxattr: bool = False
    redirect_dir: Literal["on", "follow", "nofollow"] = "on"
    index: bool = True
    uuid: bool = True
    owners: Owners = AS_THEY_ARE
    override: bytes | None = None
    whiteout: Form | None = None
    reader: Reader | None = None


DEFAULTS: Final = MergeOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """What a mount is built of. Owns the descriptors of its layers.

    `redirects`: whether directories with lower parts can be renamed. `lock`: as of the upper (`OpenedLayer`).
    """

    tree: Tree
    work: Layer | None
    redirects: bool
    lock: int

    def close(self) -> None:
        for layer in self.tree.layers:
            layer.close()
        if self.work is not None:
            self.work.close()
        if self.lock >= 0:
            os.close(self.lock)


class _Written(NamedTuple):
    """An upper, ready to be written to: `form` is that of its whiteouts, `owners` those that it can hold."""

    work: Work
    markers: Markers
    disk: Disk
    form: Form
    owners: Owners


def assemble(
    lowers: Sequence[OpenedLayer],
    upper: OpenedLayer | None,
    work: OpenedLayer | None,
    options: MergeOptions,
    descriptors: Descriptors,
) -> Stack:
    """Merge `lowers`, top first, below `upper` if there is one. Raises OSError: as `Filesystem`."""
    layers = _layers([*([upper] if upper else []), *lowers], upper, options, descriptors)
    room = written = None
    if upper is not None:
        if work is None:
            raise ValueError("an upper needs a work directory")
        room = Layer(work.fd, -1, path=work.path, writable=True, descriptors=descriptors)
        try:
            written = _open_upper(layers[0], room, options)
        except Unfit:
            descriptors.close()
            raise
    markers = Markers(_prefix(options)) if written is None else written.markers
    owners = options.owners if written is None else written.owners
    given = [os.fstat(layer.fd) for layer in (upper, work) if layer is not None]
    merge = Merge(
        layers,
        markers,
        follow=options.redirect_dir != "nofollow",
        traps=frozenset((st.st_dev, st.st_ino) for st in given),
    )
    table = Table()
    copyup = whiteouts = None
    if written is not None:
        copyup = CopyUp(
            table,
            markers,
            written.work,
            owners,
            layers[1:],
            volatile=options.volatile,
            index=options.index and markers.attributes and written.disk.hard_links,
        )
        whiteouts = Whiteouts(written.work, markers, merge, written.disk, written.form)
    return Stack(
        tree=Tree(layers, table, merge, markers, owners, copyup, whiteouts),
        work=room,
        redirects=options.redirect_dir == "on" and markers.attributes,
        lock=-1 if upper is None else upper.lock,
    )


def _layers(
    opened: Sequence[OpenedLayer],
    upper: OpenedLayer | None,
    options: MergeOptions,
    descriptors: Descriptors,
) -> list[Layer]:
    layers = [
        Layer(
            one.fd,
            index,
            path=one.path,
            writable=one is upper,
            descriptors=descriptors,
            mounted_in=one.mounted_in,
            idmapped=one.idmapped,
        )
        for index, one in enumerate(opened)
    ]
    anybodys = options.override == overrides.CONTAINERS
    for layer in layers:
        layer.reader = None if layer.writable else options.reader
        layer.override = overrides.find(layer.root.proc_path(), anybodys=anybodys)
    if not options.uuid and len({layer.root.stat().st_dev for layer in layers}) == 1:
        for layer in layers:
            layer.names_disk = False
    return layers


def _prefix(options: MergeOptions) -> bytes:
    return USER_PREFIX if options.userxattr else TRUSTED_PREFIX


def _open_upper(upper: Layer, room: Layer, options: MergeOptions) -> _Written:
    """`room` is the opened work directory. Raises OSError: EXDEV, ENOTEMPTY, `Unfit`."""
    _require_one_mount(room, upper)
    work = Work(room, upper.root)
    owners = options.owners
    if options.override is None:
        owners = owners.held_in(work.can_give_to_user, work.can_give_to_group)
    else:
        _hold_permissions_in(upper, options.override)
    room.override = upper.override
    disk = probe(work.layer_dir.proc_path(), user=options.userxattr)
    form = disk.form(options.whiteout)
    _require_same_prefix(upper.root.proc_path(), disk.prefix)
    markers = Markers(
        disk.prefix or _prefix(options),
        attributes=disk.prefix is not None,
        names=form == "aufs",
    )
    return _Written(work, markers, disk, form, owners)


def _hold_permissions_in(upper: Layer, name: bytes) -> None:
    """Keep the upper's owners and modes in an attribute from now on: in `name`, unless its root says that another one
    has them. The root says so to later readers too."""
    if upper.override is None:
        if os.listdir(upper.root.proc_path()):  # what is there may have been planted
            fail(errno.ENOTEMPTY, os.fsencode(upper.path))
        path = upper.root.proc_path()
        overrides.write(path, name, Override.of(os.stat(path)))
        upper.override = name


def _require_same_prefix(upper: bytes, prefix: bytes | None) -> None:
    """Raises Unfit if the upper holds marks under the other prefix, which would say nothing now."""
    names = () if prefix is None else xattr_names(upper)
    if prefix != USER_PREFIX and USER_PREFIX + b"impure" in names:
        raise Unfit("its marks are a user's (user.overlay.*)", "give userxattr")
    if prefix == USER_PREFIX and TRUSTED_PREFIX + b"impure" in names:
        raise Unfit("its marks are root's (trusted.overlay.*)", "leave userxattr out")


def _require_one_mount(work: Layer, upper: Layer) -> None:
    """Raises OSError (EXDEV) unless a rename can lead from the work directory into the upper."""
    mounts = {
        _native.statx(layer_dir.fd(), b"", _native.AT_EMPTY_PATH, _native.STATX_MNT_ID).mnt_id
        for layer_dir in (work.root, upper.root)
    }
    if len(mounts) > 1:
        fail(errno.EXDEV, os.fsencode(upper.path))
