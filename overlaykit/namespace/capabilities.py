"""What the root of a view may do: the set that podman and docker leave a container, less making devices
and writing the audit log.

The rules at execve(2) are in capabilities(7).
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
"""What the processes of a view keep; over files and processes of the view alone, when it is unprivileged."""


def restrict(kept: frozenset[int] = KEPT) -> None:
    """Give up, for this thread and all it executes, every capability but `kept` (of those it has).

    Raises:
      OSError: EPERM when this thread has not CAP_SETPCAP and so cannot shrink its bounding set.
    """
    _native.prctl(_native.PR_CAP_AMBIENT, _native.PR_CAP_AMBIENT_CLEAR_ALL)
    for capability in count():
        if capability not in kept:
            try:
                _native.prctl(_native.PR_CAPBSET_DROP, capability)
            except OSError as error:
                if error.errno == errno.EINVAL:  # beyond the kernel's last one
                    break
                raise
    mask = sum(1 << capability for capability in kept & privilege.capabilities("CapPrm"))
    _native.capset(mask, mask, 0)
