"""Settings of all tests."""

from __future__ import annotations

import os

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
