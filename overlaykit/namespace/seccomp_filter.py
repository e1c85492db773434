"""Make the BPF instructions of a seccomp profile, by libseccomp."""

from __future__ import annotations

import os
import tempfile
from types import ModuleType

from overlaykit.errors import Error
from overlaykit.namespace import seccomp_daemon
from overlaykit.namespace.confinement import KEPT
from overlaykit.namespace.seccomp import PREPARED
from overlaykit.namespace.seccomp_rules import (
    DEFAULT,
    MACHINE,
    MASKED_EQ,
    TERMINAL,
    Comparison,
    Profile,
    Rule,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_UNKNOWN: Final = -1
"""Of seccomp_syscall_resolve_name_arch(3): no architecture has such a system call."""

_NEWER: Final = {"setxattrat": 463, "getxattrat": 464, "listxattrat": 465, "removexattrat": 466}
"""Numbers, the same on all machines, of calls that a libseccomp before 2.6 does not know (Linux 6.13)."""

_OF_DAEMONS: Final = {
    "_seccomp_threads.bpf": seccomp_daemon.THREADS,
    "_seccomp_daemon.bpf": seccomp_daemon.VIEW,
    "_seccomp_mount_daemon.bpf": seccomp_daemon.MOUNT,
    "_seccomp_server.bpf": seccomp_daemon.SERVER,
}
"""The filters that `fuse.confinement` reads."""

MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm"}
"""Go's names of machines, by those of uname(2)."""


class LibseccompMissing(Error):
    message = (
        "the seccomp filter cannot be made: {0}; install the package libseccomp2, or use "
        "--security-opt seccomp=unconfined"
    )


def compiled(profile: Profile, capabilities: frozenset[int]) -> bytes:
    """The filter of a profile for this machine. Raises: LibseccompMissing; OSError: libseccomp refuses a rule."""
    library = _library()
    made = library.SyscallFilter(profile.default)
    # A system call of an architecture that the filter does not know ends the thread.
    for architecture in profile.others.get(machine(), ()):
        code = getattr(library.Arch, architecture.upper())
        if not made.exist_arch(code):
            made.add_arch(code)
    for rule in selected(profile, capabilities):
        comparisons = [_argument(library, one) for one in rule.comparisons]
        for name in rule.names:
            number = library.resolve_syscall(library.system_arch(), name)
            if number == _UNKNOWN and not profile.others:
                number = _NEWER.get(name, _UNKNOWN)
            # libseccomp refuses a rule that is the default.
            if number != _UNKNOWN and rule.action != profile.default:
                made.add_rule(rule.action, number, *comparisons)
    with tempfile.TemporaryFile() as file:
        made.export_bpf(file)
        file.seek(0)
        return file.read()


def _argument(library: ModuleType, comparison: Comparison) -> object:
    if comparison.operator == MASKED_EQ:
        return library.Arg(comparison.argument, MASKED_EQ, comparison.mask, comparison.value)
    return library.Arg(comparison.argument, comparison.operator, comparison.value)


def machine() -> str:
    """The native architecture, by its name in uname(2)."""
    return os.uname().machine


def selected(profile: Profile, capabilities: frozenset[int]) -> list[Rule]:
    """The rules that hold on this machine for a view with these capabilities."""
    native = MACHINES.get(machine(), machine())
    return [
        rule
        for rule in profile.rules
        if rule.with_capabilities <= capabilities
        and not rule.without_capabilities & capabilities
        and (not rule.machines or native in rule.machines)
    ]


def prepare(directory: str) -> None:
    """Write the filters of the default confinement and of daemons into a directory, at the build of the package."""
    names = [*map(os.path.basename, PREPARED), *_OF_DAEMONS]
    for name, profile in zip(
        names, (DEFAULT, TERMINAL, MACHINE, *_OF_DAEMONS.values()), strict=True
    ):
        with open(os.path.join(directory, name), "wb") as file:
            file.write(compiled(profile, KEPT))


def _library() -> ModuleType:
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError) as error:
        raise LibseccompMissing(error) from None
    module: ModuleType = pyseccomp
    return module
