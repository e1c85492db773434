"""Errors: one line that names the cause and the fix, the exit status, and nothing left behind.

The fixture `user` proves at the end of every test that nothing is left.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ..ports import unused_port
from ..views.fixtures import only_as
from ..views.user import TestUser

TIMEOUT = (
    "umount: argument --timeout: {}: give a number of seconds from 0 to 1000000:"
    " see 'overlaykit umount --help'"
)


@only_as("ordinary user")  # the same for root
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nonsense"], "nonsense: no such command: 'overlaykit --help' lists them"),
        (["run"], "run: no command given: see 'overlaykit run --help'"),
        (["run", "--"], "run: no command given: see 'overlaykit run --help'"),
        (
            ["run", "-e", "=novalue", "true"],
            "run: -e =novalue: give KEY=VALUE, or KEY for the caller's value: see 'overlaykit run --help'",
        ),
        (
            ["run", "--upper", "/x", "--read-only", "true"],
            "run: argument --read-only: not allowed with argument --upper: see 'overlaykit run --help'",
        ),
        (
            ["run", "--rm", "--name", "a/b", "true"],
            "--name a/b: use up to 63 letters, digits, '.', '_' and '-', beginning with a letter or a digit",
        ),
        (
            ["run", "-v", "/etc", "true"],
            (
                "-v /etc: expected one or two colons;"
                " write SOURCE:TARGET or SOURCE:TARGET:ro, with an absolute TARGET"
                " (a path with a colon: --mount type=bind,src=SOURCE,dst=TARGET)"
            ),
        ),
        (
            ["run", "-p", "80:http", "true"],
            (
                "-p 80:http: 'http' is not a port (1 to 65535); write [ADDRESS:][HOST:]PORT[/tcp|/udp],"
                " for example 8080:80, 0.0.0.0:8080:80 or 8000-8009:9000-9009"
            ),
        ),
        (
            ["mount", "/mnt"],
            "mount: the following arguments are required: -o: see 'overlaykit mount --help'",
        ),
        (["umount", "--timeout", "soon", "/mnt"], TIMEOUT.format("'soon'")),
        (["umount", "--timeout", "nan", "/mnt"], TIMEOUT.format("'nan'")),
        (["layer", "frob"], None),
        (
            ["layer", "add", "x"],
            "layer: the following arguments are required: SOURCE: see 'overlaykit layer --help'",
        ),
        (["ps", "surplus"], "ps: unrecognized arguments: surplus: see 'overlaykit ps --help'"),
    ],
)
def test_a_mistyped_command_is_reported_in_one_line(
    user: TestUser, arguments: list[str], line: str | None
) -> None:
    error = user.refused(*arguments)
    if line is None:
        assert error.startswith("layer: argument ACTION: invalid choice: 'frob'")
    else:
        assert error == line


def test_a_missing_layer_is_reported_with_similar_names(user: TestUser) -> None:
    user.succeeds("layer", "add", "python27", f"dir:{user.directory('tree')}")
    assert user.refused("run", "-l", "python2.7", "true") == (
        "there is no layer python2.7 (did you mean python27?);"
        " 'overlaykit layer ls' lists them, and a directory is written with a slash"
    )
    assert user.refused("run", "-l", "/no/such", "true") == (
        "/no/such does not exist; give the path of a directory"
    )
    assert user.refused("run", "-l", "/etc/passwd", "true") == (
        "/etc/passwd is not a directory; give the path of a directory"
    )


def test_an_unreadable_layer_is_reported(user: TestUser) -> None:
    closed = user.directory("closed")
    os.chmod(closed, 0)
    if user.is_root:  # root may read everything
        user.refused("run", "-l", closed, "true", status=127)
    else:
        assert user.refused("run", "-l", closed, "true") == (
            f"'{closed}' cannot be read by you; make it readable and searchable, or run as its owner"
        )


def test_an_upper_inside_a_lower_shows_only_in_its_place(user: TestUser) -> None:
    lower = user.directory("lower")
    upper = user.directory("lower", "upper")
    script = "test ! -e /upper/new && echo x >/new && test ! -e /upper/new"
    user.succeeds("run", "-l", lower, "-l", "host", "--upper", upper, "sh", "-c", script)
    assert os.listdir(upper) == ["new"]
    assert sorted(os.listdir(lower)) == [".upper.overlaykit", "upper"]


def test_an_upper_that_cannot_be_made_is_reported(user: TestUser) -> None:
    upper = user.path("no", "such", "upper")
    assert user.refused("run", "--upper", upper, "true") == (
        f"--upper {upper}: there is no directory to make it in: create its parent first"
    )
    file = user.write(user.path("file"), "")
    assert user.refused("run", "--upper", file, "true") == (
        f"upper {file}: Not a directory: give a directory that can be written to,"
        " on a file system with extended attributes"
    )


@only_as("ordinary user")  # root may write everywhere
def test_an_unwritable_upper_is_reported(user: TestUser) -> None:
    assert user.refused("run", "--upper", "/etc/upper", "true") == (
        "upper /etc/upper: Permission denied: give a directory that can be written to,"
        " on a file system with extended attributes"
    )


def test_an_empty_name_is_never_the_working_directory(user: TestUser) -> None:
    here = user.directory("here")
    user.directory("lower")
    errors = {
        ("run", "--upper", "", "true"): (
            "upper '': No such file or directory: give a directory that can be written to,"
            " on a file system with extended attributes"
        ),
        ("mount", "-o", f"lowerdir={user.path('lower')}", ""): (
            "'': no such directory to mount on: create it first"
        ),
        ("umount", ""): "'': no overlaykit mount is there: 'overlaykit ps' lists those that are",
        ("explain", "", "/"): (
            "'': no view, mount, directory or layer of that name: 'overlaykit ps -a' lists views,"
            " 'overlaykit layer ls' layers"
        ),
        ("",): "'': no such command: 'overlaykit --help' lists them",
    }
    user.succeeds("mount", "-o", f"lowerdir={user.path('lower')}", here)
    for arguments, line in errors.items():
        assert user.refused(*arguments, cwd=here) == line
    user.succeeds("umount", here)
    assert not [name for name in os.listdir(user.scratch) if name.endswith(".overlaykit")]
    assert user.refused("run", "", status=127).startswith("'': no such command in this view")
    for command in ("run", "true"), ("mount", "-o", f"lowerdir={user.path('lower')}", here):
        refused = user.refused(command[0], "--name", "", *command[1:])
        assert refused.startswith("--name '': use up to 63 letters")


@only_as("ordinary user")  # root's runtime directory is /run
@pytest.mark.parametrize("room", ["size=4k", "nr_inodes=3", "nr_inodes=4"])
def test_a_full_runtime_directory_is_reported(user: TestUser, room: str) -> None:
    runtime = user.directory("runtime")
    full = f"head -c 4096 /dev/zero >{runtime}/full" if "size" in room else ""
    arrange = f"mount -t tmpfs -o {room} none {runtime}; {full}\nexport XDG_RUNTIME_DIR={runtime}"
    assert error_on_changed_machine(user, arrange, "run", "true") == (
        f"{runtime}/overlaykit: a running view cannot be registered there (No space left on device):"
        " make room, or set XDG_RUNTIME_DIR to a directory elsewhere"
    )


def test_an_upper_without_a_place_for_its_work_directory_is_reported(user: TestUser) -> None:
    upper = user.directory("upper")
    user.write(user.path(".upper.overlaykit"), "")
    assert user.refused("run", "--upper", upper, "true") == (
        f"--upper {upper}: .upper.overlaykit beside it, for work in progress, cannot be used"
        " (Not a directory): name a directory whose parent you may write to"
    )
    done = user.changed_machine(f"mount -t tmpfs none {upper}", "run", "--upper", upper, "true")
    assert done.returncode == 125
    assert done.stderr == (
        f"overlaykit: --upper {upper}: a file system is mounted just there, and there has to be"
        " room beside an upper on the same one: name a directory in it\n"
    )


def test_a_relative_working_directory_is_refused(user: TestUser) -> None:
    for path, shown in ("bin", "bin"), ("", "''"):
        assert user.refused("run", "--workdir", path, "true") == (
            f"-w {shown}: write an absolute path, as the view has it"
        )


def test_names_of_any_characters_stay_in_one_line(user: TestUser) -> None:
    name = "new\nline\x1b[31m\x9b31m\ttab"
    shown = r"new\nline\x1b[31m\x9b31m\ttab"
    lower, upper = user.directory(name), user.path("up" + name)
    assert user.refused(name).startswith(f"{shown}: no such command")
    done = user.overlaykit("run", "--upper", upper, "true")
    assert (
        done.stderr
        == f"overlaykit: --upper {user.path('up' + shown)}: made, because it did not exist\n"
    )
    target = user.directory("target" + name)
    user.succeeds("mount", "-o", f"lowerdir={lower}", target)
    assert user.path("target" + shown) in user.succeeds("ps")
    assert user.path(shown) in user.succeeds("explain", target, "/")
    user.succeeds("umount", target)


def test_a_name_that_is_too_long_is_reported_as_written(user: TestUser) -> None:
    lower, target = user.directory("lower"), user.directory("target")
    user.succeeds("mount", "-o", f"lowerdir={lower}", target)
    name = "x" * 300
    assert user.refused("explain", target, f"/{name}") == f"{name}: File name too long"
    user.succeeds("umount", target)


def test_an_upper_in_use_is_refused(user: TestUser) -> None:
    upper = user.path("upper")
    command = ("sh", "-c", "echo started; read line")
    with user.start("run", "--rm", "--name", "first", "--upper", upper, *command) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "started\n"
        (running,) = json.loads(user.succeeds("ps", "--json"))
        assert user.refused("run", "--upper", upper, "true") == (
            f"upper {upper} is in use by view first (process {running['pid']}): end that one first,"
            " or choose another upper"
        )
        first.communicate("end\n")
        assert first.returncode == 0


def test_a_name_that_is_taken_is_refused_and_free_again_afterwards(user: TestUser) -> None:
    with user.start("run", "--rm", "--name", "one", "sh", "-c", "echo started; read line") as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "started\n"
        assert user.refused("run", "--rm", "--name", "one", "true") == (
            "--name one: a view of that name is running: choose another one, or end it ('overlaykit ps')"
        )
        first.communicate("end\n")
    user.succeeds("run", "--rm", "--name", "one", "true")


def test_a_port_in_use_is_refused(user: TestUser) -> None:
    port = unused_port()
    with socket.create_server(("127.0.0.1", port)):
        line = user.refused("run", "-p", f"{port}:80", "true")
    assert str(port) in line
    assert "in use" in line
    user.succeeds("run", "-p", f"{port}:80", "true")


def test_a_port_of_a_range_that_is_in_use_is_named_and_no_other_stays_open(user: TestUser) -> None:
    port = unused_port()
    with socket.create_server(("127.0.0.1", port)):
        line = user.refused("run", "-p", f"{port - 1}-{port}:80-81", "true")
    assert line.startswith(f"-p 127.0.0.1:{port}:81: port {port} of 127.0.0.1 is in use")
    user.succeeds("run", "-p", f"{port - 1}-{port}:80-81", "true")


def test_a_port_without_a_private_network_is_refused(user: TestUser) -> None:
    assert "8080" in user.refused("run", "--network", "host", "-p", "8080:80", "true")


def test_a_missing_bind_source_is_reported(user: TestUser) -> None:
    assert user.refused("run", "-v", "/no/such:/mnt", "true") == (
        "-v /no/such: cannot be shared with the view (No such file or directory);"
        " name a path that exists and that you may reach"
    )


def test_a_bind_without_a_mountpoint_in_a_read_only_view_is_reported(user: TestUser) -> None:
    line = user.refused("run", "--read-only", "-v", "/etc:/no/such/place", "true")
    assert line == (
        "/no/such/place: cannot be made inside the view (Read-only file system);"
        " let a layer bring it, or let the view be written to"
    )


def test_a_missing_working_directory_is_reported(user: TestUser) -> None:
    assert user.refused("run", "-w", "/no/such", "true") == (
        "-w /no/such: no directory to work in inside the view (No such file or directory);"
        " name one that exists there"
    )


def test_a_missing_dev_fuse_is_reported_with_the_fix(user: TestUser) -> None:
    dev = user.directory("dev", null="")
    without = f"mount --bind /dev/null {dev}/null; mount --rbind {dev} /dev"
    lower, target = user.directory("lower"), user.directory("target")
    for arguments in (["run", "true"], ["mount", "-o", f"lowerdir={lower}", target]):
        assert error_on_changed_machine(user, without, *arguments) == (
            "there is no /dev/fuse: load the kernel's module with 'modprobe fuse',"
            " or pass the device into the container"
        )


@only_as("ordinary user")  # root may open everything
def test_a_dev_fuse_that_may_not_be_opened_is_reported_with_the_fix(user: TestUser) -> None:
    another_s = "/etc/shadow"  # mode 0600 or 0640, and root's
    assert error_on_changed_machine(user, f"mount --bind {another_s} /dev/fuse", "run", "true") == (
        "/dev/fuse cannot be opened by this user: as root, run 'chmod 0666 /dev/fuse' (udev's usual rule)"
    )


@only_as("ordinary user")  # root needs no user namespace
def test_disabled_user_namespaces_are_reported_with_the_sysctl(user: TestUser) -> None:
    off = "echo 0 >/proc/sys/user/max_user_namespaces"
    assert error_on_changed_machine(user, off, "run", "true") == (
        "user namespaces do not work here: the limit user.max_user_namespaces is 0;"
        " raise it with: sysctl -w user.max_user_namespaces=15000"
    )


def error_on_changed_machine(user: TestUser, arrange: str, *arguments: str) -> str:
    """The error of a command on a machine that a shell command has changed."""
    done = user.changed_machine(arrange, *arguments)
    assert (done.returncode, done.stdout) == (125, ""), done
    assert done.stderr.count("\n") == 1, done
    return done.stderr.removeprefix("overlaykit: ").removesuffix("\n")


def test_error_texts_survive_python_without_docstrings(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-OO", "-m", "overlaykit", "umount", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 125
    assert ended.stderr == (
        f"overlaykit: {tmp_path}: no overlaykit mount is there: 'overlaykit ps' lists those that are\n"
    )


@only_as("ordinary user")
def test_help_of_a_command_names_its_own_options(user: TestUser) -> None:
    assert user.succeeds("help", "run") == user.succeeds("run", "--help")
    assert user.succeeds("help") == user.succeeds("--help")
    assert user.refused("help", "nonsense") == (
        "nonsense: no such command: 'overlaykit --help' lists them"
    )
    assert "no route out" in " ".join(user.succeeds("help", "run").split())
    assert user.succeeds("layer", "add", "--help").startswith(
        "usage: overlaykit layer add [-h] [--base LAYER] NAME SOURCE\n"
    )
