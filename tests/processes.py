"""What procfs shows of a running process, whose threads and descriptors come and go."""

from __future__ import annotations

import os
from contextlib import suppress


def open_files(process: int) -> list[str]:
    """What its descriptors lead to."""
    found = []
    for descriptor in os.listdir(f"/proc/{process}/fd"):
        with suppress(FileNotFoundError):  # closed since
            found.append(os.readlink(f"/proc/{process}/fd/{descriptor}"))
    return found


def thread_statuses(process: int) -> list[dict[str, str]]:
    """The fields of the status of each thread (proc_pid_status(5))."""
    found = []
    for thread in os.listdir(f"/proc/{process}/task"):
        # Ended since, before or after it was opened.
        with (
            suppress(FileNotFoundError, ProcessLookupError),
            open(f"/proc/{process}/task/{thread}/status") as file,
        ):
            fields = (line.partition(":") for line in file)
            found.append({key: value.strip() for key, _, value in fields})
    assert found
    return found
