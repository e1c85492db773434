"""How long a test waits before it counts as hung. No test waits for a time to pass."""

from __future__ import annotations

import os


def patience(seconds: int) -> int:
    """`seconds`, on a machine as fast as a developer's; OVERLAYKIT_TEST_PATIENCE times as many elsewhere.

    A guest with an emulated processor is slower by a factor that is not known (tests/kernels/suites.py).
    """
    return seconds * int(os.environ.get("OVERLAYKIT_TEST_PATIENCE", "1"))
