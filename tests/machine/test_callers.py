"""Commands beside the first one of a machine, by the host's side: QEMU and the guest are the test."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import select
import socket
import tempfile
import threading
from collections.abc import Iterator

import pytest

from overlaykit.machine.monitor import Monitor, Refused
from overlaykit.machine.session import End, Failed, Session
from overlaykit.views import machine_callers as callers


class Qemu:
    """A monitor that refuses commands of the names `refused`. `asked`: what it was asked."""

    def __init__(self, *refused: str) -> None:
        self.asked: list[tuple[str, object]] = []
        ours, self.end = socket.socketpair()
        self._thread = threading.Thread(target=self._answer, args=(ours, refused))
        self._thread.start()

    def close(self) -> None:
        self.end.close()
        self._thread.join()

    def _answer(self, ours: socket.socket, refused: tuple[str, ...]) -> None:
        with ours, ours.makefile("r") as lines:
            ours.sendall(b'{"QMP": {}}\n')
            for line in lines:
                asked = json.loads(line)
                name = asked["execute"]
                self.asked.append((name, asked["arguments"].get("id")))
                answer = {"error": {"desc": "no"}} if name in refused else {"return": {}}
                event = {"event": "SOMETHING"}
                ours.sendall(f"{json.dumps(event)}\n{json.dumps(answer)}\n".encode())


@pytest.fixture
def qemu() -> Iterator[Qemu]:
    with contextlib.closing(Qemu()) as one:
        yield one


def test_ports_come_and_go_under_names_of_their_own(qemu: Qemu) -> None:
    monitor = Monitor(qemu.end)
    with open(os.devnull, "rb") as file:
        monitor.add(5, [file.fileno()] * 2)
    monitor.remove(5, 2)
    monitor.remove(5, 2)
    names = ["port0", "port1"]
    added = [(step, name) for name in names for step in ("getfd", "chardev-add", "device_add")]
    assert [name for name, _ in qemu.asked] == [
        "qmp_capabilities",
        *(step for step, _ in added),
        *("device_del", "device_del", "chardev-remove", "chardev-remove"),
    ]
    assert [one for name, one in qemu.asked if name == "chardev-remove"] == names


def test_a_socket_that_is_in_use_yet_is_removed_later() -> None:
    with contextlib.closing(Qemu("chardev-remove")) as qemu, open(os.devnull, "rb") as file:
        monitor = Monitor(qemu.end)
        monitor.add(5, [file.fileno()])
        monitor.remove(5, 1)
        monitor.remove(9, 1)
        assert [name for name, _ in qemu.asked].count("chardev-remove") == 2


def test_a_port_that_qemu_refuses_is_told() -> None:
    with (
        contextlib.closing(Qemu("device_add")) as qemu,
        open(os.devnull, "rb") as file,
        pytest.raises(Refused, match="no"),
    ):
        Monitor(qemu.end).add(5, [file.fileno()])
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours, pytest.raises(ConnectionError):
        Monitor(ours).remove(5, 1)


class Machine:
    """A process that relays. `told`: the lines to the guest."""

    def __init__(self, entry: pathlib.Path, monitor: Monitor) -> None:
        self.told: list[str] = []
        self.entry = str(entry)
        self.disk = tempfile.TemporaryFile()  # noqa: SIM115
        self.disk.write(b"of the machine")
        self.disk.flush()
        self.callers = callers.Callers(self.entry, monitor, self.told.append, self.disk.fileno())

    def close(self) -> None:
        self.callers.close()
        self.disk.close()

    def act(self) -> None:
        """Do what is due."""
        while True:
            poller = select.poll()
            for descriptor in self.callers.descriptors():
                poller.register(descriptor, select.POLLIN)
            ready = dict(poller.poll(0))
            if not ready:
                return
            self.callers.act(ready)


class Caller:
    """One that has asked for ports, or for the disk."""

    def __init__(self, machine: Machine, *, reads: bool = False) -> None:
        self.pairs = [socket.socketpair() for _ in range(4)]
        self.answer: list[object] = []
        self._reads = reads
        self._thread = threading.Thread(target=self._ask, args=(machine.entry,))
        self._thread.start()
        while not self.answer and self._thread.is_alive():
            machine.act()
        self._thread.join()

    def _ask(self, entry: str) -> None:
        try:
            if self._reads:
                self.answer += callers.paused(entry, "name")
            else:
                self.answer += callers.ports(entry, "name", [one for _, one in self.pairs])
        except callers.NoPorts as error:
            self.answer.append(str(error))

    @property
    def connection(self) -> socket.socket:
        assert isinstance(self.answer[0], socket.socket)
        return self.answer[0]

    def close(self) -> None:
        for one in (*self.pairs[0], *self.pairs[1], *self.pairs[2], *self.pairs[3]):
            one.close()
        if isinstance(self.answer[0], socket.socket):
            self.answer[0].close()


def test_as_many_callers_as_there_are_ports_get_some(tmp_path: pathlib.Path, qemu: Qemu) -> None:
    machine = Machine(tmp_path, Monitor(qemu.end))
    found = []
    for number in range(7):
        caller = Caller(machine)
        found.append(caller)
        if number < 6:
            assert caller.answer[1] == 5 + 4 * number
            caller.connection.send(callers.READY)
    assert found[6].answer == ["name: the machine takes no other command now: too many run already"]
    assert machine.told == [f"exec {number}" for number in range(5, 29, 4)]
    found[2].close()
    machine.act()
    again = Caller(machine)
    assert again.answer[1] == 13
    for caller in (*found[:2], *found[3:], again):
        caller.close()
    machine.act()
    machine.close()
    with pytest.raises(callers.NoPorts):
        callers.ports(machine.entry, "name", [])


def test_a_machine_stands_still_while_its_disk_is_read(tmp_path: pathlib.Path, qemu: Qemu) -> None:
    machine = Machine(tmp_path, Monitor(qemu.end))
    readers = [Caller(machine, reads=True) for _ in range(2)]
    for one in readers:
        disk = one.answer[1]
        assert isinstance(disk, int)
        with open(disk, "rb") as file:
            assert file.read() == b"of the machine"
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.write(disk, b"x")
    readers[0].close()
    machine.act()
    assert [name for name, _ in qemu.asked] == ["qmp_capabilities", "stop", "stop"]
    readers[1].close()
    machine.act()
    assert qemu.asked[-1] == ("cont", None)
    machine.close()


def test_a_machine_that_qemu_does_not_pause_is_not_read(tmp_path: pathlib.Path) -> None:
    with contextlib.closing(Qemu("stop")) as qemu:
        machine = Machine(tmp_path, Monitor(qemu.end))
        caller = Caller(machine, reads=True)
        assert "QEMU refuses stop of the machine: no" in str(caller.answer[0])
        caller.close()
        machine.close()


def test_who_sends_no_sockets_gets_no_ports(tmp_path: pathlib.Path) -> None:
    with contextlib.closing(Qemu("getfd")) as qemu:
        machine = Machine(tmp_path, Monitor(qemu.end))
        caller = Caller(machine)
        assert "QEMU refuses getfd" in str(caller.answer[0])
        caller.close()
        machine.act()
        stranger = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stranger.connect(str(tmp_path / "machine"))
        stranger.send(b"x")
        machine.act()
        assert stranger.recv(100) == b""
        stranger.close()
        machine.close()
        assert machine.told == []


def test_a_command_beside_the_first_one_ends_without_the_guest() -> None:
    said = []
    pairs = [socket.socketpair() for _ in range(4)]
    (out, _), (err, _), (control, guest), (given, _) = pairs
    shown: list[bytes] = []
    session = Session(
        *(out, err, control, given),
        sinks=(shown.append, shown.append),
        plan=b"the plan",
        on_hello=lambda: said.append("hello"),
    )
    session.without_input()
    session.resize(1, 2)
    guest.sendall(b"hello\nready\nexited 3 5 0\n")
    pairs[0][1].sendall(b"shown")
    reader, writer = os.pipe()
    session.run(reader, lambda: True, [], lambda: said.append("ready"))
    os.close(reader)
    os.close(writer)
    assert session.end == End(status=3)
    assert b"".join(shown) == b"shown"
    assert said == ["hello", "ready"]
    assert guest.recv(100).startswith(b"8\nthe plansize 1 2\n")
    for pair in pairs:
        for one in pair:
            one.close()


def test_a_command_beside_the_first_one_that_cannot_be_executed_is_told() -> None:
    pairs = [socket.socketpair() for _ in range(4)]
    out, err, control, given = (ours for ours, _ in pairs)
    session = Session(out, err, control, given, plan=b"")
    pairs[2][1].sendall(b"hello\nfailed 2 COMMAND no-such\n")
    reader, writer = os.pipe()
    session.run(reader, lambda: True, [], lambda: None)
    assert isinstance(session.end, Failed)
    for one in (reader, writer):
        os.close(one)
    for pair in pairs:
        for end in pair:
            end.close()
