"""Expected failures of the systems and programs under test, and their description."""

from __future__ import annotations

import os
import re
import subprocess
from typing import Final

from overlaykit.bench.workload import Unfit
from overlaykit.errors import Error

FAILURES: Final = (Unfit, OSError, subprocess.CalledProcessError, Error)
"""Exceptions that exclude one subject from a workload; others end the run."""


def reason(error: Exception, directory: str) -> str:
    """Describe an error in one line, without the names of temporary directories below `directory`."""
    if isinstance(error, subprocess.CalledProcessError):
        program = os.path.basename(error.cmd[0])
        lines = (error.stderr or b"").decode(errors="replace").strip().splitlines()
        last = lines[-1] if lines else f"ended with {error.returncode}"
        text = last if last.startswith(f"{program}:") else f"{program}: {last}"
    elif isinstance(error, OSError):
        why = error.strerror or str(error)
        text = why if error.filename is None else f"{os.fsdecode(error.filename)}: {why}"
    else:
        text = str(error)
    temporary = re.escape(directory) + r"/(?:[^/\s]+/[^/\s]+/target/)?"  # of a mount, or beside it
    return re.sub(temporary, "", text)
