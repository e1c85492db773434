"""`overlaykit explain`: which layer answers for a path, where the real file is, and what it shadows."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

from ..views.serving import kept_mount
from ..views.user import TestUser


@contextlib.contextmanager
def mounted(user: TestUser) -> Iterator[str]:
    top = user.directory("top", both="top\n")
    bottom = user.directory("bottom", both="bottom\n", below="bottom\n", gone="bottom\n")
    os.mkdir(os.path.join(top, "directory"))
    os.mkdir(os.path.join(bottom, "directory"))
    os.symlink("below", os.path.join(top, "link"))
    upper, work, target = map(user.directory, ("upper", "work", "target"))
    user.succeeds("mount", "-o", f"lowerdir={top}:{bottom},upperdir={upper},workdir={work}", target)
    yield target
    user.succeeds("umount", target)


def hits(user: TestUser, target: str, path: str) -> list[tuple[str, str, str]]:
    found: dict[str, Any] = json.loads(user.succeeds("explain", "--json", target, path))
    return [(hit["role"], hit["kind"], hit["path"]) for hit in found["hits"]]


def test_the_layer_that_answers_is_shown_and_what_it_shadows(user: TestUser) -> None:
    with mounted(user) as target:
        top, bottom, upper = map(user.path, ("top", "bottom", "upper"))
        assert hits(user, target, "/below") == [("answers", "file", f"{bottom}/below")]
        assert hits(user, target, "/both") == [
            ("answers", "file", f"{top}/both"),
            ("shadowed", "file", f"{bottom}/both"),
        ]
        user.write(os.path.join(target, "both"), "changed\n")
        assert [hit[2] for hit in hits(user, target, "both")] == [
            f"{upper}/both",
            f"{top}/both",
            f"{bottom}/both",
        ]
        roles = [hit[0] for hit in hits(user, target, "/directory")]
        assert len(roles) == 2
        assert "shadowed" not in roles
        printed = user.succeeds("explain", target, "/both").splitlines()
        assert printed[0] == "/both"
        assert printed[1].split() == ["answers", "file", f"{upper}/both"]


def test_a_symbolic_link_is_explained_with_its_target(user: TestUser) -> None:
    with mounted(user) as target:
        assert user.succeeds("explain", target, "/link").splitlines()[0] == "/link -> below"


def test_a_daemon_that_does_not_answer_is_named_with_what_to_do(user: TestUser) -> None:
    with mounted(user) as target:
        daemon = kept_mount(target).daemon
        os.kill(daemon, signal.SIGSTOP)
        try:
            line = user.refused("explain", target, "/below")
            measured = user.overlaykit("stats", "--requests", target)
        finally:
            os.kill(daemon, signal.SIGCONT)
        assert line.startswith(f"{target}: its daemon, process {daemon}, has not answered for ")
        assert f"'kill -CONT {daemon}'" in line
        assert measured.returncode == 125
        assert f"'kill -CONT {daemon}'" in measured.stderr
        assert hits(user, target, "/below")[0][:2] == ("answers", "file")


def test_the_real_file_has_the_contents_that_the_view_shows(user: TestUser) -> None:
    script = "echo changed >/etc/issue; echo started; read line; cat /etc/issue"
    arguments = ("run", "--rm", "--name", "one", "--upper", user.path("upper"), "sh", "-c", script)
    with user.start(*arguments) as view:
        assert view.stdout is not None
        assert view.stdout.readline() == "started\n"
        (_, kind, real), (role, _, below) = hits(user, "one", "/etc/issue")
        assert (kind, real) == ("file", user.path("upper", "etc", "issue"))
        assert (role, below) == ("shadowed", "/etc/issue")
        assert hits(user, "one", "/usr/bin/env") == [("answers", "file", "/usr/bin/env")]
        printed, _ = view.communicate("end\n")
        with open(real) as file:
            assert file.read() == printed == "changed\n"


def test_a_missing_path_is_reported(user: TestUser) -> None:
    assert user.refused("explain", "nobody", "/etc") == (
        "nobody: no view or mount of that name or mountpoint is running: 'overlaykit ps' lists them"
    )
    with mounted(user) as target:
        line = user.refused("explain", target, "/missing")
        assert line == "/missing: No such file or directory"
        os.unlink(os.path.join(target, "gone"))
        found = user.overlaykit("explain", "--json", target, "/gone")
        if found.returncode == 0:
            assert "answers" not in found.stdout
        else:
            assert found.stderr == "overlaykit: /gone: No such file or directory\n"


def test_names_of_any_bytes_are_explained_and_an_invalid_request_harms_nothing(
    user: TestUser,
) -> None:
    with mounted(user) as target:
        os.symlink(b"\xff", os.path.join(os.fsencode(target), b"odd\xfe"))
        found = json.loads(user.succeeds("explain", "--json", target, "/odd\udcfe"))
        assert found["target"] == "\udcff"
        assert user.refused("explain", target, "/missing\udcff").endswith(
            "No such file or directory"
        )
        assert hits(user, target, "/below")
