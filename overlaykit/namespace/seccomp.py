"""The seccomp filters of a command, as files of BPF instructions.

Those of the default are made when overlaykit is built (`setup.py`), others at their first use, by libseccomp
(`seccomp_filter`). A start of a view opens files only.
"""

from __future__ import annotations

import os

import overlaykit
from overlaykit import privilege
from overlaykit.namespace.confinement import DEFAULT_FILTER, KEPT, MACHINE_FILTER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from overlaykit.namespace.confinement import Confinement

PREPARED: Final = tuple(
    os.path.join(os.path.dirname(overlaykit.__file__), f"_seccomp_{name}.bpf")
    for name in ("default", "terminal", "machine")
)
"""The filters of the default confinement, the first of which is that of a machine's programs, too; and their second."""
_BY_NAME: Final = {
    DEFAULT_FILTER: PREPARED[:2],
    MACHINE_FILTER: (PREPARED[0], PREPARED[2]),
}

CONDITIONAL: Final = frozenset(
    {2, 16, 17, privilege.CAP_SYS_CHROOT, 19, 20, privilege.CAP_SYS_ADMIN, 25, 26, 29, 38, 39}
)
"""The capabilities that decide about rules of the default (`seccomp_rules.DEFAULT`)."""


def open_filters(confinement: Confinement) -> list[int]:
    """Descriptors of the filters, in the order in which they are installed. Raises: Error, OSError."""
    if confinement.seccomp is None:
        return []
    if (
        confinement.seccomp in _BY_NAME
        and confinement.capabilities & CONDITIONAL == KEPT & CONDITIONAL
    ):
        opened: list[int] = []
        try:
            for path in _BY_NAME[confinement.seccomp]:
                opened.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:  # built without them
            for descriptor in opened:
                os.close(descriptor)
        else:
            return opened
    from overlaykit.namespace import seccomp_cache

    return seccomp_cache.open_filters(confinement)
