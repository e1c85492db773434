"""Published ports: a client outside and a server in the view."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys

import pytest

from overlaykit import namespace

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


def test_a_port_that_nobody_serves_inside_resets_the_client(harness: LaunchHarness) -> None:
    with (
        harness.launch("sleep", "1000", ports=published()) as running,
        connect(running) as client,
        pytest.raises(ConnectionResetError),
    ):
        received(client)


def test_a_reset_from_inside_is_a_reset_outside(harness: LaunchHarness) -> None:
    with harness.piped() as printed, serve(harness, RESET) as running:
        assert line(printed) == b"listening\n"
        with connect(running) as client, pytest.raises(ConnectionResetError):
            received(client)


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
    with harness.launch("sleep", "1000", ports=published()) as running:
        port = running.ports[0]
    with harness.launch("true", ports=(namespace.Port(host=port.host, view=80),)) as running:
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
