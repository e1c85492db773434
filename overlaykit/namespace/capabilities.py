"""The capabilities of a view's root: those of a container of podman or docker, without CAP_MKNOD and CAP_AUDIT_WRITE.

Source of the rules at execve(2): capabilities(7).
"""

from __future__ import annotations

import errno
from itertools import count
from typing import Final

from overlaykit import _native, privilege

KEPT: Final = frozenset(
    {
        privilege.CAP_CHOWN,
        privilege.CAP_DAC_OVERRIDE,
        privilege.CAP_FOWNER,
        privilege.CAP_FSETID,
        privilege.CAP_KILL,
        privilege.CAP_SETGID,
        privilege.CAP_SETUID,
        privilege.CAP_SETPCAP,
        privilege.CAP_NET_BIND_SERVICE,
        privilege.CAP_NET_RAW,
        privilege.CAP_SYS_CHROOT,
        privilege.CAP_SETFCAP,
    }
)
"""Capabilities that the processes of a view keep; in an unprivileged view they hold in its user namespace only."""


def restrict(kept: frozenset[int] = KEPT) -> None:
    """Drop every capability except `kept`, for this thread and the programs it executes.

    Raises:
      OSError: EPERM without CAP_SETPCAP, which dropping from the bounding set needs.
    """
    _native.prctl(_native.PR_CAP_AMBIENT, _native.PR_CAP_AMBIENT_CLEAR_ALL)
    for capability in count():
        if capability not in kept:
            try:
                _native.prctl(_native.PR_CAPBSET_DROP, capability)
            except OSError as error:
                # Past the last capability of this kernel.
                if error.errno == errno.EINVAL:
                    break
                raise
    mask = sum(1 << capability for capability in kept & privilege.capabilities("CapPrm"))
    _native.capset(mask, mask, 0)
