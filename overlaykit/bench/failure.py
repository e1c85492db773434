"""What is expected to go wrong with others' file systems and programs, and how it is told."""

from __future__ import annotations

import os
import re
import subprocess
from typing import Final

from overlaykit.bench.workload import Unfit
from overlaykit.errors import Error

FAILURES: Final = (Unfit, OSError, subprocess.CalledProcessError, Error)
"""What costs an entrant its part in a workload, and not the run its end."""


def reason(error: Exception, directory: str) -> str:
    """In one line, without the names of directories below `directory`, which are gone by the time it is read."""
    if isinstance(error, subprocess.CalledProcessError):
        program = os.path.basename(error.cmd[0])
        said = (error.stderr or b"").decode(errors="replace").strip().splitlines()
        last = said[-1] if said else f"ended with {error.returncode}"
        text = last if last.startswith(f"{program}:") else f"{program}: {last}"
    elif isinstance(error, OSError):
        why = error.strerror or str(error)
        text = why if error.filename is None else f"{os.fsdecode(error.filename)}: {why}"
    else:
        text = str(error)
    own = re.escape(directory) + r"/(?:[^/\s]+/[^/\s]+/target/)?"  # a mount's, or what is beside it
    return re.sub(own, "", text)
