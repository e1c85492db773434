from __future__ import annotations

from ..views.fixtures import pytest_generate_tests, pytest_pyfunc_call, user

__all__ = ["pytest_generate_tests", "pytest_pyfunc_call", "user"]
