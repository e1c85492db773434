"""Real programs: tar, rm, git, Python, a database, a compiler."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from typing import Final

from overlaykit.bench.workload import scaled
from overlaykit.bench.workloads import material
from overlaykit.bench.workloads.files import FileWorkload, State, Visit

_GIT: Final = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_AUTHOR_NAME": "bench",
    "GIT_AUTHOR_EMAIL": "bench@localhost",
    "GIT_COMMITTER_NAME": "bench",
    "GIT_COMMITTER_EMAIL": "bench@localhost",
}
"""Git without the user's settings."""


def _run(*argv: str, cwd: str | None = None, env: dict[str, str] | None = None) -> None:
    """Run a program without input and output. Raises: CalledProcessError with its error output."""
    subprocess.run(
        argv,
        check=True,
        cwd=cwd,
        env=os.environ | (env or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


class Untar(FileWorkload):
    """Extract a source tree."""

    name = "tar/extract"
    written_to = True
    warms = True
    programs = ("tar",)

    def __init__(self, scale: float) -> None:
        self.operations = scaled(5_000, scale)
        self.what = f"extract an archive of {self.operations:,} files of 4 KiB"
        self._archive = ""

    def make(self, lowers: Sequence[str]) -> None:
        directory = os.path.dirname(lowers[0])
        self._archive = os.path.join(directory, "source.tar")
        source = os.path.join(directory, "source")
        material.write(source, material.spread(self.operations))
        _run("tar", "--create", "--file", self._archive, "--directory", directory, "source")
        shutil.rmtree(source)

    def run(self, root: str) -> None:
        _run("tar", "--extract", "--file", self._archive, "--directory", root)


class RemoveTree(FileWorkload):
    """Remove a tree of a lower: whiteouts."""

    name = "rm/lower"
    written_to = True
    warms = True

    def __init__(self, scale: float) -> None:
        self.operations = scaled(5_000, scale)
        self.what = f"rm -r a tree of {self.operations:,} files of a layer"

    def make(self, lowers: Sequence[str]) -> None:
        material.write(f"{lowers[0]}/tree", material.spread(self.operations))

    def run(self, root: str) -> None:
        _run("rm", "-r", "--", f"{root}/tree")


class GitStatus(Visit):
    """git status in a clean working tree; the first one rehashes, because the inode numbers differ."""

    written_to = True
    operations = 1
    warms = True
    programs = ("git",)

    def __init__(self, state: State, scale: float) -> None:
        self._count = scaled(5_000, scale)
        super().__init__("git", state, f"git status in a repository of {self._count:,} files")

    def make(self, lowers: Sequence[str]) -> None:
        material.write(lowers[0], material.spread(self._count))
        _run("git", "init", "--quiet", cwd=lowers[0], env=_GIT)
        _run("git", "add", "--all", cwd=lowers[0], env=_GIT)
        _run("git", "commit", "--quiet", "--message=all", cwd=lowers[0], env=_GIT)

    def run(self, root: str) -> None:
        _run("git", "status", "--short", cwd=root, env=_GIT)


class ImportStdlib(Visit):
    """Start Python and import much of a standard library in the tree."""

    operations = 1
    warms = True

    def __init__(self, state: State) -> None:
        modules = ", ".join(_MODULES[:3])
        super().__init__(
            "python", state, f"import {modules} and {len(_MODULES) - 3} more standard modules"
        )

    def make(self, lowers: Sequence[str]) -> None:
        shutil.copytree(
            sysconfig.get_path("stdlib"),
            f"{lowers[0]}/stdlib",
            symlinks=True,
            ignore=shutil.ignore_patterns(*_NEVER_IMPORTED),
        )

    def run(self, root: str) -> None:
        path = {"PYTHONPATH": f"{root}/stdlib", "PYTHONDONTWRITEBYTECODE": "1"}
        _run(sys.executable, "-S", "-c", f"import {', '.join(_MODULES)}", env=path)


_NEVER_IMPORTED: Final = (
    *("*-packages", "config-*", "test", "tests", "*.opt-?.pyc"),
    *("distutils", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "tkinter", "turtledemo"),
)
"""Patterns of unused files, more than half of the standard library."""

_MODULES: Final = (
    "asyncio",
    "email.message",
    "http.server",
    "argparse",
    "concurrent.futures",
    "csv",
    "ctypes",
    "dataclasses",
    "datetime",
    "decimal",
    "difflib",
    "fractions",
    "ftplib",
    "glob",
    "gzip",
    "html.parser",
    "imaplib",
    "inspect",
    "ipaddress",
    "json",
    "logging.config",
    "mailbox",
    "multiprocessing.pool",
    "optparse",
    "pathlib",
    "pdb",
    "pickle",
    "platform",
    "plistlib",
    "pydoc",
    "shelve",
    "smtplib",
    "sqlite3",
    "statistics",
    "tarfile",
    "tempfile",
    "unittest.mock",
    "urllib.request",
    "uuid",
    "xml.dom.minidom",
    "xmlrpc.client",
    "zipfile",
)


class Sqlite(FileWorkload):
    """Transactions of one insert each, synced to the disk."""

    name = "sqlite/insert"
    written_to = True

    def __init__(self, scale: float) -> None:
        self.operations = scaled(500, scale)
        self.what = f"{self.operations:,} sqlite transactions, in a database of a layer"

    def make(self, lowers: Sequence[str]) -> None:
        with sqlite3.connect(f"{lowers[0]}/database") as database:
            database.execute("create table rows (number integer primary key, text text)")
            database.executemany("insert into rows(text) values (?)", [("x" * 200,)] * 10_000)
        database.close()

    def run(self, root: str) -> None:
        database = sqlite3.connect(f"{root}/database")
        try:
            for number in range(self.operations):
                with database:
                    database.execute("insert into rows(text) values (?)", (str(number),))
        finally:
            database.close()


class Build(FileWorkload):
    """Compile and link a C program of many small files."""

    name = "cc/build"
    written_to = True
    warms = True
    programs = ("gcc",)

    def __init__(self, scale: float) -> None:
        self.operations = scaled(100, scale, least=2)
        self.what = f"compile and link a C program of {self.operations} files"

    def make(self, lowers: Sequence[str]) -> None:
        numbers = range(self.operations)
        declarations = "".join(f"int f{number}(int x);\n" for number in numbers)
        _write(f"{lowers[0]}/all.h", f"#include <stdio.h>\n#include <stdlib.h>\n{declarations}")
        for number in numbers:
            body = f'{{ printf("%d\\n", x); return x + {number}; }}'
            _write(f"{lowers[0]}/f{number}.c", f'#include "all.h"\nint f{number}(int x) {body}\n')
        calls = " + ".join(f"f{number}({number})" for number in numbers)
        _write(f"{lowers[0]}/main.c", f'#include "all.h"\nint main(void) {{ return {calls}; }}\n')

    def run(self, root: str) -> None:
        names = [*(f"f{number}" for number in range(self.operations)), "main"]
        for name in names:
            _run("gcc", "-c", f"{name}.c", cwd=root)
        _run("gcc", "-o", "program", *(f"{name}.o" for name in names), cwd=root)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
