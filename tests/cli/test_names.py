"""A view's host name: programs get an address for it; the host keeps its own."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from overlaykit.views import View

from ..views.user import TestUser


def test_a_view_finds_the_address_of_its_own_name(user: TestUser) -> None:
    script = (
        "import socket\n"
        "name = socket.gethostname()\n"
        "server = socket.create_server((name, 0))\n"
        "socket.create_connection(('127.0.0.1', server.getsockname()[1]))\n"
        "print(name, socket.gethostbyname('localhost'))\n"
    )
    for options in (
        (),
        ("--read-only",),
        ("--upper", user.directory("upper")),
        ("--network", "none"),
    ):
        arguments = ("run", "--rm", "--name", "some-view", *options, "--")
        assert user.succeeds(*arguments, "hostname", "-f") == "some-view\n"
        printed = user.succeeds(*arguments, "/usr/bin/python3", "-c", script)
        assert printed == "some-view 127.0.0.1\n"


def test_a_kept_upper_holds_only_the_commands_changes(user: TestUser) -> None:
    upper = user.directory("upper")
    user.succeeds("run", "--upper", upper, "hostname", "-f")
    assert os.listdir(upper) == []
    bare = user.directory("layer", "etc")
    user.succeeds("run", "--upper", upper, "-l", os.path.dirname(bare), "-l", "host", "true")
    assert os.listdir(upper) == []


@pytest.mark.parametrize("lines", ["10.0.0.5 database\n", ""])
def test_host_names_in_a_kept_upper_remain_for_the_next_view(user: TestUser, lines: str) -> None:
    upper = user.directory("upper")
    hosts = user.write(user.path("given"), f"127.0.0.1 localhost\n{lines}# no end of line")
    run = ("run", "--upper", upper)
    user.succeeds(*run, "--rm", "--name", "first", "cp", hosts, "/etc/hosts")
    user.succeeds(*run, "--rm", "--name", "second", "sh", "-c", "echo 10.0.0.6 cache >>/etc/hosts")
    kept = os.path.join(upper, "etc/hosts")
    with open(kept) as file:
        assert file.read() == f"127.0.0.1 localhost\n{lines}# no end of line\n10.0.0.6 cache\n"
    printed = user.succeeds(*run, "--rm", "--name", "third", "getent", "hosts", "cache", "third")
    assert printed.split() == ["10.0.0.6", "cache", "127.0.0.1", "third"]


def test_a_hosts_file_cannot_be_replaced_by_rename(user: TestUser) -> None:
    program = (
        "import errno, os\n"
        "os.close(os.open('/etc/hosts.new', os.O_CREAT))\n"
        "try:\n"
        "    os.rename('/etc/hosts.new', '/etc/hosts')\n"
        "except OSError as error:\n"
        "    raise SystemExit(error.errno)\n"
    )
    done = user.overlaykit("run", "/usr/bin/python3", "-c", program)
    assert (done.returncode, done.stderr) == (errno.EBUSY, "")


def test_a_view_starts_if_etc_hosts_is_no_file(user: TestUser) -> None:
    layer = user.directory("layer")
    os.mkdir(f"{layer}/etc")
    os.mkfifo(f"{layer}/etc/hosts")
    assert user.succeeds("run", "-l", layer, "-l", "host", "hostname") != ""


def test_a_bound_hosts_file_is_left_unchanged(user: TestUser) -> None:
    hosts = user.write(user.path("hosts"), "10.0.0.5 database\n")
    printed = user.succeeds("run", "-v", f"{hosts}:/etc/hosts", "cat", "/etc/hosts")
    assert printed == "10.0.0.5 database\n"


def test_the_hosts_network_comes_with_the_hosts_name(user: TestUser) -> None:
    arguments = ("run", "--rm", "--name", "some-view", "--network", "host")
    assert user.succeeds(*arguments, "uname", "-n") == socket.gethostname() + "\n"
    with open("/etc/hosts") as file:
        assert user.succeeds(*arguments, "cat", "/etc/hosts") == file.read()


def test_host_names_that_a_command_adds_remain_for_the_next(user: TestUser) -> None:
    with View() as view:
        view.run(["sh", "-c", "echo 10.0.0.6 cache >>/etc/hosts"], check=True)
        found = view.run(["getent", "hosts", "cache", view.name], capture_output=True, text=True)
        assert found.stdout.split() == ["10.0.0.6", "cache", "127.0.0.1", view.name]
