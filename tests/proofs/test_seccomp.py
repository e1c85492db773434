"""The default seccomp filter against the list that is installed with podman (golang-github-containers-common).

It may be older than ours: then the calls that changed since are named here.
"""

from __future__ import annotations

import errno
import os
from typing import Final

import pytest

from overlaykit.namespace import seccomp_filter, seccomp_profile
from overlaykit.namespace.capabilities import NAMES
from overlaykit.namespace.confinement import KEPT
from overlaykit.namespace.seccomp_rules import DEFAULT

from ..namespace.bpf import ERRNO, I386, X32, X86_64, action

INSTALLED: Final = "/usr/share/containers/seccomp.json"

SINCE_2022: Final = frozenset(
    {
        *("cachestat", "fanotify_init", "fchmodat2", "futex_requeue", "futex_wait", "futex_waitv"),
        *("futex_wake", "io_pgetevents_time64", "map_shadow_stack", "quotactl_fd", "readdir"),
        *("sigaction", "sigpending", "sigsuspend", "swapcontext", "syscall", "timerfd"),
    }
)
"""Calls about which containers/common 0.50 (Debian 12) says something else."""

ARGUMENTS: Final = (
    (),
    (0x8,),
    (0x40000,),
    (0xFFFFFFFF,),
    (16, 3, 0),
    (16, 3, 9),
    (2, 1, 9),
)

pytestmark = pytest.mark.skipif(
    os.uname().machine != "x86_64", reason="compares the numbers of x86_64"
)


@pytest.mark.parametrize("capability", [None, "SYS_ADMIN", "SYS_PTRACE", "AUDIT_WRITE", "BPF"])
@pytest.mark.parametrize(
    ("architecture", "bit"), [(X86_64, 0), (X86_64, X32), (I386, 0)], ids=["64", "x32", "32"]
)
def test_the_filter_is_equal_in_effect_to_podmans(
    capability: str | None, architecture: int, bit: int
) -> None:
    kept = KEPT | ({NAMES.index(f"CAP_{capability}")} if capability else set())
    ours = seccomp_filter.compiled(DEFAULT, kept)
    theirs = seccomp_filter.compiled(seccomp_profile.read(INSTALLED), kept)
    library = seccomp_filter._library()
    code = library.Arch.X86 if architecture == I386 else library.Arch.X32 if bit else architecture
    different = set()
    for number in range(600):
        for arguments in ARGUMENTS:
            results = [
                action(program, bit | number, arguments, architecture) for program in (ours, theirs)
            ]
            if results[0] != results[1]:
                different.add(_name(library, code, bit | number))
    allowed = {*SINCE_2022, *({"bpf"} if capability == "BPF" else ())}
    assert different <= allowed


def _name(library: object, code: int, number: int) -> str:
    try:
        return str(library.resolve_syscall(code, number).decode())  # type: ignore[attr-defined]
    except ValueError:
        return str(number)


def test_a_socket_of_a_virtual_machine_is_refused_since_then() -> None:
    ours = seccomp_filter.compiled(DEFAULT, KEPT)
    theirs = seccomp_filter.compiled(seccomp_profile.read(INSTALLED), KEPT)
    for family in (38, 40):
        assert action(ours, 41, (family, 1, 0)) == ERRNO | errno.EPERM
        assert action(theirs, 41, (family, 1, 0)) != ERRNO | errno.EPERM
