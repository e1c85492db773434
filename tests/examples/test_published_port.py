"""`examples/published_port.py` fetches a page of a view."""

from __future__ import annotations

import re

from ..views.user import TestUser
from .running import run


def test_a_server_on_port_80_of_a_view_answers_on_the_host(user: TestUser) -> None:
    done = run(user, "published_port.py")
    assert done.returncode == 0, done
    listening, answer = done.stdout.splitlines()
    assert listening.startswith("Serving HTTP on 0.0.0.0 port 80")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/ answers 200", answer)
