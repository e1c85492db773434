"""`examples/try_installer.py` lists what a command changes, and the host stays as it is."""

from __future__ import annotations

import os

from ..views.user import TestUser
from .running import run


def test_what_a_command_makes_changes_and_removes_is_listed(user: TestUser) -> None:
    site = user.directory("site", changed="old", removed="old")
    upper = user.path("changes")
    script = f"cd {site}; mkdir -p new/empty; echo x >new/file; echo x >changed; rm removed; exit 3"
    done = run(user, "try_installer.py", upper, "sh", "-c", script)
    assert (done.returncode, done.stderr) == (3, ""), done
    assert done.stdout.splitlines() == [
        f"changed   {site}/changed",
        f"new       {site}/new",
        f"new       {site}/new/empty",
        f"new       {site}/new/file",
        f"removed   {site}/removed",
    ]
    assert sorted(os.listdir(site)) == ["changed", "removed"]


def test_a_missing_command_is_reported_in_one_line(user: TestUser) -> None:
    done = run(user, "try_installer.py", user.path("changes"), "no-such-command")
    assert done.returncode == 127
    assert done.stderr.startswith("try_installer: ")
    assert done.stderr.count("\n") == 1
