from __future__ import annotations

from .staged import pytest_pyfunc_call, someone

__all__ = ["pytest_pyfunc_call", "someone"]
