"""A view's host name: programs get an address for it; the host keeps its own."""

from __future__ import annotations

import errno
import os
import socket
from typing import Final

import pytest

from overlaykit.views import View

from ..views.fixtures import only_with, with_both_drivers
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


# ---- --hostname, --add-host, --dns -----------------------------------------------------------


def test_a_host_name_of_its_own_is_in_etc_hostname_and_has_an_address(user: TestUser) -> None:
    script = "hostname; cat /etc/hostname; getent hosts web.example"
    expected = ["web.example", "web.example", "127.0.0.1", "web.example"]
    for network in ("private",), ("none",), ("host",):
        run = ("run", "--network", *network, "--hostname", "web.example", "sh", "-c", script)
        found = user.succeeds(*run).split()
        assert found[:1] + found[-2:] == expected[:1] + expected[-2:]
        assert found[1:-2] in (["web.example"], [])  # the user's small system has no such file


@only_with(host=True)
def test_a_views_name_is_in_its_etc_hostname(user: TestUser) -> None:
    upper = user.directory("upper")
    run = ("run", "--rm", "--name", "some-view", "--upper", upper, "cat", "/etc/hostname")
    assert user.succeeds(*run) == "some-view\n"
    assert os.listdir(upper) == []


def test_added_hosts_come_before_those_of_the_layers(user: TestUser) -> None:
    layer = user.directory("layer", "etc", hosts="10.0.0.1 db\n10.0.0.2 cache\n")
    run = ("run", "-l", os.path.dirname(layer), "-l", "host")
    added = ("--add-host", "db:10.0.0.7", "--add-host", "six:[fd00::9]")
    found = user.succeeds(*run, *added, "--rm", "--name", "v", "cat", "/etc/hosts")
    assert found == "10.0.0.7 db\nfd00::9 six\n10.0.0.1 db\n10.0.0.2 cache\n127.0.0.1 v\n"
    found = user.succeeds(*run, "--network", "host", *added, "cat", "/etc/hosts")
    assert found == "10.0.0.7 db\nfd00::9 six\n10.0.0.1 db\n10.0.0.2 cache\n"


def test_added_hosts_do_not_enter_a_kept_upper(user: TestUser) -> None:
    upper = user.directory("upper")
    run = ("run", "--upper", upper, "--add-host", "db:10.0.0.7")
    given = user.write(user.path("given"), "127.0.0.1 localhost\n")
    user.succeeds(*run, "true")
    assert os.listdir(upper) == []
    user.succeeds("run", "--upper", upper, "cp", given, "/etc/hosts")
    user.succeeds(*run, "sh", "-c", "echo 10.0.0.8 cache >>/etc/hosts")
    with open(os.path.join(upper, "etc/hosts")) as file:
        assert file.read() == "127.0.0.1 localhost\n10.0.0.8 cache\n"


RESOLVER: Final = (
    "nameserver 192.0.2.53\nnameserver 2001:db8::53\nsearch a.example\noptions ndots:2\n"
)
DNS: Final = ("--dns", "192.0.2.53", "--dns", "2001:db8::53", "--dns-search", "a.example")


def test_name_servers_are_those_of_dns_and_not_written_into_the_upper(user: TestUser) -> None:
    upper = user.directory("upper")
    layer = user.directory("layer", "etc", **{"resolv.conf": "nameserver 192.0.2.1\n"})
    run = ("run", "--upper", upper, "-l", os.path.dirname(layer), "-l", "host")
    cat = ("cat", "/etc/resolv.conf")
    for network in "private", "none", "host":
        options = ("--network", network, *DNS, "--dns-option", "ndots:2")
        assert user.succeeds(*run, *options, *cat) == RESOLVER
    assert user.succeeds(*run, "--network", "host", *cat) == "nameserver 192.0.2.1\n"
    assert user.succeeds(*run, "--network", "private", *cat) == "nameserver 192.0.2.1\n"
    assert os.listdir(upper) == []


def test_a_dot_stands_for_no_search_domain(user: TestUser) -> None:
    run = ("run", "--dns", "192.0.2.53", "--dns-search", ".", "cat", "/etc/resolv.conf")
    assert "search" not in user.succeeds(*run)


def test_a_resolver_file_that_leads_nowhere_is_made_in_the_view(user: TestUser) -> None:
    upper = user.directory("upper")
    layer = user.directory("layer", "etc")
    os.symlink("../run/systemd/resolve/stub-resolv.conf", os.path.join(layer, "resolv.conf"))
    run = ("run", "-l", os.path.dirname(layer), "-l", "host", "--dns", "192.0.2.53")
    for root in (("--upper", upper), ("--read-only",)):
        found = user.succeeds(*run, *root, "cat", "/etc/resolv.conf")
        assert found.startswith("nameserver 192.0.2.53\n")
    assert os.listdir(upper) == []


@with_both_drivers
@pytest.mark.parametrize("killed", [False, True], ids=["ended", "killed"])
def test_a_kept_upper_gets_no_mountpoints_where_no_layer_has_the_files(
    user: TestUser, *, killed: bool
) -> None:
    layer, upper = user.small_system(), user.directory("upper")
    os.unlink(os.path.join(layer, "etc/hosts"))
    run = ("run", "--rm", "--name", "v", "-l", layer, "-v", "/usr:/usr:ro", "--upper", upper)
    script = "cd /etc; cat hosts hostname resolv.conf; echo; read _ || :"
    added = ("--dns", "192.0.2.53", "--add-host", "db:10.0.0.7")
    view = user.start(*run, *added, "--", "sh", "-c", script)
    assert view.stdout is not None
    shown = "".join(iter(view.stdout.readline, "\n"))
    assert shown.startswith("10.0.0.7 db\n127.0.0.1 localhost\n")
    assert shown.endswith("127.0.0.1 v\nv\nnameserver 192.0.2.53\n")
    if killed:
        view.kill()
    view.communicate("\n")
    # It waits for the end of the view, and removes what a killed one left.
    user.succeeds(*run, "--", "true")
    assert os.listdir(upper) == []
    assert sorted(os.listdir(os.path.join(layer, "etc"))) == ["group", "ld.so.cache", "passwd"]
    user.succeeds(*run, "--", "sh", "-c", "echo 10.0.0.8 cache >>/etc/hosts")
    with open(os.path.join(upper, "etc/hosts")) as file:
        assert file.read().endswith(" ip6-loopback\n10.0.0.8 cache\n")
    assert os.listdir(os.path.join(upper, "etc")) == ["hosts"]


def test_a_resolver_file_that_cannot_be_made_is_named(user: TestUser) -> None:
    layer = user.directory("layer")
    for name in "etc", "proc", "sys", "dev", "run":
        os.mkdir(os.path.join(layer, name))
    run = ("run", "--read-only", "-l", layer, "--dns", "192.0.2.53", "true")
    said = user.refused(*run)
    assert said.startswith("/etc/resolv.conf: cannot be made inside the view")


def test_a_started_view_has_its_names_again(user: TestUser) -> None:
    script = "hostname; grep -w db /etc/hosts; cat /etc/resolv.conf"  # getent(1) would ask the server, too
    run = ("run", "--name", "v", "--hostname", "h", "--add-host", "db:10.0.0.7", *DNS[:2])
    found = user.succeeds(*run, "sh", "-c", script)
    assert found.split()[:5] == ["h", "10.0.0.7", "db", "nameserver", "192.0.2.53"]
    assert user.succeeds("start", "-a", "v") == found
    user.succeeds("rm", "v")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--hostname", "-x"), "--hostname -x: give up to 64 letters"),
        (("--hostname", ""), "--hostname : give up to 64 letters"),
        (("--hostname", "a b"), "--hostname a b: give up to 64 letters"),
        (("--hostname", "x" * 65), f"--hostname {'x' * 65}: give up to 64 letters"),
        (("--hostname", "x", "--share", "uts"), "--hostname x: leave it out with --share uts"),
        (("--add-host", "db"), "--add-host db: give NAME:IP"),
        (("--add-host", ":10.0.0.7"), "--add-host :10.0.0.7: give NAME:IP"),
        (("--add-host", "db:ten"), "--add-host db:ten: give NAME:IP"),
        (("--add-host", "a b:10.0.0.7"), "--add-host a b:10.0.0.7: give NAME:IP"),
        (("--add-host", "db:host-gateway"), "--add-host db:host-gateway: give NAME:IP"),
        (("--dns", "dns.example"), "--dns dns.example: give the address of a name server"),
        (("--dns", ""), "--dns : give the address of a name server"),
        (("--dns-search", "a b"), "--dns-search a b: give one word"),
        (("--dns-option", ""), "--dns-option : give one word"),
    ],
)
def test_bad_names_are_refused_in_one_line(
    user: TestUser, options: tuple[str, ...], said: str
) -> None:
    # A value of an option that begins with a hyphen.
    joined = [f"{options[0]}={options[1]}", *options[2:]]
    assert user.refused("run", *joined, "true").startswith(said)
