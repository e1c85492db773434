"""What a command in a view may ask of the kernel: capabilities, no_new_privs, seccomp filter, covered paths.

The default is podman's, with no_new_privs. `confinement_options` changes it as podman's options do.
"""

from __future__ import annotations

import os

from overlaykit import privilege
from overlaykit.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

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
"""Capabilities that the processes of a view keep; in an unprivileged view they hold in its user namespace only.

Those of a container of podman or docker, without CAP_MKNOD and CAP_AUDIT_WRITE."""

DEFAULT_FILTER: Final = "default"
"""The list of containers/common, which podman uses, and the filter of the terminal (`seccomp_rules`)."""
MACHINE_FILTER: Final = "machine"
"""The same list, and the filter of the programs of a machine."""

MASKED: Final = (
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
)
READ_ONLY: Final = (
    "/proc/asound",
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)
"""Both as podman has them (default_linux.go in containers/common), but for thermal_throttle of each processor."""


class Confinement(Record, kw_only=True):
    """The confinement of a command.

    Raises:
      ValueError: a path is not absolute.
    """

    capabilities: frozenset[int] = KEPT
    """Those that the command and its descendants can have at most; in a user namespace they hold over that."""
    no_new_privs: bool = True
    seccomp: str | None = DEFAULT_FILTER
    """DEFAULT_FILTER, MACHINE_FILTER, the path of an OCI profile, or None."""
    masked: tuple[str, ...] = MASKED
    """Paths in the view that are covered: a directory by an empty one, another file by /dev/null."""
    read_only: tuple[str, ...] = READ_ONLY
    machine: bool = True
    """Whether all of procfs but processes is read-only where the machine's root is a user of the view."""
    left: tuple[str, ...] = ()
    """Entries of /proc that `machine` leaves as they are."""

    def __post_init__(self) -> None:
        for path in (*self.masked, *self.read_only, *self.left):
            if not os.path.isabs(path) or "\0" in path:
                raise ValueError(f"confinement: {path!r} is not an absolute path")
