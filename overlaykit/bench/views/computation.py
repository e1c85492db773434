"""A program that computes. Arguments: the work and the number of repetitions. Output: seconds of processor time.

Run by path, so that it does not import overlaykit.
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
            os.getppid()  # the C library does not cache it, and the kernel does little
    print(spent() - began)


def spent() -> float:
    """User and system time of this process in seconds (getrusage(2))."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
