"""Published ports: a client outside and a server in the view."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import resource
import socket
import struct
import sys

import pytest

from overlaykit import namespace

from ..ports import unused_port
from ..processes import open_files
from .harness import LaunchHarness, line

SERVER = """
import socket
server = socket.create_server(("127.0.0.1", 80), backlog=64)
print("listening", flush=True)
"""
ECHO_AFTER_THE_END = (
    SERVER
    + """
while True:
    client = server.accept()[0]
    try:
        got = b"".join(iter(lambda: client.recv(65536), b""))
        client.sendall(got[::-1])
    except ConnectionResetError:
        pass
    client.close()
"""
)
SAY_AND_END = (
    SERVER
    + """
client = server.accept()[0]
client.sendall(bytes(1 << 20))
"""
)
RESET = (
    SERVER
    + """
import struct

client = server.accept()[0]
client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
client.close()
server.accept()
"""
)


ECHO_DATAGRAMS = """
import socket
server = socket.socket(family, socket.SOCK_DGRAM)
server.bind((address, 80))
print("listening", flush=True)
while True:
    data, client = server.recvfrom(65536)
    server.sendto(data[::-1], client)
"""


def published() -> tuple[namespace.Port, ...]:
    return (namespace.Port(host=0, view=80),)


def connect(running: namespace.Processes) -> socket.socket:
    return socket.create_connection((running.ports[0].address, running.ports[0].host))


def received(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(65536), b""))


def serve(harness: LaunchHarness, program: str) -> namespace.Processes:
    return harness.launch(sys.executable, "-u", "-c", program, ports=published())


def test_two_views_serve_port_80_at_the_same_time(harness: LaunchHarness) -> None:
    argv = (sys.executable, "-u", "-m", "http.server", "80", "--directory")
    pages = []
    for name in ("one", "two"):
        os.mkdir(f"{harness.scratch}/{name}")
        with open(f"{harness.scratch}/{name}/page", "w") as page:
            page.write(f"page of {name}")
    with harness.piped() as printed:
        one = harness.launch(*argv, f"{harness.scratch}/one", ports=published())
        assert line(printed).startswith(b"Serving HTTP")
        two = harness.launch(*argv, f"{harness.scratch}/two", ports=published())
        assert line(printed).startswith(b"Serving HTTP")
        with one, two:
            for running in (one, two):
                with connect(running) as client:
                    client.sendall(b"GET /page HTTP/1.0\r\n\r\n")
                    pages.append(received(client).rpartition(b"\r\n\r\n")[2])
    assert pages == [b"page of one", b"page of two"]


def test_four_mebibytes_pass_in_both_directions_and_half_a_connection_may_be_closed(
    harness: LaunchHarness,
) -> None:
    sent = os.urandom(4 << 20)
    with harness.piped() as printed, serve(harness, ECHO_AFTER_THE_END) as running:
        assert line(printed) == b"listening\n"
        with connect(running) as client:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            assert received(client) == sent[::-1]


def test_many_connections_are_open_at_once(harness: LaunchHarness) -> None:
    with harness.piped() as printed, serve(harness, ECHO_AFTER_THE_END) as running:
        assert line(printed) == b"listening\n"
        clients = [connect(running) for _ in range(50)]
        for number, client in enumerate(clients):
            client.sendall(b"%03d" % number)
            client.shutdown(socket.SHUT_WR)
        assert [received(client)[::-1] for client in clients] == [b"%03d" % n for n in range(50)]
        for client in clients:
            client.close()


def test_what_a_server_sent_before_it_ended_still_arrives(harness: LaunchHarness) -> None:
    with harness.piped() as printed, serve(harness, SAY_AND_END) as running:
        assert line(printed) == b"listening\n"
        with connect(running) as client:
            assert len(received(client)) == 1 << 20
        assert running.wait() == 0


def test_a_port_without_a_server_resets_the_client(harness: LaunchHarness) -> None:
    with (
        harness.launch("sleep", "1000", ports=published()) as running,
        pytest.raises(
            ConnectionResetError
        ),  # connect(2) fails if the reset comes before it returns
        connect(running) as client,
    ):
        received(client)


def test_a_reset_from_inside_is_a_reset_outside(harness: LaunchHarness) -> None:
    with harness.piped() as printed, serve(harness, RESET) as running:
        assert line(printed) == b"listening\n"
        with pytest.raises(ConnectionResetError), connect(running) as client:
            received(client)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("inside", ["127.0.0.1", "::1"])
def test_either_family_reaches_a_server_of_either(
    harness: LaunchHarness, address: str, inside: str
) -> None:
    family = "socket.AF_INET6" if ":" in inside else "socket.AF_INET"
    program = ECHO_AFTER_THE_END.replace('("127.0.0.1", 80)', f'("{inside}", 80), family={family}')
    ports = (namespace.Port(address=address, host=0, view=80),)
    with (
        harness.piped() as printed,
        harness.launch(sys.executable, "-u", "-c", program, ports=ports) as running,
    ):
        assert line(printed) == b"listening\n"
        with connect(running) as client:
            client.sendall(b"abc")
            client.shutdown(socket.SHUT_WR)
            assert received(client) == b"cba"


def test_a_thousand_connections_are_open_at_once(harness: LaunchHarness) -> None:
    program = SERVER.replace("backlog=64", "backlog=1000") + (
        "import resource\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))\n"
        "clients = [server.accept()[0] for _ in range(1000)]\n"
        "for client in clients: client.sendall(client.recv(100))\n"
        "for client in clients: client.recv(1)\n"
    )
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    try:
        with harness.piped() as printed, serve(harness, program) as running:
            assert line(printed) == b"listening\n"
            with contextlib.ExitStack() as opened:
                clients = [opened.enter_context(connect(running)) for _ in range(1000)]
                for number, client in enumerate(clients):
                    client.sendall(b"%d" % number)
                for number, client in enumerate(clients):
                    assert client.recv(100) == b"%d" % number
            assert running.wait() == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_reader_that_was_slow_gets_every_byte(harness: LaunchHarness) -> None:
    """The server fills every buffer on the way before the client reads."""
    program = SERVER + (
        "import hashlib, os, select\n"
        "client = server.accept()[0]\n"
        "data = os.urandom(64 << 20)\n"
        "client.sendall(hashlib.sha256(data).digest())\n"
        "client.setblocking(False)\n"
        "sent = 0\n"
        "while select.select([], [client], [], 1)[1]: sent += client.send(data[sent:])\n"
        "client.setblocking(True)\n"
        "print('full', flush=True)\n"
        "client.sendall(data[sent:])\n"
    )
    with harness.piped() as printed, serve(harness, program) as running:
        assert line(printed) == b"listening\n"
        with connect(running) as client:
            assert line(printed) == b"full\n"
            data = received(client)
    assert len(data) == 32 + (64 << 20)
    assert hashlib.sha256(data[32:]).digest() == data[:32]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_datagrams_find_their_way_to_the_server_and_back(
    harness: LaunchHarness, address: str
) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    program = f"import socket\nfamily, address = socket.{family.name}, {address!r}" + ECHO_DATAGRAMS
    ports = (namespace.Port(address=address, host=0, view=80, protocol="udp"),)
    with (
        harness.piped() as printed,
        harness.launch(sys.executable, "-u", "-c", program, ports=ports) as running,
    ):
        assert line(printed) == b"listening\n"
        clients = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(20)]
        for number, client in enumerate(clients):
            client.connect((address, running.ports[0].host))
            client.send(b"%02d" % number)
        for number, client in enumerate(clients):
            assert client.recv(100) == (b"%02d" % number)[::-1]
            client.close()


def test_a_datagram_sent_again_reaches_a_server_of_the_other_family(
    harness: LaunchHarness,
) -> None:
    program = "import socket\nfamily, address = socket.AF_INET6, '::1'" + ECHO_DATAGRAMS
    ports = (namespace.Port(host=0, view=80, protocol="udp"),)
    with (
        harness.piped() as printed,
        harness.launch(sys.executable, "-u", "-c", program, ports=ports) as running,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        assert line(printed) == b"listening\n"
        client.connect(("127.0.0.1", running.ports[0].host))
        client.settimeout(0.2)
        for _ in range(100):  # as clients of UDP do
            client.send(b"abc")
            try:
                answer = client.recv(100)
            except TimeoutError:
                continue
            break
        assert answer == b"cba"


def test_more_clients_than_the_limit_are_served_one_after_another(harness: LaunchHarness) -> None:
    program = "import socket\nfamily, address = socket.AF_INET, '127.0.0.1'" + ECHO_DATAGRAMS
    ports = (namespace.Port(host=0, view=80, protocol="udp"),)
    with (
        harness.piped() as printed,
        harness.launch(sys.executable, "-u", "-c", program, ports=ports) as running,
    ):
        assert line(printed) == b"listening\n"
        for number in range(1100):  # 1024 have a socket of their own
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.connect(("127.0.0.1", running.ports[0].host))
                client.send(b"%04d" % number)
                assert client.recv(100) == (b"%04d" % number)[::-1]
        sockets = [
            target for target in open_files(running.monitor_pid) if target.startswith("socket:")
        ]
        assert len(sockets) < 1100


def test_a_udp_port_in_use_is_one_line(harness: LaunchHarness) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        number = taken.getsockname()[1]
        with pytest.raises(namespace.PortInUse, match=rf"-p 127\.0\.0\.1:{number}:80/udp: "):
            harness.launch("true", ports=(namespace.Port(host=number, view=80, protocol="udp"),))


def test_a_client_that_resets_does_not_harm_the_next_one(harness: LaunchHarness) -> None:
    with harness.piped() as printed, serve(harness, ECHO_AFTER_THE_END) as running:
        assert line(printed) == b"listening\n"
        with connect(running) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(b"x" * 1000)
        with connect(running) as client:
            client.sendall(b"abc")
            client.shutdown(socket.SHUT_WR)
            assert received(client) == b"cba"


def test_a_port_is_free_again_when_its_view_has_ended(harness: LaunchHarness) -> None:
    ports = (namespace.Port(host=unused_port(), view=80),)
    with harness.launch("sleep", "1000", ports=ports):
        pass
    with harness.launch("true", ports=ports) as running:
        assert running.wait() == 0


def test_a_port_in_use_is_one_line_and_starts_nothing(harness: LaunchHarness) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(namespace.PortInUse) as caught:
            harness.launch("true", ports=(namespace.Port(host=number, view=80),))
    message = f"-p 127.0.0.1:{number}:80: port {number} of 127.0.0.1 is in use on this machine; "
    assert str(caught.value) == f"{message}publish another, or stop what listens there"


def test_a_privileged_port_names_the_sysctl_to_an_ordinary_user(harness: LaunchHarness) -> None:
    ports = (namespace.Port(host=1, view=80),)
    if harness.privileged:
        with harness.launch("true", ports=ports) as running:
            assert running.ports == ports
    else:
        with pytest.raises(namespace.PortPrivileged, match=r"from 1024 up.*ip_unprivileged_port"):
            harness.launch("true", ports=ports)


def test_an_address_of_another_machine_is_one_line(harness: LaunchHarness) -> None:
    ports = (namespace.Port(address="192.0.2.1", host=0, view=80),)
    with pytest.raises(
        namespace.AddressUnknown, match=r"192\.0\.2\.1 is no address of this machine"
    ):
        harness.launch("true", ports=ports)


@pytest.mark.parametrize("network", ["host", "none"])
def test_ports_without_a_private_network_are_refused(harness: LaunchHarness, network: str) -> None:
    with pytest.raises(namespace.PortsNeedPrivateNetwork, match=f"--network {network};"):
        harness.launch("true", ports=published(), network=network)


def test_a_view_cannot_reach_the_hosts_loopback(harness: LaunchHarness) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        program = f"import socket; print(socket.socket().connect_ex(('127.0.0.1', {number})))"
        assert int(harness.output(sys.executable, "-c", program)) == errno.ECONNREFUSED
