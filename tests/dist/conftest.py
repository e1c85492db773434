from __future__ import annotations

from ..views.fixtures import pytest_pyfunc_call, user

__all__ = ["pytest_pyfunc_call", "user"]
