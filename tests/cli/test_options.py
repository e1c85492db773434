"""Options of `run` that are parsed without argparse have the values that argparse gives them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from overlaykit.cli import diff, run
from overlaykit.errors import Error

_WORDS = [
    *("--", "-", "", "true", "-c", "host", "a=b", "-x", "=", "KEY=VALUE", "/a:/b", "3", "x", "-1"),
    *(
        "-l",
        "-lhost",
        "-l=host",
        "-v",
        "-v=/a:/b",
        "--volume",
        "--volume=/a:/b",
        "-p",
        "--publish=1:2",
    ),
    *(
        "--upper",
        "--upper=d",
        "--read-only",
        "--read-only=x",
        "--read",
        "--name",
        "--name=n",
        "--network",
    ),
    *(
        "--network=host",
        "--network=other",
        "private",
        "none",
        "-e",
        "--env=A=B",
        "-w",
        "--workdir",
        "/",
    ),
    *(
        "--preserve-fds",
        "--preserve-fds=2",
        "--preserve-fds=x",
        "--preserve-fd=3,4",
        "--help",
        "-h",
    ),
    *("--mount=type=bind,src=/a,dst=/b", "--unknown", "--unknown=x"),
    *("--symlink", "--symlink=a", "--bind-data"),
]


def _by_argparse(arguments: list[str]) -> dict[str, object] | None:
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            return vars(run.parser().parse_args(arguments))
        except (Error, SystemExit):
            return None


@settings(deadline=None)
@given(st.lists(st.sampled_from(_WORDS), max_size=8))
@example(["--", "true"])
@example(["true", "-l", "x", "--", "--help"])
@example(
    ["-l", "a", "-l=b", "--upper=c", "-e", "A=B", "--preserve-fds", "2", "--", "sh", "-c", "x"]
)
@example(["--upper", "a", "--upper", "b", "true"])
@example(["--upper", "a", "--read-only", "true"])
@example(["--symlink", "a", "/b", "--symlink", "c", "/d", "true"])
@example(["--symlink", "a", "--", "true"])
def test_plain_options_mean_what_they_mean_to_argparse(arguments: list[str]) -> None:
    found = run.options().parse_plain(arguments)
    if found is not None:
        expected = _by_argparse(arguments)
        assert expected is not None
        # Versions of argparse differ in whether they keep the "--".
        commands = [values.pop("command") for values in (vars(found), expected)]
        assert _without_dashes(commands[0]) == _without_dashes(commands[1])
        assert vars(found) == expected


def _without_dashes(command: object) -> list[object]:
    assert isinstance(command, list)
    return command[1:] if command[:1] == ["--"] else command


def test_what_is_usual_needs_no_argparse() -> None:
    for arguments in (
        ["true"],
        ["--", "true"],
        ["-l", "py27", "-l", "host", "--upper", "changes", "--", "sh", "-c", "x"],
        ["--name=a", "-p", "8080:80", "-v", "/a:/b:ro", "-e", "A=B", "--network=host", "true"],
    ):
        assert run.options().parse_plain(arguments) is not None


_OF_DIFF = [
    *(
        "--patch",
        "-p",
        "--stat",
        "--json",
        "-a",
        "--all",
        "--times",
        "--exit-code",
        "-pa",
        "--times=x",
    ),
    *("-l", "-l=b", "--layers", "--", "-h", "web", "a..b", "/etc", "-x"),
]


@settings(deadline=None)
@given(st.lists(st.sampled_from(_OF_DIFF), max_size=6))
@example(["web"])
@example(["--json", "-l", "web", "-l=b", "web", "/etc"])
@example(["web", "--json"])
@example(["web", "/etc", "/etc"])
@example(["--patch", "--stat", "web"])
def test_plain_options_of_diff_mean_what_they_mean_to_argparse(arguments: list[str]) -> None:
    def parsed(parse: Callable[[list[str]], Any]) -> dict[str, object] | None:
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                values = vars(parse(arguments))
            except (Error, SystemExit):
                return None
        return {name: value for name, value in values.items() if name != "rest"}

    assert parsed(diff.parse) == parsed(lambda given: diff.parser().parse_intermixed_args(given))
