"""`--ulimit`, and the environment of a command by options."""

from __future__ import annotations

import resource

import pytest

from ..views.fixtures import with_both_drivers
from ..views.user import TestUser
from .test_limits import may_raise_limits


@with_both_drivers
def test_limits_are_the_commands_and_not_the_views(user: TestUser) -> None:
    options = ("--ulimit", "nofile=100:200", "--ulimit", "core=0", "--ulimit", "fsize=1024")
    script = "ulimit -Sn; ulimit -Hn; ulimit -Hc; head -c 4096 /dev/zero >/tmp/in-f; stat -c %s /tmp/in-f"
    done = user.overlaykit("run", *options, "--", "sh", "-c", script)
    assert done.stdout.split() == ["100", "200", "0", "1024"]


def test_a_hard_limit_is_raised_where_the_caller_may(user: TestUser) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1000), 1000))
    arguments = ("run", "--ulimit", "nofile=1500:2000", "--", "sh", "-c", "ulimit -Sn; ulimit -Hn")
    if may_raise_limits(user):
        assert user.succeeds(*arguments).split() == ["1500", "2000"]
    else:
        line = user.refused(*arguments)
        assert line.startswith("--ulimit nofile: the hard limit cannot be raised")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("files=1", "'files' is none of as, core, cpu,"),
        ("nofile", "'nofile' is none of"),
        ("nofile=x", "'x' is no limit"),
        ("nofile=2:1", "the soft limit is above the hard one"),
        ("nofile=-1:5", "the soft limit is above the hard one"),
        ("nofile=-2", "'-2' is no limit"),
    ],
)
def test_a_limit_that_is_none_is_named(user: TestUser, text: str, said: str) -> None:
    assert user.refused("run", "--ulimit", text, "--", "true").startswith(
        f"--ulimit {text}: {said}"
    )


def test_no_limit_is_a_number(user: TestUser) -> None:
    assert user.succeeds(
        "run", "--ulimit", "core=0:-1", "--", "sh", "-c", "ulimit -Sc; ulimit -Hc"
    ).split() == [
        "0",
        "unlimited",
    ]


def test_variables_come_from_files_and_go_by_name(
    user: TestUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLERS", "theirs")
    monkeypatch.setenv("GONE", "x")
    file = user.write(
        user.path("env"), "# a comment\n\nA=1\n  B=two words = 2\nCALLERS\nMISSING\nC=\n"
    )
    options = ("--env-file", file, "-e", "A=3", "--unsetenv", "GONE")
    script = 'echo "$A|$B|$C|$CALLERS|${MISSING-none}|${GONE-none}"'
    assert (
        user.succeeds("run", *options, "--", "sh", "-c", script)
        == "3|two words = 2||theirs|none|none\n"
    )


def test_an_empty_environment_has_what_the_options_name(user: TestUser) -> None:
    file = user.write(user.path("env"), "HOME\n")
    options = ("--clearenv", "-e", "A=1", "--env-file", file)
    assert sorted(user.succeeds("run", *options, "--", "/usr/bin/env").split()) == [
        "A=1",
        f"HOME={user.home}",
    ]


@pytest.mark.parametrize(("text", "said"), [("=x\n", "line 1 has no name"), (None, "No such file")])
def test_a_file_of_variables_that_is_none_is_named(
    user: TestUser, text: str | None, said: str
) -> None:
    file = user.path("env")
    if text is not None:
        user.write(file, text)
    assert user.refused("run", "--env-file", file, "--", "true").startswith(
        f"--env-file {file}: {said}"
    )
