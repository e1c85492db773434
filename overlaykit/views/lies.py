"""What a view is told of the machine that is not so (--lie): processors, memory, the time since the boot, identity.

Files of procfs, sysfs and /etc are covered by files in memory, made when a command is launched, or by those of lxcfs,
which follow the limits of the view; the clocks and the processors are the kernel's own means, and the supervisor
answers uname(2). What a system call says beside these (sysinfo(2), the CPUID instruction) stays true.

The counters of /proc/stat and /proc/loadavg move, so that no file in memory can hold them: lxcfs serves them. A file
system of ours in Python would take 17 MiB and 0.2 s of processor time for each view (PSS of an interpreter with
pyfuse3), the daemon of a view may not read control groups once it is confined, and a view of the driver `kernel` has
none; lxcfs takes 0.6 MiB for all views.
"""

from __future__ import annotations

import math
import os
import re
import time

from overlaykit import mountinfo
from overlaykit.errors import Error
from overlaykit.namespace import limits, release
from overlaykit.namespace.binds import Bind
from overlaykit.namespace.contents import Cover
from overlaykit.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Final

    from overlaykit.namespace.limits import Limits

_LIMIT: Final = "limit"
"""In place of a number: what the view's limits say."""

_KEYS: Final = "cpus, memory, uptime, proc, kernel, hostname, machine-id, os-release, dmi.FIELD"
_LXCFS: Final = "/var/lib/lxcfs"
_OF_LXCFS: Final = (
    *(f"/proc/{name}" for name in ("cpuinfo", "diskstats", "loadavg", "meminfo", "stat", "swaps")),
    *("/proc/uptime", "/sys/devices/system/cpu/online"),
)
_RELEASE: Final = re.compile(r"[0-9]+\.[0-9]+[!-~]*")
_LONGEST_RELEASE: Final = 64
"""Bytes: uname(2)."""
_FIELD: Final = re.compile(r"[a-z_]+")
_LEAST_MEMORY: Final = 1 << 20
_LARGEST: Final = 1 << 16
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_PROCESSORS: Final = "/sys/devices/system/cpu/"
_ACTIONS: Final = "/proc/sys/kernel/seccomp/actions_avail"
_VERSION: Final = "/proc/version"
_OS_RELEASE: Final = "/proc/sys/kernel/osrelease"
_DMI: Final = "/sys/class/dmi/id/"

_COUNTED: Final = re.compile(r"(siblings|cpu cores)(\s*: ).*")
_TRUE: Final = ("VmallocTotal", "Hugepagesize", "PageTables")
"""Fields of /proc/meminfo that say nothing of how much memory is there or in use."""


class BadLie(Error):
    message = "--lie {0}: {1}"


class Lies(Record, kw_only=True):
    """What a view is told; None and empty: the truth."""

    cpus: int | None = None
    """The number of processors: programs run on so many of the caller's alone."""
    memory: int | None = None
    """Bytes of memory, all of them free when the view begins."""
    uptime: int | None = None
    """Seconds since the boot when the command begins."""
    proc: str | None = None
    """"lxcfs": processors, memory, load and uptime are those that it shows, in place of the first three."""
    kernel: str | None = None
    """The kernel's release, as uname(2) and procfs tell it."""
    machine_id: str | None = None
    """32 hexadecimal digits, as machine-id(5)."""
    os_release: str | None = None
    """The contents of os-release(5)."""
    dmi: tuple[tuple[str, str], ...] = ()
    """Fields of /sys/class/dmi/id and their texts."""

    def processors(self) -> frozenset[int]:
        """The processors of the view; empty: those of the caller. Raises: BadLie: the caller has fewer."""
        if self.cpus is None:
            return frozenset()
        allowed = sorted(os.sched_getaffinity(0))
        if self.cpus > len(allowed):
            most = "1 is" if len(allowed) == 1 else f"1 to {len(allowed)} are"
            raise BadLie(f"cpus={self.cpus}", f"{most} possible, which this program may use")
        return frozenset(allowed[: self.cpus])

    def offsets(self) -> str | None:
        """The lines for timens_offsets of procfs (time_namespaces(7)); None: the clocks are the host's."""
        if self.uptime is None:
            return None
        clocks = {"monotonic": time.CLOCK_MONOTONIC, "boottime": time.CLOCK_BOOTTIME}
        return "".join(
            f"{name} {self.uptime - math.floor(time.clock_gettime(clock))} 0\n"
            for name, clock in clocks.items()
        )

    def binds(self) -> tuple[Bind, ...]:
        """The files of lxcfs, and what they cover."""
        paths = _OF_LXCFS if self.proc is not None else ()
        return tuple(
            Bind(source=_LXCFS + path, target=path)
            for path in paths
            if os.path.exists(_LXCFS + path)
        )

    def covers(self, processors: frozenset[int]) -> tuple[Cover, ...]:
        """The files in memory, and what they cover. `processors`: those of the view. Raises: OSError."""
        found = []
        if self.cpus is not None:
            found += [Cover("/proc/cpuinfo", _cpuinfo(_contents("/proc/cpuinfo"), processors))]
            listed = ",".join(map(str, sorted(processors))) + "\n"
            found += [
                Cover(_PROCESSORS + name, listed) for name in ("online", "present", "possible")
            ]
        if self.memory is not None:
            found.append(Cover("/proc/meminfo", _meminfo(_contents("/proc/meminfo"), self.memory)))
        if self.kernel is not None:
            version = _contents(_VERSION).replace(os.uname().release, self.kernel, 1)
            found += [Cover(_OS_RELEASE, f"{self.kernel}\n"), Cover(_VERSION, version)]
        if self.machine_id is not None:
            found.append(Cover("/etc/machine-id", f"{self.machine_id}\n", make=True))
        if self.os_release is not None:
            found.append(Cover("/etc/os-release", self.os_release, make=True))
        for field, text in self.dmi:
            found.append(Cover(f"{_DMI}{field}", f"{text}\n", required=True))
        return tuple(found)


def lacking() -> list[str]:
    """The keys that cannot be told on this machine, each with a way out."""
    return [
        *(
            []
            if release.is_known() and _notifies()
            else ["kernel (takes Linux 5.0 on x86_64 or aarch64)"]
        ),
        *([] if os.path.exists("/proc/self/ns/time") else ["uptime (takes CONFIG_TIME_NS)"]),
        *([] if _has_lxcfs() else ["proc=lxcfs (install the package lxcfs, and start it)"]),
    ]


def _notifies() -> bool:
    """Whether seccomp asks processes (SECCOMP_RET_USER_NOTIF)."""
    try:
        return "user_notif" in _contents(_ACTIONS).split()
    except OSError:  # a kernel without seccomp
        return False


def _has_lxcfs() -> bool:
    return any(mount.mountpoint == _LXCFS for mount in mountinfo.current())


def parse(given: Iterable[str], view: Limits | None) -> tuple[Lies | None, str | None]:
    """What texts KEY=VALUE say, and the host name among them. `view`: its limits.

    Raises: BadLie, BadLimit.
    """
    values: dict[str, Any] = {}
    dmi: dict[str, str] = {}
    hostname = None
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not value:
            raise BadLie(text, f"give KEY=VALUE; keys are {_KEYS}")
        if "\0" in value or "\n" in value:
            raise BadLie(text, "give one line")
        if key == "hostname":
            hostname = value
        elif key.startswith("dmi.") and _FIELD.fullmatch(field := key[4:]):
            if not os.path.exists(_DMI + field):
                raise BadLie(text, f"this machine has no {_DMI}{field}: leave it out")
            dmi[field] = value
        elif key in _PARSERS:
            values[key.replace("-", "_")] = _PARSERS[key](text, value, view)
        else:
            raise BadLie(text, f"no such key; give one of {_KEYS}")
    if "proc" in values and (twice := values.keys() & {"cpus", "memory", "uptime"}):
        raise BadLie("proc=lxcfs", f"it says that, too: leave {min(twice)} out")
    lies = Lies(dmi=tuple(dmi.items()), **values)
    lies.processors()
    return (None if lies == Lies() else lies), hostname


def _cpus(text: str, value: str, view: Limits | None) -> int:
    if value == _LIMIT:
        if view is None or (view.cpus is None and view.cpuset is None):
            raise BadLie(text, "give --cpus or --cpuset-cpus as well, or a number")
        counts = [] if view.cpus is None else [math.ceil(view.cpus)]
        counts += [] if view.cpuset is None else [len(_listed(view.cpuset))]
        return min(*counts, len(os.sched_getaffinity(0)))
    if not (value.isascii() and value.isdecimal() and int(value) > 0):
        raise BadLie(text, "give a number of processors, or 'limit'")
    return int(value)


def _listed(text: str) -> set[int]:
    """The numbers of a list as the kernel has it (cpuset(7), List format)."""
    ends = [part.partition("-")[::2] for part in text.split(",")]
    return {number for first, last in ends for number in range(int(first), int(last or first) + 1)}


def _memory(text: str, value: str, view: Limits | None) -> int:
    if value == _LIMIT:
        if view is None or view.memory is None:
            raise BadLie(text, "give --memory as well, or a size")
        return view.memory
    size = limits.parse_size("--lie memory", value)
    if size < _LEAST_MEMORY:
        raise BadLie(text, "give 1m at least")
    return size


def _uptime(text: str, value: str, _: Limits | None) -> int:
    found = re.fullmatch(r"([0-9]{1,9})([smhd]?)", value)
    if found is None:
        raise BadLie(text, "give seconds, or a number with s, m, h or d, such as 3d")
    return int(found[1]) * _SECONDS[found[2]]


def _proc(text: str, value: str, _: Limits | None) -> str:
    if value != "lxcfs":
        raise BadLie(text, "give lxcfs")
    if not _has_lxcfs():
        raise BadLie(text, f"lxcfs is not mounted at {_LXCFS}: install its package, and start it")
    return value


def _kernel(text: str, value: str, _: Limits | None) -> str:
    if not _RELEASE.fullmatch(value) or len(value) > _LONGEST_RELEASE:
        raise BadLie(text, f"give a release such as 6.1.0-13, of up to {_LONGEST_RELEASE} letters")
    if not release.is_known():
        raise BadLie(text, f"it can be told on {' and '.join(release.MACHINES)} alone")
    return value


def _machine_id(text: str, value: str, _: Limits | None) -> str:
    if not re.fullmatch(r"[0-9a-f]{32}", value):
        raise BadLie(text, "give 32 hexadecimal digits in lower case (machine-id(5))")
    return value


def _os_release(text: str, value: str, _: Limits | None) -> str:
    wanted = "give the path of a file such as /etc/os-release"
    try:
        if not os.path.isfile(value) or os.path.getsize(value) > _LARGEST:
            raise BadLie(text, f"{wanted}, of {_LARGEST >> 10} KiB at most")
        found = _contents(value)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise BadLie(text, f"{wanted} ({reason})") from error
    if "\0" in found:
        raise BadLie(text, f"{wanted} (it is no text)")
    return found


_PARSERS: Final[dict[str, Callable[[str, str, Limits | None], object]]] = {
    "cpus": _cpus,
    "memory": _memory,
    "uptime": _uptime,
    "proc": _proc,
    "kernel": _kernel,
    "machine-id": _machine_id,
    "os-release": _os_release,
}


def _contents(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _cpuinfo(text: str, processors: frozenset[int]) -> str:
    """/proc/cpuinfo without the processors that a view has not. What is common to all stays."""
    parts = [part for part in text.split("\n\n") if part.strip()]
    kept = []
    for part in parts:
        number = re.match(r"processor\s*: ([0-9]+)", part.lstrip("\n"))
        if number is None or int(number[1]) in processors:
            kept.append(_COUNTED.sub(rf"\g<1>\g<2>{len(processors)}", part))
    return "\n\n".join(kept) + "\n\n"


def _meminfo(text: str, total: int) -> str:
    """/proc/meminfo of a machine of which nothing is in use yet, and that has no swap."""
    lines = []
    for line in text.splitlines():
        name, colon, rest = line.partition(":")
        if not colon or not rest.endswith(" kB") or name in _TRUE:
            lines.append(line)
            continue
        size = total >> 10 if name in ("MemTotal", "MemFree", "MemAvailable") else 0
        lines.append(f"{name}:{size:>{len(rest) - 3}} kB")
    return "\n".join(lines) + "\n"
