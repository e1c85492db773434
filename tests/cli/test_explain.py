"""`overlaykit explain`: which layer answers for a path, where the real file is, and what it shadows."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from ..views.fixtures import only_as
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
            asking = [
                user.start("explain", target, "/below", stderr=subprocess.PIPE),
                user.start("stats", "--requests", target, stderr=subprocess.PIPE),
            ]
            messages = [client.communicate()[1] for client in asking]
        finally:
            os.kill(daemon, signal.SIGCONT)
        assert [client.returncode for client in asking] == [125, 125]
        assert messages[0].startswith(f"overlaykit: {target}: ")
        for message in messages:
            assert f": its daemon, process {daemon}, has not answered for " in message
            assert message.count("\n") == 1
            assert f"'kill -CONT {daemon}'" in message
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
        copied = explained(user, "one", "/etc/issue")["hits"][0]["copied"]
        assert copied is None or copied["program"] == "sh"
        assert hits(user, "one", "/usr/bin/env") == [("answers", "file", "/usr/bin/env")]
        printed, _ = view.communicate("end\n")
        with open(real) as file:
            assert file.read() == printed == "changed\n"


def test_a_missing_path_is_reported(user: TestUser) -> None:
    assert user.refused("explain", "nobody", "/etc").startswith(
        "nobody: no view, mount, directory or layer of that name: 'overlaykit ps -a' lists views"
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


def explained(user: TestUser, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(user.succeeds("explain", "--json", *arguments))
    return found


def run_as(program: str, script: str) -> None:
    """Run a script of Python as a program of that name."""
    named = f"import ctypes; ctypes.CDLL(None).prctl(15, {program.encode()!r}, 0, 0, 0)\n"
    subprocess.run([sys.executable, "-c", named + script], check=True)


def test_a_copy_says_for_which_program_it_was_made_and_when_and_what_it_was(
    user: TestUser,
) -> None:
    lower = user.directory("lower", small="12\n", mode="x", large="x" * 3_000_000)
    os.chmod(os.path.join(lower, "small"), 0o640)
    os.makedirs(os.path.join(lower, "below/it"))
    upper, work, target = map(user.directory, ("upper", "work", "target"))
    user.succeeds("mount", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", target)
    try:
        before = time.time() - 1
        here = f"import os; os.chdir({target!r})\n"
        run_as("fifteen-letters", here + "open('small', 'a').write('3'); os.mkdir('below/it/new')")
        run_as("late", here + "f = open('large', 'r+'); f.seek(5); f.write('y'); f.close()")
        run_as("odd\x1b", here + "os.chmod('mode', 0o600)")

        def check() -> None:
            hit, shadowed = explained(user, target, "/small")["hits"]
            assert hit["copied"]["program"] == "fifteen-letters"
            assert before <= hit["copied"]["time_ns"] / 1e9 <= time.time()
            was = hit["copied"]["lower"]
            assert (was["path"], was["kind"], was["mode"], was["size"]) == (
                os.path.join(lower, "small"),
                "file",
                0o640,
                3,
            )
            assert shadowed["hidden"] == {
                "reason": "covered",
                "path": os.path.join(upper, "small"),
            }
            assert shadowed["copied"] is None
            (large, _), (made,) = (
                explained(user, target, path)["hits"] for path in ("/large", "/below/it/new")
            )
            assert large["copied"]["program"] == "late"
            assert made["copied"] is None
            (changed, _) = explained(user, target, "/mode")["hits"]
            assert changed["copied"]["program"] == "odd\x1b"
            directory, _ = explained(user, target, "/below/it")["hits"]
            assert directory["copied"]["program"] == "fifteen-letters"
            assert directory["copied"]["lower"]["path"] == os.path.join(lower, "below/it")

        check()
        text = user.succeeds("explain", target, "/small")
        assert "copied up for fifteen-letters on " in text
        assert f"; it was {lower}/small, a file of mode 0640" in text
        assert f"(hidden by {upper}/small)" in text
        assert not {name for name in os.listxattr(os.path.join(target, "small")) if "over" in name}
        # A later write changes nothing of that, a change of the lower is said.
        run_as("other", here + "open('small', 'a').write('4')")
        assert explained(user, target, "/small")["hits"][0]["copied"]["lower"]["changed"] in (
            False,
            None,
        )
        check()
    finally:
        user.succeeds("umount", target)
    target = upper
    for path, program in (("/small", "fifteen-letters"), ("/large", "late")):
        hit = explained(user, "-l", lower, upper, path)["hits"][0]
        assert (hit["path"], hit["copied"]["program"]) == (upper + path, program)
        assert hit["copied"]["lower"]["path"] == lower + path


def test_a_view_that_is_stopped_is_explained_and_so_is_one_without_changes(
    user: TestUser,
) -> None:
    layer = user.directory("layer", file="1\n", gone="2\n")
    other = user.directory("other", file="3\n")
    options = ("--name", "one", "-l", layer, "-l", other)
    user.succeeds("create", *options, "--", "true")
    answer, below = explained(user, "one", "/file")["hits"]
    assert [answer["path"], below["path"]] == [f"{layer}/file", f"{other}/file"]
    assert below["hidden"] == {"reason": "covered", "path": f"{layer}/file"}
    assert user.refused("explain", "one", "/missing") == "/missing: No such file or directory"
    user.succeeds("rm", "one")
    user.succeeds("create", "--read-only", *options, "--", "true")
    assert explained(user, "one", "/gone")["hits"][0]["path"] == f"{layer}/gone"
    user.succeeds("rm", "one")


def test_a_hard_link_of_a_stopped_view_is_followed_to_its_copy(user: TestUser) -> None:
    lower = user.directory("lower", a="1\n")
    os.link(os.path.join(lower, "a"), os.path.join(lower, "b"))
    upper, work, target = map(user.directory, ("upper", "work", "target"))
    user.succeeds("mount", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", target)
    user.write(os.path.join(target, "a"), "2\n")
    followed = explained(user, target, "/b")["hits"]
    with open(os.path.join(target, "b")) as file:
        is_one_file = file.read() == "2\n"
    user.succeeds("umount", target)
    assert (
        [hit["role"] for hit in followed] == ["answers", "shadowed"] if is_one_file else ["answers"]
    )
    hits = explained(user, "-l", lower, upper, "/b")["hits"]
    assert [hit["path"] for hit in hits] == [hit["path"] for hit in followed]
    if is_one_file:
        assert hits[1]["hidden"] == {"reason": "index", "path": hits[0]["path"]}
        assert hits[0]["path"].startswith(os.path.join(work, "index/"))


@only_as("ordinary user")
def test_the_path_that_cannot_be_explained_is_named(user: TestUser) -> None:
    user.succeeds("create", "--name", "v", "--", "true")
    for path, why in (("/root/x/y", "Permission denied"), ("/nix/x", "No such file or directory")):
        assert user.refused("explain", "v", path) == f"{path}: {why}"
    user.succeeds("rm", "v")
