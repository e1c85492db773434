"""`-u` and `--group-add`: the user of a command, as the view's own /etc/passwd and /etc/group name it."""

from __future__ import annotations

import os

import pytest

from ..views.fixtures import only_as, only_with, with_both_drivers
from ..views.test_identities import FIRST, subordinate_ids
from ..views.user import AS_ORDINARY, TestUser, command
from .terminals import Terminal

pytestmark = pytest.mark.as_each_user

PASSWD = (
    "root:x:0:0::/root:/bin/sh\n"
    "# a comment\n"
    "mallory:x\n"
    "ann:x:33:34::/home/ann:/bin/sh\n"
    "77:x:35:36::/home/digits:/bin/sh\n"
)
GROUP = "root:x:0:\nann:x:34:\nfirst:x:40:bob,ann\nsecond:x:41:ann\nthird:x:42:bob\n50:x:43:\n"
SHOW = "echo $(id -u):$(id -g) $(id -G) $HOME"


def layer(user: TestUser) -> str:
    """A layer whose /etc/passwd is an absolute symbolic link within the view, and whose /etc/group leads out of it."""
    path = user.directory("layer", "etc")
    user.write(os.path.join(os.path.dirname(path), "accounts"), PASSWD)
    os.symlink("/accounts", os.path.join(path, "passwd"))
    user.write(os.path.join(path, "groups"), GROUP)
    os.symlink("../../../../../etc/groups", os.path.join(path, "group"))
    return os.path.dirname(path)


def shown(user: TestUser, *options: str, script: str = SHOW) -> str:
    layers = (
        ("-l", layer(user))
        if not os.path.exists(user.path("layer"))
        else ("-l", user.path("layer"))
    )
    return user.succeeds("run", *layers, "-l", "host", *options, "--", "sh", "-c", script).strip()


@only_as("root")
@with_both_drivers
@pytest.mark.parametrize(
    ("options", "seen"),
    [
        (("-u", "ann"), "33:34 34 40 41 /home/ann"),
        (("-u", "33"), "33:34 34 40 41 /home/ann"),
        (("-u", "ann:third"), "33:42 42 /home/ann"),
        (("-u", "33:55"), "33:55 55 /home/ann"),
        (("-u", "1234"), "1234:0 0 /"),
        (("-u", "1234:1235"), "1234:1235 1235 /"),
        (("-u", "77"), "35:36 36 /home/digits"),
        (("-u", "ann:50"), "33:43 43 /home/ann"),
        (
            ("-u", "ann", "--group-add", "third", "--group-add", "99"),
            "33:34 34 40 41 42 99 /home/ann",
        ),
        (("-u", "ann", "-e", "HOME=/mine"), "33:34 34 40 41 /mine"),
    ],
)
def test_the_user_is_the_views_own(user: TestUser, options: tuple[str, ...], seen: str) -> None:
    assert shown(user, *options) == seen


@only_as("root")
def test_the_user_has_neither_capabilities_nor_the_right_to_become_root(user: TestUser) -> None:
    status = shown(user, "-u", "ann", script="grep ^Cap /proc/self/status")
    sets = dict(line.split(":\t") for line in status.splitlines())
    assert int(sets["CapEff"], 16) == int(sets["CapPrm"], 16) == int(sets["CapAmb"], 16) == 0
    done = user.overlaykit("run", "-u", "33", "--", "sh", "-c", "echo x > /etc/passwd")
    assert done.returncode != 0


@only_as("root")
def test_a_user_needs_no_capability_of_the_command(user: TestUser) -> None:
    for options in (
        ("--cap-drop", "ALL"),
        ("--security-opt", "no-new-privileges=false"),
        ("--privileged",),
    ):
        script = "id -u; grep -E '^Cap(Eff|Prm|Amb)' /proc/self/status | sort -u -k2"
        shown_ = user.succeeds("run", *options, "-u", "33", "--", "sh", "-c", script).split()
        assert shown_[0] == "33"
        assert {int(word, 16) for word in shown_[2::2]} == {0}
    bounded = ("--cap-drop", "ALL", "-u", "33", "--", "grep", "^CapBnd", "/proc/self/status")
    assert int(user.succeeds("run", *bounded).split()[1], 16) == 0


@only_as("root")
def test_groups_of_the_caller_stay_if_asked_for(user: TestUser) -> None:
    os.setgroups([61, 62])
    assert shown(user, "-u", "ann", "--group-add", "keep-groups", script="id -G") == "34 61 62"


def test_a_view_of_one_identity_has_its_root_by_name(user: TestUser) -> None:
    assert shown(user, "-u", "root").endswith(" /root")
    assert shown(user, "-u", "0:0", script="id -u; id -g") == "0\n0"


def test_the_users_name_replaces_the_callers_in_the_environment(
    user: TestUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USER", "caller")
    monkeypatch.delenv("LOGNAME", raising=False)
    script = "echo ${USER-none} ${LOGNAME-none}"
    assert shown(user, script=script) == "caller none"
    assert shown(user, "-u", "root", script=script) == "root none"


@only_as("ordinary user")
@only_with(driver="fuse")
def test_a_user_that_is_not_mapped_is_refused_with_the_way_out(user: TestUser) -> None:
    line = user.refused("run", "-u", "33", "--", "true")
    assert line.startswith("-u 33:")
    assert "/etc/subuid" in line
    line = user.refused("run", "-u", "0", "--group-add", "44", "--", "true")
    assert line.startswith("--group-add:")
    assert "/etc/subuid" in line


@only_as("root")
@only_with(driver="fuse", server=False)
def test_subordinate_ids_are_users_of_a_view(user: TestUser) -> None:
    with subordinate_ids(user) as home:
        run = [*AS_ORDINARY, command(), "run", "--upper", f"{home}/kept", "-u", "33:34", "--"]
        script = "id -u; id -g; mkdir /tmp/in-d; touch /tmp/in-d/f"
        assert user.program([*run, "sh", "-ec", script]) == "33\n34\n"
        assert os.stat(f"{home}/kept/tmp/in-d/f").st_uid == FIRST + 32


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-u", "nobody-here"), "-u nobody-here: 'nobody-here' is not in the view's /etc/passwd"),
        (("-u", ""), "-u '': '' is not in the view's /etc/passwd"),
        (("-u", "mallory"), "-u mallory: 'mallory' is not in the view's /etc/passwd"),
        (("-u", "-5"), "-u -5: '-5' is not in the view's /etc/passwd"),
        (("-u", "4294967295"), "-u 4294967295: '4294967295' is not in the view's /etc/passwd"),
        (("-u", "0:none-such"), "-u 0:none-such: 'none-such' is not in the view's /etc/group"),
        (("--group-add", "none-such"), "--group-add none-such: not in the view's /etc/group"),
        (("--group-add", "keep-groups", "--group-add", "1"), "--group-add keep-groups: no other"),
    ],
)
def test_an_unknown_user_is_named(user: TestUser, options: tuple[str, ...], said: str) -> None:
    options = tuple(f"-u={value}" if value == "-5" else value for value in options)
    options = tuple(value for value in options if value != "-u" or "-u=-5" not in options)
    line = user.refused("run", "-l", layer(user), "-l", "host", *options, "--", "true")
    assert line.startswith(said)


def test_a_view_without_accounts_has_users_by_number(user: TestUser) -> None:
    empty = user.directory("empty", "etc")
    for name in "passwd", "group":
        os.mkfifo(os.path.join(empty, name))
    options = ("-l", user.path("empty"), "-l", "host", "-u", "0", "-e", "HOME=/x")
    assert user.succeeds("run", *options, "--", "id", "-u") == "0\n"


@only_as("root")
def test_the_terminal_belongs_to_the_user(user: TestUser) -> None:
    words = (
        "run",
        "-it",
        "-u",
        "33",
        "--",
        "sh",
        "-c",
        "stat -c %u $(tty) && echo >$(tty) && id -u",
    )
    with Terminal(command(), *words) as terminal:
        assert terminal.finish() == 0
    assert terminal.output.split() == ["33", "33"]


@only_as("root")
def test_a_command_in_a_running_view_is_another_user(user: TestUser) -> None:
    layers = ("-l", layer(user), "-l", "host")
    with user.start(
        "run", "--rm", "--name", "v", *layers, "--", "sh", "-c", "echo on; read line"
    ) as view:
        assert view.stdout is not None
        assert view.stdout.readline() == "on\n"
        assert user.succeeds("exec", "-u", "ann", "v", "--", "sh", "-c", SHOW) == (
            "33:34 34 40 41 /home/ann\n"
        )
        view.communicate("end\n")
