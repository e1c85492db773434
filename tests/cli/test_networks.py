"""`--network bridge` and `--network NAME`: views that reach one another, and with root other machines."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from overlaykit import _native
from overlaykit.namespace import bridge, nat
from overlaykit.views import Registry, View
from overlaykit.views.network_hosts import replaced
from overlaykit.views.networks import Membership, NetworkFull

from ..views.fixtures import only_as, only_with, with_both_drivers
from ..views.test_identities import FIRST, subordinate_ids
from ..views.user import AS_ORDINARY, TestUser, command

FETCH = """
import sys, urllib.request
for name in sys.argv[1:]:
    with urllib.request.urlopen(f"http://{name}/page", timeout=20) as answer:
        print(answer.read().decode())
"""
OUTSIDE = """
import socket, subprocess
print("ready", flush=True)
input()
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
subprocess.run(["ip", "addr", "add", "198.51.100.1/24", "dev", "outside"], check=True)
subprocess.run(["ip", "link", "set", "outside", "up"], check=True)
with socket.create_server(("198.51.100.1", 80)) as server:
    print("listening", flush=True)
    client, address = server.accept()
    print(address[0], flush=True)
"""

pytestmark = with_both_drivers


def leave_the_machine(user: TestUser) -> None:
    """Give a test of root a machine's network of its own, so that it and others do not meet.

    It forwards packets, also where the machine does not: a new network's settings are those of the first.
    """
    if user.is_root:
        _native.unshare(_native.CLONE_NEWNET)
        run("ip", "link", "set", "lo", "up")
        forward("1")


def run(*arguments: str) -> str:
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    return done.stdout


def interfaces() -> set[str]:
    """Those of this network namespace. The kernel removes interfaces of a dead namespace a moment later."""
    return {name for _, name in socket.if_nameindex()}


def wait_for_interfaces(expected: set[str]) -> None:
    while interfaces() != expected:
        pass


@contextlib.contextmanager
def serving(user: TestUser, name: str, network: str, *options: str) -> Iterator[None]:
    """A view whose web server on port 80 has a page with the view's name."""
    directory = user.directory(f"of-{name}", page=f"page of {name}")
    arguments = ("--name", name, "--rm", "--network", network, *options)
    server = ("python3", "-u", "-m", "http.server", "80", "--directory", "/srv")
    with user.start("run", *arguments, "-v", f"{directory}:/srv", "--", *server) as view:
        assert view.stdout is not None
        try:
            assert view.stdout.readline().startswith("Serving HTTP")
            yield
        finally:
            view.terminate()


def address_of(name: str) -> str:
    found = Registry().find(name).about.address
    assert found is not None
    return found


def test_two_views_serve_on_port_80_and_are_reached_by_name(user: TestUser) -> None:
    leave_the_machine(user)
    before = interfaces()
    with serving(user, "one", "backend"), serving(user, "two", "backend", "-p", "0:80"):
        fetch = ("python3", "-c", FETCH, "one", "two")
        pages = user.succeeds("run", "--net", "backend", "--", *fetch)
        assert pages.splitlines() == ["page of one", "page of two"]
        # One that was there first finds one that came later.
        assert user.succeeds("exec", "one", *fetch[:3], "two") == "page of two\n"
        port = int(Registry().find("two").about.ports[0].split(":")[1])
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /page HTTP/1.0\r\n\r\n")
            assert b"".join(iter(lambda: client.recv(65536), b"")).endswith(b"page of two")
    wait_for_interfaces(before)


def test_views_of_different_networks_do_not_reach_one_another(user: TestUser) -> None:
    leave_the_machine(user)
    with serving(user, "one", "backend"):
        address = address_of("one")
        connect = f"import socket; print(socket.socket().connect_ex(('{address}', 80)))"
        if not user.is_root:  # root's reach it over the host, as with podman
            found = user.succeeds("run", "--network", "other", "--", "python3", "-c", connect)
            assert int(found) != 0
        alone = ("run", "--network", "private", "--")
        assert int(user.succeeds(*alone, "python3", "-c", connect)) != 0
        assert "one" not in user.succeeds("run", "--network", "other", "cat", "/etc/hosts")


def test_views_that_start_at_once_have_different_addresses_and_find_all(user: TestUser) -> None:
    leave_the_machine(user)
    names = [f"view-{number}" for number in range(4)]
    views = [
        user.start("run", "--rm", "--name", name, "--network", "lan", "sh", "-c", "echo on; read _")
        for name in names
    ]
    for view in views:
        assert view.stdout is not None
        assert view.stdout.readline() == "on\n"
    assert len({address_of(name) for name in names}) == len(names)
    expected = {f"{address_of(name)} {name}" for name in names}
    for name in names:
        assert expected <= set(user.succeeds("exec", name, "cat", "/etc/hosts").splitlines())
    for view in views:
        view.communicate("\n")
        assert view.returncode == 0


def test_a_view_that_was_killed_leaves_no_interface_and_no_name(user: TestUser) -> None:
    leave_the_machine(user)
    before = interfaces()
    first = user.start(
        "run", "--rm", "--name", "first", "--network", "lan", "sh", "-c", "echo; read _"
    )
    assert first.stdout is not None
    first.stdout.readline()
    address = address_of("first")
    first.kill()
    first.communicate()
    wait_for_interfaces(before)
    hosts = user.succeeds("run", "--name", "next", "--rm", "--network", "lan", "cat", "/etc/hosts")
    assert f"{address} next\n" in hosts
    assert "first" not in hosts
    wait_for_interfaces(before)


def started(user: TestUser, name: str, network: str) -> subprocess.Popen[str]:
    """A view in a shared network whose command runs, until its input has a line."""
    command = ("sh", "-c", "echo; read _")
    view = user.start("run", "--rm", "--name", name, "--network", network, *command)
    assert view.stdout is not None
    view.stdout.readline()
    return view


def test_an_address_of_a_killed_view_is_given_while_others_stay(user: TestUser) -> None:
    leave_the_machine(user)
    with serving(user, "stays", "lan"):
        first = started(user, "a", "lan")
        address = address_of("a")
        stage = os.open(os.path.join(user.runtime, "a", "stage"), os.O_RDONLY)
        first.kill()
        fcntl.flock(stage, fcntl.LOCK_SH)  # its supervisor has ended
        os.close(stage)
        with serving(user, "b", "lan"):
            first.communicate()
            assert address_of("b") == address
            hosts = user.succeeds("exec", "stays", "cat", "/etc/hosts")
            assert f"{address} b\n" in hosts
            assert " a\n" not in hosts
            assert user.succeeds("exec", "stays", "python3", "-c", FETCH, "b") == "page of b\n"
    # Where b came before the last process of the killed view had ended, the next one removes the record.
    user.succeeds("run", "true")


def test_a_killed_view_leaves_no_name_with_the_others_and_its_address_free(user: TestUser) -> None:
    leave_the_machine(user)
    with serving(user, "stays", "lan"):
        first = started(user, "a", "lan")
        address = address_of("a")
        hosts = ("exec", "stays", "cat", "/etc/hosts")
        assert f"{address} a\n" in user.succeeds(*hosts)
        os.kill(Registry().find("a").about.supervisor, signal.SIGKILL)
        first.communicate()
        if user.driver == "fuse":  # else with the next member
            while " a\n" in user.succeeds(*hosts):
                pass
        with serving(user, "b", "lan"):
            assert address_of("b") == address
            assert " a\n" not in user.succeeds(*hosts)
            assert user.succeeds("exec", "stays", "python3", "-c", FETCH, "b") == "page of b\n"


def test_a_network_outlives_the_view_that_made_it(user: TestUser) -> None:
    leave_the_machine(user)
    maker = user.start(
        "run", "--rm", "--name", "maker", "--network", "lan", "sh", "-c", "echo; read _"
    )
    assert maker.stdout is not None
    maker.stdout.readline()
    with serving(user, "second", "lan"):
        maker.communicate("\n")
        if user.driver == "fuse":
            while " maker\n" in user.succeeds("exec", "second", "cat", "/etc/hosts"):
                pass
        with serving(user, "third", "lan"):
            assert user.succeeds("exec", "third", "python3", "-c", FETCH, "second") == (
                "page of second\n"
            )
            # The names of those that have ended go at the latest with the next member.
            assert " maker\n" not in user.succeeds("exec", "second", "cat", "/etc/hosts")


@only_as("root")
def test_a_bridge_reaches_other_machines_with_the_hosts_address(user: TestUser) -> None:
    leave_the_machine(user)
    connect = (
        "import socket; print(socket.create_connection(('198.51.100.1', 80), 20).getsockname()[0])"
    )
    with subprocess.Popen(
        ["unshare", "--net", sys.executable, "-c", OUTSIDE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as outside:
        assert outside.stdin is not None
        assert outside.stdout is not None
        assert outside.stdout.readline() == "ready\n"
        run("ip", "link", "add", "inside", "type", "veth", "peer", "name", "outside")
        run("ip", "link", "set", "outside", "netns", str(outside.pid))
        run("ip", "addr", "add", "198.51.100.2/24", "dev", "inside")
        run("ip", "link", "set", "inside", "up")
        outside.stdin.write("\n")
        outside.stdin.flush()
        assert outside.stdout.readline() == "listening\n"
        before = interfaces()
        forward("0")
        done = user.overlaykit("run", "--network", "bridge", "true")
        assert done.returncode == 0
        assert "set net.ipv4.ip_forward=1" in done.stderr
        forward("1")
        inside = user.succeeds("run", "--network", "bridge", "--", "python3", "-c", connect)
        assert inside.startswith("10.9")
        assert outside.stdout.readline() == "198.51.100.2\n"
    wait_for_interfaces(before - {"inside"})
    # The view's table has ended with it: there may be another of the name.
    subnet, _, number = inside.strip().rpartition(".")
    os.close(nat.masquerade(bridge.Place(subnet=subnet, number=int(number))))


def forward(value: str) -> None:
    with open(nat.FORWARDING, "w") as file:
        file.write(value)


@only_as("root")
def test_a_bridge_reaches_services_of_all_the_hosts_addresses_but_not_its_loopback(
    user: TestUser,
) -> None:
    leave_the_machine(user)
    connect = (
        "import socket, sys\n"
        "with open('/proc/net/route') as routes:\n"
        "    number = next(line.split()[2] for line in routes if line.split()[1] == '0' * 8)\n"
        "gateway = socket.inet_ntoa(int(number, 16).to_bytes(4, sys.byteorder))\n"
        "print(*(socket.socket().connect_ex((gateway, int(port))) for port in sys.argv[1:]))\n"
    )
    with (
        socket.create_server(("", 0)) as all_of_them,
        socket.create_server(("127.0.0.1", 0)) as own,
    ):
        ports = [str(server.getsockname()[1]) for server in (all_of_them, own)]
        options = ("--network", "bridge", "--", "python3", "-c", connect, *ports)
        done = user.overlaykit("run", *options)
    assert done.stdout == f"0 {errno.ECONNREFUSED}\n"


@only_as("root")
def test_without_nftables_a_note_says_what_is_missing(user: TestUser) -> None:
    """Another owner of the table's name stands for a kernel that refuses it."""
    leave_the_machine(user)
    where = user.succeeds("run", "--network", "lan", "hostname", "-I").strip()
    wait_for_interfaces({"lo"})
    subnet, _, number = where.rpartition(".")
    taken = nat.masquerade(bridge.Place(subnet=subnet, number=int(number)))
    done = user.overlaykit("run", "--network", "lan", "echo", "runs")
    os.close(taken)
    assert (done.returncode, done.stdout) == (0, "runs\n")
    assert done.stderr.count("\n") == 1
    assert "--network lan: reaches views and this machine alone: nftables" in done.stderr


@only_as("root")
def test_a_subnet_keeps_clear_of_the_machines_routes(user: TestUser) -> None:
    leave_the_machine(user)
    chosen = bridge.free_subnet("lan", ())
    run("ip", "link", "add", "other", "type", "bridge")
    run("ip", "link", "set", "other", "up")
    run("ip", "route", "add", f"{chosen}.128/25", "dev", "other", "table", "77")
    following = bridge.free_subnet("lan", ())
    assert following != chosen
    assert bridge.free_subnet("lan", {following}) not in (chosen, following)
    run("ip", "route", "add", "10.88.0.0/13", "dev", "other")
    assert bridge.free_subnet("lan", ()) in bridge.SUBNETS
    with serving(user, "one", "lan"):
        assert address_of("one").startswith(f"{bridge.free_subnet('lan', ())[:3]}")


@only_as("ordinary user")
def test_a_bridge_needs_root(user: TestUser) -> None:
    line = user.refused("run", "--network", "bridge", "true")
    assert line.startswith("--network bridge: needs root")
    assert "--network backend" in line


LIMITED = 'echo $1 >/proc/sys/user/$0 && shift && exec "$@"'


@only_as("ordinary user")
@only_with(driver="fuse")
def test_root_of_a_user_namespace_alone_shares_networks_but_not_with_the_host(
    user: TestUser,
) -> None:
    """Its capabilities do not hold over the machine's network."""
    inside = ["unshare", "--map-root-user", command(), "run", "--network"]
    shown = user.program([*inside, "lan", "cat", "/proc/net/route"]).splitlines()
    assert [route.split()[0] for route in shown] == ["Iface", "eth0"]
    done = subprocess.run([*inside, "bridge", "true"], capture_output=True, text=True, check=False)
    assert done.returncode == 125
    assert "--network bridge: needs root" in done.stderr
    # Its own machine's network is one that it may connect to.
    inside.insert(1, "--net")
    shown = user.program([*inside, "bridge", "cat", "/proc/net/route"]).splitlines()
    assert len(shown) == 3  # with a default route


@only_as("ordinary user")
@only_with(driver="fuse")
@pytest.mark.parametrize(
    ("limit", "count", "named"),
    [
        ("max_net_namespaces", 0, "--network lan: the kernel makes no more network namespaces"),
        ("max_net_namespaces", 1, "--network lan: the kernel makes no more network namespaces"),
    ],
)
def test_a_limit_of_the_kernel_is_named(user: TestUser, limit: str, count: int, named: str) -> None:
    inside = ["unshare", "--map-root-user", "sh", "-c", LIMITED, limit, str(count), command()]
    done = subprocess.run(
        [*inside, "run", "--network", "lan", "true"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 125
    assert named in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "no mode, and not the name of a network"),
        ("a/b", "no mode, and not the name of a network"),
        ("-x", "no mode, and not the name of a network"),
        ("a" * 64, "no mode, and not the name of a network"),
        ("container:web", "no mode, and not the name of a network"),
        ("Host", "write host"),
        ("BRIDGE", "write bridge"),
        ("slirp4netns", "a mode of other launchers"),
        ("privat", "did you mean private?"),
        ("outbounds", "did you mean outbound?"),
        ("bridgw", "did you mean bridge?"),
    ],
)
@only_with(driver="fuse")
def test_a_wrong_network_is_refused_in_one_line(user: TestUser, name: str, reason: str) -> None:
    line = user.refused("run", f"--network={name}", "true")
    assert reason in line
    assert "private, outbound, host, none, bridge" in line


@pytest.mark.parametrize(("beside", "left_out"), [("other", "other"), ("host", "host")])
@only_with(driver="fuse")
def test_a_view_in_two_networks_is_refused_in_one_line(
    user: TestUser, beside: str, left_out: str
) -> None:
    line = user.refused("run", "--net", "lan", "--net", beside, "true")
    assert line.startswith(f"--network lan --network {beside}: a view joins one network of a name")
    assert line.endswith(f"leave {left_out} out")


@only_with(driver="fuse")
def test_a_full_network_is_refused_and_others_are_not(
    user: TestUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_the_machine(user)
    assert len(bridge.HOSTS) == 253
    monkeypatch.setattr(bridge, "HOSTS", bridge.HOSTS[:20])  # each member looks at all others
    registry = Registry()
    with contextlib.ExitStack() as stack:
        stack.callback(registry.remove_if_empty)
        places = set()
        for number in range(len(bridge.HOSTS)):
            entry = stack.enter_context(contextlib.closing(registry.enter(f"v{number}")))
            member = stack.enter_context(contextlib.closing(Membership("lan", entry, registry)))
            member.release()
            places.add(member.address)
        assert len(places) == len(bridge.HOSTS)
        entry = stack.enter_context(contextlib.closing(registry.enter("last")))
        with pytest.raises(NetworkFull, match="--network lan: all of its 253 addresses"):
            Membership("lan", entry, registry)
        stack.enter_context(contextlib.closing(Membership("other", entry, registry)))


@only_with(driver="fuse")
def test_a_members_own_lines_in_its_hosts_stay(user: TestUser) -> None:
    leave_the_machine(user)
    given = user.write(user.path("hosts"), "127.0.0.1 mine\n")
    share = ("-v", f"{given}:/etc/hosts")
    wait = ("sh", "-c", "echo; read _")
    writes = user.start("run", "--rm", "--name", "writes", "--net", "lan", *wait)
    shares = user.start("run", "--rm", "--name", "shares", "--net", "lan", *share, "--", *wait)
    for view in writes, shares:
        assert view.stdout is not None
        view.stdout.readline()
    user.succeeds("exec", "writes", "sh", "-c", "printf '10.1.1.1 added' >>/etc/hosts")
    show = ("exec", "writes", "cat", "/etc/hosts")
    with serving(user, "late", "lan"):
        assert " late\n" in user.succeeds(*show)
    while " late\n" in (hosts := user.succeeds(*show)):
        pass
    assert hosts.startswith("127.0.0.1 localhost\n")
    assert hosts.endswith("\n10.1.1.1 added")
    assert user.succeeds("exec", "shares", "cat", "/etc/hosts") == "127.0.0.1 mine\n"
    for view in writes, shares:
        view.communicate("\n")
    with open(given) as file:
        assert file.read() == "127.0.0.1 mine\n"


def test_commands_of_a_view_share_its_place(user: TestUser) -> None:
    leave_the_machine(user)
    layers = [user.small_system()] if not user.has_host else ["host"]
    binds = ["/usr:/usr:ro"] if not user.has_host else []
    show = ["cat", "/sys/class/net/eth0/address"]
    with View(layers, network="lan", binds=binds, ports=["0:80"]) as view:
        found = [view.run(show, capture_output=True, text=True).stdout for _ in range(2)]
        assert found[0] == found[1]
        assert found[0].startswith("02:42:0a:")


@only_with(driver="fuse")
def test_views_in_a_view_share_a_network_of_their_own(user: TestUser) -> None:
    leave_the_machine(user)
    script = (
        f"{command()} run --rm --name inner --network lan -- sh -c 'echo on; read _' >out <fifo & "
        "exec 3>fifo; while ! grep -q on out; do :; done; "
        f"{command()} run --network lan cat /etc/hosts; echo >&3; wait"
    )
    hosts = user.succeeds("run", "-w", "/tmp", "--", "sh", "-c", f"mkfifo fifo; {script}")
    assert " inner\n" in hosts


@only_as("root")
@only_with(driver="fuse")
def test_an_ordinary_users_subordinate_ids_are_those_of_views_without_a_network(
    user: TestUser,
) -> None:
    with subordinate_ids(user):
        maps = [
            run(*AS_ORDINARY, command(), "run", *options, "cat", "/proc/self/uid_map").split()
            for options in ((), ("--network", "lan"))
        ]
    assert maps[0] == ["0", "1000", "1", "1", str(FIRST), "65536"]
    # Those of the network's user namespace, unchanged.
    assert maps[1] in (["0", "0", "1", "1", "1", "65536"], ["0", "0", "65537"])


def test_names_replace_those_of_the_same_network_alone() -> None:
    text = replaced(b"1.1.1.1 x", "lan", [("10.0.0.2", "a")])
    assert text == (
        b"1.1.1.1 x\n# overlaykit network lan: begin\n10.0.0.2 a\n# overlaykit network lan: end\n"
    )
    assert replaced(text + b"after", "lan", []) == (
        b"1.1.1.1 x\n# overlaykit network lan: begin\n# overlaykit network lan: end\nafter"
    )
    assert b"10.0.0.2 a" in replaced(text, "other", [])
