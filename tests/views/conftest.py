from __future__ import annotations

from .fixtures import pytest_generate_tests, pytest_pyfunc_call, user

__all__ = ["pytest_generate_tests", "pytest_pyfunc_call", "user"]
