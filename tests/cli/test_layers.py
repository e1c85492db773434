"""`overlaykit layers`: programs in a running view see other layers, a stopped one starts with them."""

from __future__ import annotations

import json
import os

from ..views.user import TestUser


def layer(user: TestUser, name: str, text: str) -> str:
    path = os.path.join(user.home, name)
    os.makedirs(os.path.join(path, "usr/local/bin"))
    os.chmod(path, 0o755)
    tool = os.path.join(path, "usr/local/bin/tool")
    with open(tool, "w", encoding="utf-8") as file:
        file.write(f"#!/bin/sh\necho {text}\n")
    os.chmod(tool, 0o755)
    return path


def paths(user: TestUser) -> list[str]:
    return [one["path"] for one in json.loads(user.succeeds("layers", "web", "ls", "--json"))]


def test_the_next_exec_gets_the_new_layers_program_also_after_a_start(user: TestUser) -> None:
    old, new = layer(user, "old", "old"), layer(user, "new", "new")
    options = ("-d", "--name", "web", "--driver", "fuse", "-l", old, "-l", "host")
    user.succeeds("run", *options, "--", "sleep", "1000")
    assert user.succeeds("exec", "web", "tool") == "old\n"
    user.succeeds("exec", "web", "sh", "-c", "echo kept >/usr/local/bin/own")
    user.succeeds("layers", "web", "push", new)
    assert user.succeeds("exec", "web", "tool") == "new\n"
    assert user.succeeds("exec", "web", "sh", "-c", "cat /proc/self/comm") == "cat\n"
    assert paths(user)[:2] == [new, old]
    user.succeeds("layers", "web", "pop")
    assert user.succeeds("exec", "web", "tool") == "old\n"
    user.succeeds("layers", "web", "replace", new)
    assert user.succeeds("exec", "web", "tool") == "new\n"
    user.succeeds("stop", "-t", "0", "web")
    assert paths(user) == [new, "/"]
    user.succeeds("layers", "web", "push", old)
    user.succeeds("start", "web")
    assert user.succeeds("exec", "web", "tool") == "old\n"
    assert user.succeeds("exec", "web", "cat", "/usr/local/bin/own") == "kept\n"
    user.succeeds("rm", "-f", "web")


def test_a_change_that_cannot_be_is_refused_in_one_line(user: TestUser) -> None:
    new = layer(user, "new", "new")
    user.succeeds("run", "-d", "--rm", "--name", "web", "--driver", "fuse", "--", "sleep", "1000")
    for arguments, message in (
        (("push",), "name a layer"),
        (("pop", new), "name no layer"),
        (("pop",), "one layer left"),
        (("push", "host"), "push a directory"),
    ):
        assert message in refused(user, *arguments)
    user.succeeds("rm", "-f", "web")


def refused(user: TestUser, *arguments: str) -> str:
    done = user.overlaykit("layers", "web", *arguments)
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1
    return done.stderr
