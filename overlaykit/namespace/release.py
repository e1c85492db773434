"""The seccomp filter by which the supervisor is asked what uname(2) tells (native/release.c).

Of a system call it reads the number and the architecture alone, so that the kernel needs to run it for no other call:
it keeps those that are allowed in any case in a bitmap (seccomp_cache_check_allow() in kernel/seccomp.c).
"""

from __future__ import annotations

import errno
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_ALLOW: Final = 0x7FFF0000
_ASK: Final = 0x7FC00000
"""SECCOMP_RET_USER_NOTIF"""
_REFUSE: Final = 0x00050000 | errno.ENOSYS
"""SECCOMP_RET_ERRNO, for the calls before new_uname(2), whose results have other sizes."""

_LOAD: Final = 0x20
_IF_EQUAL: Final = 0x15
_RETURN: Final = 0x06
"""BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JEQ | BPF_K, BPF_RET | BPF_K (linux/bpf_common.h)."""
_NUMBER: Final = 0
_ARCHITECTURE: Final = 4
"""Offsets in struct seccomp_data."""

_X32: Final = 0x40000000
_CALLS: Final[dict[str, dict[int, tuple[tuple[int, ...], tuple[int, ...]]]]] = {
    "x86_64": {0xC000003E: ((63, 63 | _X32), ()), 0x40000003: ((122,), (59, 109))},
    "aarch64": {0xC00000B7: ((160,), ()), 0x40000028: ((122,), ())},
}
"""By the machine: of each architecture (linux/audit.h) the numbers of uname(2), and of those before it."""


MACHINES: Final = tuple(_CALLS)


def is_known() -> bool:
    """Whether the system calls of this machine are."""
    return os.uname().machine in MACHINES


def instructions() -> bytes:
    """The filter, as BPF instructions. Requires: `is_known`."""
    made: list[tuple[int, int, int, int]] = []
    for architecture, (asked, refused) in _CALLS[os.uname().machine].items():
        actions = dict.fromkeys(asked, _ASK) | dict.fromkeys(refused, _REFUSE)
        made += [
            (_LOAD, 0, 0, _ARCHITECTURE),
            (_IF_EQUAL, 0, 2 + 2 * len(actions), architecture),
            (_LOAD, 0, 0, _NUMBER),
        ]
        for number, action in actions.items():
            made += [(_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, action)]
        made.append((_RETURN, 0, 0, _ALLOW))
    made.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *one) for one in made)
