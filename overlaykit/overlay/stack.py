"""The stack of a mount: opened layers, the probed file system of the upper, and the tree that merges them."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from overlaykit import _native, attributes
from overlaykit.overlay import features, originals, overrides
from overlaykit.overlay.copyup import CopyUp, Origins
from overlaykit.overlay.disk import Unfit, probe
from overlaykit.overlay.failure import fail
from overlaykit.overlay.features import Features
from overlaykit.overlay.layer import Layer, Reader
from overlaykit.overlay.lookup import Metacopies
from overlaykit.overlay.marker_names import TRUSTED_PREFIX, USER_PREFIX
from overlaykit.overlay.markers import Markers, xattr_names
from overlaykit.overlay.merge import Merge
from overlaykit.overlay.nodes import Table
from overlaykit.overlay.opened import as_layers
from overlaykit.overlay.overrides import Override
from overlaykit.overlay.owners import AS_THEY_ARE, Owners
from overlaykit.overlay.quota import Quota
from overlaykit.overlay.tree import Tree
from overlaykit.overlay.whiteouts import Whiteouts
from overlaykit.overlay.work import Work

if TYPE_CHECKING:
    from collections.abc import Sequence

    from overlaykit.overlay.descriptors import Descriptors
    from overlaykit.overlay.disk import Disk, Form
    from overlaykit.overlay.lookup import Verity
    from overlaykit.overlay.opened import OpenedLayer


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeOptions:
    """How to merge. The names are those of the kernel's overlayfs.

    `volatile`: do not sync; after a crash the upper is unusable.
    `userxattr`: write markers as `user.overlay.*` even with the privilege to write `trusted.`.
    `redirect_dir`: `on`: directories with lower parts can be renamed; `follow`: existing redirects are followed;
    `nofollow`: a directory with a redirect cannot be looked up (EPERM).
    `index`: hard links of a lower stay one file through copy-up, also over a remount.
    `uuid`: if off, and all layers lie on one file system, the index does not name it, so that a copy of the disk is
    usable.
    `override`: the attribute that holds the owners and modes of the upper's files (see `overrides`).
    `whiteout`: the form of whiteouts; None: one that the upper's file system has (see `disk`).
    `metacopy`: a change of a file's metadata copies no data. Without effect under the prefix `user.overlay.`, without
    `redirect_dir`, where attributes hold owners and modes, and with `verity`: copies have no digest.
    `verity`: whether the data of a metacopy are checked against the digest that its marker has, or must have.
    `reader`: reads files of lowers whose modes deny it to the daemon.
    `limit`: the bytes that the upper may take on its disk (see `quota`).
    """

    volatile: bool = False
    userxattr: bool = False
    redirect_dir: Literal["on", "follow", "nofollow"] = "on"
    index: bool = True
    metacopy: bool = False
    verity: Verity = "off"
    uuid: bool = True
    owners: Owners = AS_THEY_ARE
    override: bytes | None = None
    whiteout: Form | None = None
    reader: Reader | None = None
    limit: int | None = None


DEFAULTS: Final = MergeOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The parts of a mount. Owns the descriptors of its layers.

    `redirects`: directories with lower parts can be renamed. `lock`: the upper's (`OpenedLayer`).
    """

    tree: Tree
    work: Layer | None
    redirects: bool
    lock: int
    originals: int = -1

    def close(self) -> None:
        for layer in self.tree.layers:
            layer.close()
        if self.work is not None:
            self.work.close()
        for fd in (self.lock, self.originals):
            if fd >= 0:
                os.close(fd)


class _Upper(NamedTuple):
    """A prepared upper: `form` is that of its whiteouts, `owners` limits owners to those that it can hold."""

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
    """Merge `lowers`, top first, below `upper` if there is one.

    Raises: OSError as `Filesystem`.
    """
    layers = _layers([*([upper] if upper else []), *lowers], upper, options, descriptors)
    work_layer = prepared = None
    if upper is not None:
        if work is None:
            raise ValueError("an upper needs a work directory")
        work_layer = Layer(work.fd, -1, path=work.path, writable=True, descriptors=descriptors)
        try:
            prepared = _open_upper(layers[0], work_layer, options)
        except Unfit:
            descriptors.close()
            raise
    markers = Markers(_prefix(options)) if prepared is None else prepared.markers
    owners = options.owners if prepared is None else prepared.owners
    given = [os.fstat(layer.fd) for layer in (upper, work) if layer is not None]
    merge = Merge(
        layers,
        markers,
        follow=options.redirect_dir != "nofollow",
        traps=frozenset((st.st_dev, st.st_ino) for st in given),
    )
    metacopies = Metacopies(merge, markers, options.verity)
    redirects = options.redirect_dir == "on" and markers.attributes
    table = Table()
    copyup = whiteouts = quota = None
    kept_in = -1
    if prepared is not None:
        assert work is not None
        kept_in = originals.open_in(work.fd)
        if options.limit is not None:
            quota = _quota(options.limit, layers[0], prepared.work)
        copyup = CopyUp(
            table,
            markers,
            prepared.work,
            owners,
            layers[1:],
            metacopies,
            disk=None if options.volatile or prepared.disk.is_memory else prepared.disk,
            index=options.index and markers.attributes and prepared.disk.hard_links,
            metacopy=options.metacopy
            and redirects
            and options.verity == "off"
            and markers.prefix == TRUSTED_PREFIX
            and layers[0].override is None,
            quota=quota,
            originals=kept_in,
        )
        whiteouts = Whiteouts(prepared.work, markers, merge, prepared.disk, prepared.form)
    return Stack(
        tree=Tree(
            layers,
            table,
            merge,
            markers,
            owners,
            copyup,
            whiteouts,
            metacopies,
            Origins(layers) if copyup is None else copyup.origins,
            quota,
        ),
        work=work_layer,
        redirects=redirects,
        lock=-1 if upper is None else upper.lock,
        originals=kept_in,
    )


def _quota(limit: int, upper: Layer, work: Work) -> Quota:
    """Count what the upper takes."""
    block = os.statvfs(upper.root.fd()).f_frsize
    return Quota(limit, (upper.root, work.index), block)


def _layers(
    opened: Sequence[OpenedLayer],
    upper: OpenedLayer | None,
    options: MergeOptions,
    descriptors: Descriptors,
) -> list[Layer]:
    layers = as_layers(opened, upper, descriptors)
    allow_user = options.override == overrides.CONTAINERS
    for layer in layers:
        layer.reader = None if layer.writable else options.reader
        layer.override = overrides.find(layer.root.proc_path(), allow_user=allow_user)
    if not options.uuid and len({layer.root.stat().st_dev for layer in layers}) == 1:
        for layer in layers:
            layer.names_disk = False
    return layers


def _prefix(options: MergeOptions) -> bytes:
    return USER_PREFIX if options.userxattr else TRUSTED_PREFIX


def _open_upper(upper: Layer, work_layer: Layer, options: MergeOptions) -> _Upper:
    """Prepare the upper and its work directory.

    Raises: OSError (EXDEV, ENOTEMPTY), `Unfit`.
    """
    _require_one_mount(work_layer, upper)
    work = Work(work_layer, upper.root)
    is_new = work.modes.past(lambda: not os.listdir(upper.root.proc_path()))
    owners = options.owners
    if options.override is None:
        owners = owners.limited_to(work.can_give_to_user, work.can_give_to_group)
    else:
        _hold_permissions_in(upper, options.override)
    work_layer.override = upper.override
    disk = probe(work.layer_dir.proc_path(), user=options.userxattr)
    form = disk.form(options.whiteout)
    work.modes.past(lambda: _require_same_prefix(upper.root.proc_path(), disk.prefix))
    used = [_FEATURES_OF_FORMS[form]] if form in _FEATURES_OF_FORMS else []
    if upper.override is not None:
        used.append(features.PERMISSIONS)
    markers = Markers(
        disk.prefix or _prefix(options),
        attributes=disk.prefix is not None,
        names=form == "aufs",
        recorded=work.modes.past(lambda: _features(upper, disk.prefix, used, is_new=is_new)),
    )
    return _Upper(work, markers, disk, form, owners)


_FEATURES_OF_FORMS: Final = {
    "xattr": features.WHITEOUT_XATTR,
    "aufs": features.WHITEOUT_AUFS,
}


def _features(
    upper: Layer, prefix: bytes | None, used: Sequence[str], *, is_new: bool
) -> Features | None:
    """The record of the upper's features, with those in it that this mount uses from the start."""
    if prefix is None:
        return None
    found = Features(upper.root.proc_path, prefix, is_new=is_new)
    for feature in used:
        found.add(feature)
    return found


def _hold_permissions_in(upper: Layer, name: bytes) -> None:
    """Keep the owners and modes of the upper's files in the attribute `name`, unless its root has another such one.

    Later mounts find it by the attribute of the root.
    """
    if upper.override is None:
        # Files that are there already may carry attributes that a user has set.
        if os.listdir(upper.root.proc_path()):
            fail(errno.ENOTEMPTY, os.fsencode(upper.path))
        path = upper.root.proc_path()
        overrides.write(path, name, Override.of(os.stat(path)))
        upper.override = name


def _require_same_prefix(upper: bytes, prefix: bytes | None) -> None:
    """Refuse an upper with markers under the other prefix, which this mount would not read.

    Raises: Unfit.
    """
    names = () if prefix is None else xattr_names(upper)
    if prefix != USER_PREFIX and USER_PREFIX + b"impure" in names:
        raise Unfit("its markers are a user's (user.overlay.*)", "give userxattr")
    if prefix == USER_PREFIX and TRUSTED_PREFIX + b"impure" in names:
        raise Unfit("its markers are root's (trusted.overlay.*)", "leave userxattr out")


def _require_one_mount(work: Layer, upper: Layer) -> None:
    """Require that rename(2) works from the work directory to the upper.

    Raises: OSError (EXDEV).
    """
    mounts = {
        attributes.statx(layer_dir.fd(), b"", _native.AT_EMPTY_PATH, _native.STATX_MNT_ID).mnt_id
        for layer_dir in (work.root, upper.root)
    }
    if len(mounts) > 1:
        fail(errno.EXDEV, os.fsencode(upper.path))
