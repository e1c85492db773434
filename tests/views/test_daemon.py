"""The daemon of a view is confined, however it was started."""

from __future__ import annotations

import os

from overlaykit.views import Registry

from .fixtures import in_all_variants, only_with
from .user import TestUser


@in_all_variants
@only_with(driver="fuse")
def test_every_thread_of_a_views_daemon_has_a_filter(user: TestUser) -> None:
    upper = user.directory("upper")
    user.write(user.path("large"), b"x" * (3 << 20))
    # The kept upper is synced in a thread.
    script = f"echo new >>{user.path('large')}; sync {user.path('large')}; echo written; read line"
    with user.start("run", "--upper", upper, "--", "sh", "-c", script) as view:
        assert view.stdout is not None
        assert view.stdout.readline() == "written\n"
        (entry,) = Registry().running()
        daemon = entry.about.daemon
        for thread in os.listdir(f"/proc/{daemon}/task"):
            with open(f"/proc/{daemon}/task/{thread}/status") as file:
                status = dict(line.split(":\t", 1) for line in file)
            assert (status["Seccomp"], status["NoNewPrivs"]) == ("2\n", "1\n")
        view.communicate("end\n")
    with open(os.path.join(upper, user.path("large").lstrip("/")), "rb") as file:
        assert file.read().endswith(b"xnew\n")


@in_all_variants
@only_with(driver="fuse")
def test_a_confined_daemon_removes_what_its_view_leaves(user: TestUser) -> None:
    before = user.leftovers()
    user.succeeds("run", "--", "sh", "-c", "mkdir -p /tmp/a/b; chmod 0 /tmp/a/b; echo x >/tmp/a/c")
    user.wait_for_descendants()
    assert user.leftovers() == before
