"""Settings of Hypothesis for tests that are short, but not on a machine that others use, too."""

from __future__ import annotations

from typing import Final

from hypothesis import HealthCheck, settings

UNTIMED: Final = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
