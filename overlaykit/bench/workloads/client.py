"""The program of one client: told on standard input what to read, it says when it is ready, and when it is done.

Run by its path, so that it loads nothing of overlaykit.
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    paths = json.loads(sys.stdin.readline())
    print("ready", flush=True)
    sys.stdin.readline()
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            file.read()
    print("done", flush=True)


if __name__ == "__main__":
    main()
