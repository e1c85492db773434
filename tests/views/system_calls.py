"""Programs in Python that make system calls in a view, and print the name of each errno."""

from __future__ import annotations

import os

HEAD = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
    return errno.errorcode[ctypes.get_errno()] if result < 0 else "done"
"""

NUMBERS = {
    "x86_64": {
        "bpf": 321,
        "io_uring_setup": 425,
        "keyctl": 250,
        "mount": 165,
        "perf_event_open": 298,
        "ptrace": 101,
        "setns": 308,
        "unshare": 272,
        "userfaultfd": 323,
    },
    "aarch64": {
        "bpf": 280,
        "io_uring_setup": 425,
        "keyctl": 219,
        "mount": 40,
        "perf_event_open": 241,
        "ptrace": 117,
        "setns": 268,
        "unshare": 97,
        "userfaultfd": 282,
    },
}


def program(*calls: str) -> str:
    """A program that makes calls such as "bpf(0, 0, 0)" and prints a line for each."""
    numbers = NUMBERS[os.uname().machine]
    lines = []
    for one in calls:
        name, _, arguments = one.removesuffix(")").partition("(")
        lines.append(f"print(call({numbers[name]}, {arguments}))")
    return HEAD + "\n".join(lines)
