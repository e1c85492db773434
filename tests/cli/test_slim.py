"""`overlaykit slim` makes a layer of what a command has used, in which it does the same again."""

from __future__ import annotations

import json
import os

from ..views.fixtures import only_with
from ..views.user import TestUser

pytestmark = only_with(driver="fuse", server=False)

SCRIPT = "cat /data /link /missing; ls -l /listed | grep -v total; test -x /seen || echo no; cd /closed; exit 7"


def test_a_slimmed_layer_runs_the_command_its_errors_included(user: TestUser) -> None:
    lower = user.directory("lower", data="1\n", unused="2\n", seen="seen" * 4096)
    user.directory("lower", "listed", a="a" * 8192, b="")
    os.symlink("data", os.path.join(lower, "link"))
    os.link(os.path.join(lower, "data"), os.path.join(lower, "other"))
    below = ("-v", "/usr:/usr:ro")
    layers = ("-l", lower, "-l", user.small_system(), *below)
    command = ("--", "/bin/sh", "-c", SCRIPT)
    before = user.overlaykit("run", *layers, *command)
    assert before.returncode == 7
    traced = user.path("trace")
    assert user.overlaykit("trace", "-o", traced, *layers, *command).returncode == 7
    slimmed = user.overlaykit("slim", "-o", "one", *layers, *command)
    assert slimmed.returncode == 7
    assert "one: " in slimmed.stderr
    assert user.overlaykit("slim", "-o", "two", "--from", traced).returncode == 0
    for name in ("one", "two"):
        after = user.overlaykit("run", "-l", name, *below, *command)
        assert after.returncode == 7
        assert after.stdout == before.stdout
        assert after.stderr == before.stderr
    path = json.loads(user.succeeds("layer", "ls", "--json"))[0]["path"]
    assert not os.path.lexists(os.path.join(path, "unused"))
    assert not os.path.lexists(os.path.join(path, "other"))
    assert os.stat(os.path.join(path, "seen")).st_size == 4 * 4096
    assert os.stat(os.path.join(path, "listed/a")).st_blocks == 0
    for name in ("one", "two"):
        user.succeeds("layer", "rm", name)


def test_a_file_that_is_no_trace_or_has_lost_events_is_refused(user: TestUser) -> None:
    path = user.write(user.path("trace"), "nonsense\n")
    assert "is no trace, line 1" in user.refused("slim", "-o", "x", "--from", path)
    user.write(path, '{"lost":3}\n')
    assert "3 events" in user.refused("slim", "-o", "x", "--from", path)
    assert "leave the command out" in user.refused("slim", "-o", "x", "--from", path, "--", "ls")
    assert "-o: give" in user.refused("slim", "--from", path)
