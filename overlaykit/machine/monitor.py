"""QEMU's monitor (QMP): ports of a guest that come and go with the commands that other callers run in it, and pauses.

Source: docs/interop/qemu-qmp-ref of QEMU: getfd, chardev-add, device_add, device_del, chardev-remove, stop, cont.
"""

from __future__ import annotations

import itertools
import json
import socket
from typing import TYPE_CHECKING, Any, Final

from overlaykit.errors import Error
from overlaykit.scope import suppress

if TYPE_CHECKING:
    from collections.abc import Sequence

_SECONDS: Final = 10.0
"""QEMU answers within milliseconds."""


class Refused(Error):
    message = "QEMU refuses {0} of the machine: {1}"


class Monitor:
    """One end of QEMU's socket. Requires: QEMU runs, or will."""

    def __init__(self, end: socket.socket) -> None:
        self._end: Final = end
        self._read = b""
        self._ready = False
        self._names: Final = itertools.count()
        self._ports: Final[dict[int, str]] = {}
        self._unused: Final[list[str]] = []
        """The sockets, by their names, of ports that are there, and of some that were."""

    def add(self, first: int, ends: Sequence[int]) -> None:
        """Connect sockets with new ports, from the number `first` on. Raises: Refused, OSError."""
        self._prepare()
        for number, end in enumerate(ends, first):
            name = f"port{next(self._names)}"
            self._ask("getfd", {"fdname": name}, end)
            backend = {"addr": {"type": "fd", "data": {"str": name}}, "server": False}
            self._ask("chardev-add", {"id": name, "backend": {"type": "socket", "data": backend}})
            self._unused.append(name)
            port = {"driver": "virtserialport", "bus": "serial.0", "id": name}
            self._ask("device_add", {**port, "nr": number, "chardev": name})
            self._ports[number] = name

    def remove(self, first: int, count: int) -> None:
        """Remove such ports, those of them that are there. Raises: OSError."""
        self._prepare()
        for number in range(first, first + count):
            if number in self._ports:
                with suppress(Refused):
                    self._ask("device_del", {"id": self._ports.pop(number)})
        # A port that has gone may use its socket for a moment: then a later call removes it.
        for name in [*self._unused]:
            if name not in self._ports.values():
                with suppress(Refused):
                    self._ask("chardev-remove", {"id": name})
                    self._unused.remove(name)

    def pause(self) -> None:
        """Have the guest stand still; what it has written to its disk is in the file. Raises: Refused, OSError."""
        self._prepare()
        self._ask("stop", {})

    def go_on(self) -> None:
        """End a pause. Raises: Refused, OSError."""
        self._prepare()
        self._ask("cont", {})

    def _prepare(self) -> None:
        if not self._ready:
            self._end.setblocking(True)
            self._end.settimeout(_SECONDS)
            self._answer()  # the greeting
            self._ask("qmp_capabilities", {})
            self._ready = True

    def _ask(self, command: str, arguments: dict[str, Any], descriptor: int = -1) -> None:
        line = json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"
        if descriptor < 0:
            self._end.sendall(line)
        else:
            socket.send_fds(self._end, [line], [descriptor])
        answer: dict[str, Any] = {}
        while not {"return", "error"} & answer.keys():
            answer = self._answer()
        if "error" in answer:
            raise Refused(command, str(answer["error"].get("desc"))[:200])

    def _answer(self) -> dict[str, Any]:
        while b"\n" not in self._read:
            read = self._end.recv(1 << 16)
            if not read:
                raise ConnectionResetError
            self._read += read
        line, _, self._read = self._read.partition(b"\n")
        answer = json.loads(line)
        return answer if isinstance(answer, dict) else {}
