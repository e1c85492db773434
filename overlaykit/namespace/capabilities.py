"""What the root of a view may do: the set that podman and docker leave a container, less making devices
and writing the audit log.

The numbers are those of linux/capability.h; the rules at execve(2) are in capabilities(7).
"""

from __future__ import annotations

import errno
from itertools import count
from typing import Final

from overlaykit import _native, privilege

CAP_CHOWN: Final = 0
CAP_DAC_OVERRIDE: Final = 1
CAP_FOWNER: Final = 3
CAP_FSETID: Final = 4
CAP_KILL: Final = 5
CAP_SETGID: Final = 6
CAP_SETUID: Final = 7
CAP_SETPCAP: Final = 8
CAP_NET_BIND_SERVICE: Final = 10
CAP_NET_ADMIN: Final = 12
CAP_NET_RAW: Final = 13
CAP_SYS_CHROOT: Final = 18
CAP_SYS_ADMIN: Final = 21
CAP_MKNOD: Final = 27
CAP_SETFCAP: Final = 31

KEPT: Final = frozenset(
    {
        CAP_CHOWN,
        CAP_DAC_OVERRIDE,
        CAP_FOWNER,
        CAP_FSETID,
        CAP_KILL,
        CAP_SETGID,
        CAP_SETUID,
        CAP_SETPCAP,
        CAP_NET_BIND_SERVICE,
        CAP_NET_RAW,
        CAP_SYS_CHROOT,
        CAP_SETFCAP,
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
