"""The seccomp filters of a process, as the kernel has them (ptrace(2), PTRACE_SECCOMP_GET_FILTER)."""

from __future__ import annotations

import ctypes
import os

from ..namespace.bpf import ALLOW, action

DANGEROUS = {
    "execve": 59,
    "execveat": 322,
    "ptrace": 101,
    "mount": 165,
    "umount2": 166,
    "move_mount": 429,
    "open_tree": 428,
    "fsopen": 430,
    "bpf": 321,
    "perf_event_open": 298,
    "keyctl": 250,
    "add_key": 248,
    "io_uring_setup": 425,
    "kexec_load": 246,
    "kexec_file_load": 320,
    "init_module": 175,
    "finit_module": 313,
    "userfaultfd": 323,
    "setns": 308,
    "unshare": 272,
    "clone": 56,
    "process_vm_writev": 311,
    "pidfd_getfd": 438,
    "open_by_handle_at": 304,
    "reboot": 169,
}
"""On x86_64, by their names."""
_NEW_USER = 0x10000000
_ATTACH, _DETACH, _GET_FILTER = 16, 17, 0x420C


def denies(process: int, name: str) -> bool:
    """Whether a filter of a process denies a call; of clone and unshare, with a new user namespace."""
    arguments = (_NEW_USER,) if name in ("clone", "unshare") else ()
    return any(action(one, DANGEROUS[name], arguments) != ALLOW for one in _filters(process))


def _filters(process: int) -> list[bytes]:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    libc.ptrace.restype = ctypes.c_long
    found: list[bytes] = []
    if libc.ptrace(_ATTACH, process, None, None) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")
    os.waitpid(process, 0x40000000)  # __WALL
    try:
        while (count := libc.ptrace(_GET_FILTER, process, len(found), None)) >= 0:
            program = ctypes.create_string_buffer(8 * count)
            libc.ptrace(_GET_FILTER, process, len(found), program)
            found.append(program.raw)
    finally:
        libc.ptrace(_DETACH, process, None, None)
    return found
