"""One client process: it reads the files that its standard input lists, and prints "ready" and "done".

Run by path, so that it does not import overlaykit.
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
