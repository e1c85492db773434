"""Tests of every workload on every system take a minute, so they belong to `make proofs`."""

from __future__ import annotations

import os

from ..views.fixtures import pytest_generate_tests, pytest_pyfunc_call, user

__all__ = ["pytest_generate_tests", "pytest_pyfunc_call", "user"]

_LONG = ["test_report_of_a_run.py", "test_systems.py", "test_views.py", "test_workloads.py"]
collect_ignore = [] if "OVERLAYKIT_PROOFS" in os.environ else _LONG
