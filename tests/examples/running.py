"""Run an example as a user does: its file, with the interpreter that overlaykit is installed for."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from ..views.user import CHECKOUT, TestUser, command

EXAMPLES = os.path.join(CHECKOUT, "examples")


def words(name: str, *arguments: str) -> list[str]:
    """The command line of an example."""
    path = os.path.join(EXAMPLES, name)
    return [path, *arguments] if name.endswith(".sh") else [sys.executable, path, *arguments]


def run(
    user: TestUser, name: str, *arguments: str, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run an example to its end, with `overlaykit` first on PATH."""
    path = f"{os.path.dirname(command())}:{os.environ['PATH']}"
    settings: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "capture_output": True,
        "text": True,
        "env": os.environ | {"PATH": path},
    }
    settings |= options
    return subprocess.run(words(name, *arguments), check=False, **settings)
