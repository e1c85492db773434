"""The copy of an inode: data, owner, mode, times, extended attributes, access control lists."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from overlaykit import attributes, inodes
from overlaykit.overlay import acl, overrides
from overlaykit.overlay.markers import ACLS, ESCAPED_PREFIXES, OVERLAY_PREFIXES

if TYPE_CHECKING:
    from overlaykit.overlay.layer import Layer
    from overlaykit.overlay.owners import Owners


class InodeCopier:
    """Copies inodes of lowers. `kept`: the attribute in which the upper keeps owners and modes, or None."""

    def __init__(self, owners: Owners, kept: bytes | None) -> None:
        self._owners = owners
        self._kept = kept

    def copy(
        self, source: int, target: int, st: os.stat_result, layer: Layer, *, data: bool
    ) -> None:
        """Copy data and metadata of an inode of `layer`, whose attributes are `st`."""
        uid = self._owners.users.copied(st.st_uid, idmapped=layer.idmapped)
        gid = self._owners.groups.copied(st.st_gid, idmapped=layer.idmapped)
        kept = self._kept
        if not overrides.applies(st.st_mode) or not (kept or layer.override):

            def copy_all() -> None:
                inodes.copy(
                    source,
                    target,
                    data=data,
                    uid=uid,
                    gid=gid,
                    skip_xattrs=OVERLAY_PREFIXES,
                    keep_xattrs=ESCAPED_PREFIXES,
                )
                if layer.idmapped:
                    _store_acls(target, st, self._owners)

            try:
                copy_all()
            except PermissionError:  # a mode denies access to attributes
                layer.read(copy_all, source)
            if self._owners.are_squashed:
                _lend_no_rights(target, st, uid, gid)
            return
        shown = overrides.Override(uid, gid, stat.S_IMODE(st.st_mode))
        if layer.override is not None:
            found = overrides.read(b"/proc/self/fd/%d" % source, layer.override)
            if found is not None:
                uid = self._owners.users.copied(found.uid, idmapped=layer.idmapped)
                gid = self._owners.groups.copied(found.gid, idmapped=layer.idmapped)
                shown = found._replace(uid=uid, gid=gid)
        inodes.copy(
            source,
            target,
            data=data,
            uid=os.geteuid() if kept else shown.uid,
            gid=os.getegid() if kept else shown.gid,
            skip_xattrs=(*OVERLAY_PREFIXES, *overrides.NAMES),
            keep_xattrs=ESCAPED_PREFIXES,
        )
        path = b"/proc/self/fd/%d" % target
        if kept is None:
            os.chmod(path, shown.mode)
        else:
            _lend_no_rights(target, st, os.geteuid(), os.getegid())
            overrides.write(path, kept, shown)

    def set_owner_and_mode(self, target: int, st: os.stat_result) -> None:
        """Give a new file the owner and mode of a lower's, whose attributes are `st`.

        Requires: neither its layer nor the upper keeps them in an attribute or maps ids, and it has no set-ID bits.
        """
        owner = (self._owners.users.copied(st.st_uid), self._owners.groups.copied(st.st_gid))
        made = os.fstat(target)
        if (made.st_uid, made.st_gid) != owner:
            os.fchown(target, *owner)
        if made.st_mode != st.st_mode:
            os.fchmod(target, stat.S_IMODE(st.st_mode))


def _lend_no_rights(target: int, st: os.stat_result, uid: int, gid: int) -> None:
    """Clear the set-ID bits of a copy whose owner differs from its lower's.

    Such a program would run the code of one user with the rights of another, outside of the view too.
    """
    lent = (stat.S_ISUID if uid != st.st_uid else 0) | (stat.S_ISGID if gid != st.st_gid else 0)
    if stat.S_ISREG(st.st_mode) and st.st_mode & lent:
        os.chmod(b"/proc/self/fd/%d" % target, stat.S_IMODE(st.st_mode) & ~lent)


def _store_acls(target: int, st: os.stat_result, owners: Owners) -> None:
    """Map the ids in a copy's access control lists to those to store: its lower's are as programs see them."""
    if stat.S_ISLNK(st.st_mode):
        return
    path = b"/proc/self/fd/%d" % target  # may be O_PATH
    for name in ACLS:
        value = attributes.xattr_or_none(path, name)
        if value is not None:
            os.setxattr(path, name, acl.copied(value, owners))
