"""The launcher imports what it uses: each import delays every view."""

from __future__ import annotations

import subprocess
import sys

from .user import TestUser

SLOW = {"asyncio", "email", "logging", "pyfuse3", "rich", "tempfile", "trio"}


def test_run_imports_nothing_slow(user: TestUser) -> None:
    program = (sys.executable, "-X", "importtime", "-P", "-m", "overlaykit")
    done = subprocess.run([*program, "run", "true"], capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "overlaykit.namespace.launcher" in imported
    assert not imported & SLOW
