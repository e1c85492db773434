"""Settings of all tests."""

from __future__ import annotations

import os

# A server would outlive the test that starts it. Its own tests set this.
os.environ.setdefault("OVERLAYKIT_SERVER", "off")
