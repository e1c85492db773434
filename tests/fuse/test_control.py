"""The control socket replies to valid requests, and invalid ones do not disturb it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket

import pytest

from overlaykit.fuse import control

from ..overlay.stack import Stack
from ..overlay.view import refused
from ..posix.table import File, Symlink
from .mounted import mounted


def test_explain_names_the_layer_and_the_real_file(stack: Stack) -> None:
    stack.add({"bin": Symlink("usr/bin")})
    lower = stack.add({"usr/bin/python": File(b"x")})
    with mounted(stack) as mount:
        explained = control.ask(mount.control_path, control.Explain("/bin/python"))
        assert isinstance(explained, control.Explained)
        assert explained.path == "/usr/bin/python"
        assert [(hit.path, hit.role) for hit in explained.hits] == [
            (os.path.join(lower, "usr/bin/python"), "answers")
        ]
        with open(mount.path("bin/python"), "wb"):
            pass
        explained = control.ask(mount.control_path, control.Explain("/bin/python"))
        assert isinstance(explained, control.Explained)
        assert [hit.role for hit in explained.hits] == ["answers", "shadowed"]


def test_a_missing_path_is_an_error_that_names_it(stack: Stack) -> None:
    stack.add({})
    with mounted(stack) as mount, refused(errno.ENOENT):
        control.ask(mount.control_path, control.Explain("/missing"))


@pytest.mark.parametrize("line", [b"", b"nonsense\n", b"{}\n", b'{"type":"count"', b"x" * 100_000])
def test_an_invalid_request_ends_its_own_connection_only(stack: Stack, line: bytes) -> None:
    stack.add({"f": File(b"x")})
    with mounted(stack) as mount:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(mount.control_path)
            connection.sendall(line)
            connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):  # too long: the rest was left unread
                assert connection.recv(100) == b""
        assert mount.counted().held["nodes"] == 1
        assert os.listdir(mount.target) == ["f"]


def test_a_silent_client_delays_no_other(stack: Stack) -> None:
    stack.add({})
    with mounted(stack) as mount, socket.socket(socket.AF_UNIX) as silent:
        silent.connect(mount.control_path)
        assert mount.counted().held["nodes"] == 1
        mount.unmount()
        assert silent.recv(1) == b""
