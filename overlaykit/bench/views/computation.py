"""The program that computes: what to do and how often are its arguments; prints the seconds of processor time it took.

Run by its path, so that it loads nothing of overlaykit.
"""

from __future__ import annotations

import hashlib
import os
import resource
import sys


def main() -> None:
    work, number = sys.argv[1], int(sys.argv[2])
    began = spent()
    if work == "hash":
        digest = b""
        for _ in range(number):
            digest = hashlib.sha256(digest).digest()
    else:
        for _ in range(number):
            os.getppid()  # not cached by the C library, and next to nothing in the kernel
    print(spent() - began)


def spent() -> float:
    """Seconds in this process and in the kernel for it (getrusage(2))."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
