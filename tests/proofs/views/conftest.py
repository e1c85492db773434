"""Proofs in whole views, as root and as an ordinary user, with the fixture of tests/views."""

from __future__ import annotations

import os

from ...views.fixtures import pytest_generate_tests, pytest_pyfunc_call, user

__all__ = ["pytest_generate_tests", "pytest_pyfunc_call", "user"]

collect_ignore_glob = [] if "OVERLAYKIT_PROOFS" in os.environ else ["test_*.py"]
