"""What options put into a view beside its layers: --symlink, --bind-data, --bind, and the variables of -e KEY."""

from __future__ import annotations

import os

import pytest

from ..views.fixtures import with_both_drivers
from ..views.user import TestUser


@with_both_drivers
def test_links_and_files_are_in_the_view(user: TestUser) -> None:
    file = os.open(user.write(user.path("file"), "of a file\n"), os.O_RDONLY)
    reader, writer = os.pipe()
    os.write(writer, b"x" * 10000 + b"\n")
    os.close(writer)
    options = (
        *("--symlink", "/data/one", "/made/for/link"),
        *("--bind-data", str(reader), "/data/one"),
        *("--ro-bind-data", str(file), "/data/two"),
    )
    script = (
        "wc -c < /made/for/link; echo new > /data/one; cat /data/one /data/two; "
        "stat -c '%a %u' /data/two; (echo no > /data/two) 2>/dev/null || echo refused; "
        f"test -e /proc/self/fd/{reader} || echo closed"
    )
    printed = user.succeeds("run", *options, "--", "sh", "-c", script, pass_fds=(reader, file))
    assert printed.splitlines() == ["10001", "new", "of a file", "600 0", "refused", "closed"]
    os.close(reader)
    os.close(file)


@with_both_drivers
def test_directories_and_permissions_are_those_of_the_options_before(user: TestUser) -> None:
    file = os.open(user.write(user.path("file"), "of a file\n"), os.O_RDONLY)
    options = (
        *("--dir", "/made/plain", "--perms", "1711", "--dir", "/run/user/7", "--dir", "/usr"),
        *("--perms=0640", "--ro-bind-data", str(file), "/data"),
        *("--size", "1048576", "--perms", "0750", "--tmpfs", "/mnt/one", "--tmpfs", "/mnt/two"),
    )
    paths = ("/made", "/made/plain", "/run/user", "/run/user/7", "/usr", "/data", "/mnt/one")
    script = f"umask; stat -c %a {' '.join(paths)} /mnt/two; df -k --output=size /mnt/one"
    command = ("sh", "-c", f"umask 077; {script}")
    printed = user.succeeds("run", *options, "--", *command, pass_fds=(file,))
    modes = ["755", "755", "755", "1711", "755", "640", "750", "1777"]
    assert printed.split() == ["0077", *modes, "1K-blocks", "1024"]
    os.close(file)


def test_a_named_view_keeps_its_links(user: TestUser) -> None:
    try:
        for arguments in (
            ("run", "--name", "v", "--symlink", "a", "/tmp/in-l"),
            ("start", "-a", "v"),
        ):
            command = ("--", "readlink", "/tmp/in-l") if arguments[0] == "run" else ()
            assert user.succeeds(*arguments, *command) == "a\n"
    finally:
        user.overlaykit("rm", "-f", "v")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--symlink", "", "/x"), "--symlink: /x cannot be made in the view (No such file"),
        (("--symlink", "a", "/usr"), "--symlink: /usr cannot be made in the view (File exists)"),
        (("--read-only", "--symlink", "a", "/y"), "--symlink: /y cannot be made in the view (Read"),
        (("--symlink", "a", "y"), "--symlink: y: no place for it: give an absolute path"),
        (("--symlink", "a", "/proc/1/x"), "--symlink: /proc/1/x: no place for it"),
        (("--symlink", "a"), "run: argument --symlink: expected 2 arguments: see"),
        (("--bind-data", "77", "/x"), "--bind-data: descriptor 77 is not open"),
        (("--ro-bind-data", "x", "/x"), "run: --ro-bind-data x /x: give the number"),
        (("--dir", "a"), "--dir: a: no place for it: give an absolute path"),
        (("--dir", "/etc/passwd/x"), "/etc/passwd/x: the directory cannot be made in the view"),
        (("--perms", "0700", "--bind", "/a", "/b"), "run: --perms 0700: no --dir or --tmpfs"),
        (("--perms", "0800", "--dir", "/x"), "run: --perms 0800: give octal digits"),
        (("--size", "0", "--tmpfs", "/x"), "run: --size 0: give a number of bytes"),
        (("--size", "1", "--dir", "/x"), "run: --size 1: no --tmpfs follows"),
        (("--bind", "/a", "b"), "--bind /a b: the target 'b' is not absolute; give SRC"),
        (("--bind-try", "/a", "b"), "--bind-try /a b: the target 'b' is not absolute; give SRC"),
        (("--ro-bind", "/a", "/"), "--ro-bind /a /: the view's root itself cannot be covered"),
        (("-e", "=x"), "run: -e =x: give KEY=VALUE, or KEY for the caller's value"),
    ],
)
def test_what_cannot_be_put_there_is_named(
    user: TestUser, options: tuple[str, ...], said: str
) -> None:
    trailing = () if options == ("--symlink", "a") else ("--", "true")
    assert user.refused("run", *options, *trailing).startswith(said)


def test_a_directory_as_data_is_refused_in_one_line(user: TestUser) -> None:
    directory = os.open("/", os.O_RDONLY)
    line = user.refused(
        "run", "--bind-data", str(directory), "/x", "--", "true", pass_fds=(directory,)
    )
    assert line == "/x: cannot fill: Is a directory"
    os.close(directory)


def test_bubblewraps_binds_have_its_attributes_and_are_left_out_where_it_does_so(
    user: TestUser,
) -> None:
    shared = user.directory("shared", file="contents\n")
    options = (
        *("--bind", shared, "/mnt/a:b"),
        *("--ro-bind", shared, "/mnt/ro"),
        *("--dev-bind", shared, "/mnt/dev"),
        *("--ro-bind-try", shared, "/mnt/tried"),
        *("--bind-try", user.path("missing"), "/mnt/a"),
        *("--ro-bind-try", user.path("missing"), "/mnt/b"),
        *("--dev-bind-try", user.path("missing"), "/mnt/c"),
    )
    script = "cat /mnt/a:b/file; grep -o ' /mnt/[^ ]* [^ ]*' /proc/self/mountinfo"
    contents, *mounts = user.succeeds("run", *options, "--", "sh", "-c", script).splitlines()
    assert contents == "contents"
    attributes = {place: set(options.split(",")) for place, options in map(str.split, mounts)}
    assert set(attributes) == {"/mnt/a:b", "/mnt/ro", "/mnt/dev", "/mnt/tried"}
    assert attributes["/mnt/tried"] >= {"ro", "nosuid", "nodev"}
    assert attributes["/mnt/a:b"] >= {"rw", "nosuid", "nodev"}
    assert attributes["/mnt/ro"] >= {"ro", "nosuid", "nodev"}
    assert attributes["/mnt/dev"] >= {"rw", "nosuid"}


def test_variables_come_from_the_caller_by_name(
    user: TestUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ONE", "MY_A", "MY_B", "OTHER"):
        monkeypatch.setenv(name, name.lower())
    options = ("--clearenv", "-e", "ONE", "-e", "MISSING", "-e", "MY_*", "-e", "MY_B=given")
    printed = user.succeeds("run", *options, "--", "/usr/bin/env")
    assert sorted(printed.split()) == ["MY_A=my_a", "MY_B=given", "ONE=one"]
