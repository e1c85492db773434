"""Settings of all tests."""

from __future__ import annotations

import os
import signal

import pytest

from .selection import pytest_addoption, pytest_collection_modifyitems

__all__ = ["pytest_addoption", "pytest_collection_modifyitems"]

# Modules with assertions that are no tests: before any of them is imported, by whichever folder comes first.
for module in (
    "changes.workspace",
    "crash.recovered",
    "fuse.mounted",
    "overlay.stack",
):
    pytest.register_assert_rewrite(f"{__package__}.{module}")

# A server would outlive the test that starts it. Its own tests set this.
os.environ.setdefault("OVERLAYKIT_SERVER", "off")

# A shell without job control has a job in the background ignore SIGINT and SIGQUIT, and so would each view of it.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
