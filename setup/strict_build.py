"""Compile native/ with each warning as an error, and discard the result.

A user's build has no -Werror, because a newer compiler has newer warnings.
"""

from __future__ import annotations

import glob
import os
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from typing import Any

import headers  # type: ignore[import-not-found]  # beside this file


def main() -> int:
    with open("pyproject.toml", "rb") as file:
        (extension,) = tomllib.load(file)["tool"]["setuptools"]["ext-modules"]
    sys.path.insert(0, os.getcwd())
    with tempfile.TemporaryDirectory() as generated:
        headers.write(generated)
        return compiled(extension, generated)


def compiled(extension: dict[str, Any], generated: str) -> int:
    """Compile with the headers in `generated`; the highest exit status."""
    compiler = [
        os.environ.get("CC", "gcc"),
        *extension["extra-compile-args"],
        *(f"-D{name}={value}" for name, value in extension["define-macros"]),
        f"-I{generated}",
        f"-I{sysconfig.get_path('include')}",
        "-Werror",
        "-c",
        "-o",
        os.devnull,
    ]
    return max(subprocess.call([*compiler, source]) for source in sorted(glob.glob("native/*.c")))


if __name__ == "__main__":
    sys.exit(main())
