from __future__ import annotations

from ..views.staged import pytest_pyfunc_call, someone

__all__ = ["pytest_pyfunc_call", "someone"]
