"""`overlaykit explain`: which layer answers for a path, where the real file is, and what it hides."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

from ..views.someone import Someone


@contextlib.contextmanager
def mounted(someone: Someone) -> Iterator[str]:
    top = someone.directory("top", both="top\n")
    bottom = someone.directory("bottom", both="bottom\n", below="bottom\n", gone="bottom\n")
    os.mkdir(os.path.join(top, "directory"))
    os.mkdir(os.path.join(bottom, "directory"))
    os.symlink("below", os.path.join(top, "link"))
    upper, work, target = map(someone.directory, ("upper", "work", "target"))
    someone.succeeds(
        "mount", "-o", f"lowerdir={top}:{bottom},upperdir={upper},workdir={work}", target
    )
    yield target
    someone.succeeds("umount", target)


def sights(someone: Someone, target: str, path: str) -> list[tuple[str, str, str]]:
    found: dict[str, Any] = json.loads(someone.succeeds("explain", "--json", target, path))
    return [(sight["role"], sight["kind"], sight["path"]) for sight in found["sights"]]


def test_the_layer_that_answers_is_told_and_what_it_hides(someone: Someone) -> None:
    with mounted(someone) as target:
        top, bottom, upper = map(someone.path, ("top", "bottom", "upper"))
        assert sights(someone, target, "/below") == [("answers", "file", f"{bottom}/below")]
        assert sights(someone, target, "/both") == [
            ("answers", "file", f"{top}/both"),
            ("hidden", "file", f"{bottom}/both"),
        ]
        someone.write(os.path.join(target, "both"), "changed\n")
        assert [sight[2] for sight in sights(someone, target, "both")] == [
            f"{upper}/both",
            f"{top}/both",
            f"{bottom}/both",
        ]
        roles = [sight[0] for sight in sights(someone, target, "/directory")]
        assert len(roles) == 2
        assert "hidden" not in roles
        printed = someone.succeeds("explain", target, "/both").splitlines()
        assert printed[0] == "/both"
        assert printed[1].split() == ["answers", "file", f"{upper}/both"]


def test_a_symbolic_link_is_told_with_its_target(someone: Someone) -> None:
    with mounted(someone) as target:
        assert someone.succeeds("explain", target, "/link").splitlines()[0] == "/link -> below"


def test_the_real_file_holds_what_the_view_shows(someone: Someone) -> None:
    script = "echo changed >/etc/hostname; echo started; read line; cat /etc/hostname"
    arguments = ("run", "--name", "one", "--upper", someone.path("upper"), "sh", "-c", script)
    with someone.start(*arguments) as view:
        assert view.stdout is not None
        assert view.stdout.readline() == "started\n"
        (_, kind, real), (role, _, below) = sights(someone, "one", "/etc/hostname")
        assert (kind, real) == ("file", someone.path("upper", "etc", "hostname"))
        assert (role, below) == ("hidden", "/etc/hostname")
        assert sights(someone, "one", "/usr/bin/env") == [("answers", "file", "/usr/bin/env")]
        printed, _ = view.communicate("end\n")
        with open(real) as file:
            assert file.read() == printed == "changed\n"


def test_what_is_not_there_is_told(someone: Someone) -> None:
    assert someone.refused("explain", "nobody", "/etc") == (
        "nobody: no view or mount of that name or mountpoint is running: 'overlaykit ps' lists them"
    )
    with mounted(someone) as target:
        line = someone.refused("explain", target, "/missing")
        assert line == "/missing: No such file or directory"
        os.unlink(os.path.join(target, "gone"))
        found = someone.overlaykit("explain", "--json", target, "/gone")
        if found.returncode == 0:
            assert "answers" not in found.stdout
        else:
            assert found.stderr == "overlaykit: /gone: No such file or directory\n"


def test_names_of_any_bytes_are_explained_and_a_nonsense_question_harms_nothing(
    someone: Someone,
) -> None:
    with mounted(someone) as target:
        os.symlink(b"\xff", os.path.join(os.fsencode(target), b"odd\xfe"))
        found = json.loads(someone.succeeds("explain", "--json", target, "/odd\udcfe"))
        assert found["target"] == "\udcff"
        assert someone.refused("explain", target, "/missing\udcff").endswith(
            "No such file or directory"
        )
        assert sights(someone, target, "/below")
