"""Try a command, see what it changes: run it over the host with a kept upper, and list the upper.

    .venv/bin/python examples/try_installer.py CHANGES COMMAND [ARGUMENT]...

CHANGES is the directory that receives the changes. The host stays as it is.
"""

from __future__ import annotations

import os
import sys

from overlaykit import View
from overlaykit.errors import Error


def main() -> int:
    if len(sys.argv) < 3:
        sys.exit("usage: try_installer.py CHANGES COMMAND [ARGUMENT]...")
    upper, command = sys.argv[1], sys.argv[2:]
    try:
        with View(["host"], upper=upper) as view:
            status = view.run(command).returncode
            for path in sorted(files(upper)):
                print(f"{change(view, path):8}  {path}")
    except Error as error:
        print(f"try_installer: {error}", file=sys.stderr)
        return error.exit_code
    return status


def files(upper: str) -> list[str]:
    """The paths in the view that the upper holds, without the host's own directories around them."""
    found = []
    for directory, directories, names in os.walk(upper):
        root = os.path.join("/", os.path.relpath(directory, upper))
        paths = [os.path.normpath(os.path.join(root, name)) for name in (*directories, *names)]
        found += [path for path in paths if not os.path.isdir(path)]
    return found


def change(view: View, path: str) -> str:
    if view.explain(path).hits[0].role == "whiteout":
        return "removed"
    return "changed" if os.path.lexists(path) else "new"


if __name__ == "__main__":
    sys.exit(main())
