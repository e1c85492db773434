"""A program inside a guest, after native/guest_init.c: runs one command with the root of the guest.

    inside.py OUTPUT DIRECTORY COMMAND [ARGUMENT]...

What the command writes goes to the device OUTPUT. The result goes to standard output, as one line:

    exited STATUS            the command's exit status
    killed SIGNAL            the signal that ended it
    full                     before it: the file system of the root has no space left
    failed ERRNO STEP WORD   a step before the command failed

It needs the interpreter alone, and no other file of overlaykit.
"""

from __future__ import annotations

import fcntl
import functools
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from typing import BinaryIO, Final

_NOT_STARTED: Final = 127
_SPARE_BYTES: Final = 1 << 20
"""With less, the disk counts as full."""

_READ_BYTES: Final = 1 << 16

_SIOCSIFFLAGS: Final = 0x8914
"""linux/sockios.h"""
_IFF_UP: Final = 1

_CGROUPS: Final = "/sys/fs/cgroup/cgroup.subtree_control"
_CONTROLLERS: Final = ("cpuset", "cpu", "io", "memory", "pids")


def main(output: str, directory: str, *command: str) -> None:
    steps: tuple[tuple[str, str, Callable[[], object]], ...] = (
        ("write", _CGROUPS, _enable_controllers),
        ("link", "/dev/fd", _link_descriptors),
        *(
            ("mode", device, functools.partial(os.chmod, device, 0o666))
            for device in ("/dev/fuse", "/dev/net/tun")
        ),
        ("loopback", "", _raise_loopback),
        ("hostname", "guest", lambda: socket.sethostname("guest")),
        ("enter", directory, lambda: os.chdir(directory)),
        ("run", command[0], lambda: _run(output, command)),
    )
    for name, word, carry_out in steps:
        try:
            carry_out()
        except OSError as error:
            print("failed", error.errno, name, word)
            return


def _enable_controllers() -> None:
    with open(_CGROUPS, "w", encoding="ascii") as file:
        file.write(" ".join(f"+{one}" for one in _CONTROLLERS))


def _link_descriptors() -> None:
    os.symlink("/proc/self/fd", "/dev/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"/dev/{name}")


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))


def _run(path: str, command: Sequence[str]) -> None:
    with open(path, "wb") as output:
        result = _result(output, command)
    st = os.statvfs("/")
    if st.f_bavail * st.f_frsize < _SPARE_BYTES:
        print("full")
    print(result)


def _result(output: BinaryIO, command: Sequence[str]) -> str:
    """Run the command and return the line that tells its end.

    A virtio port can be opened once only, so the command writes into a pipe. Processes that outlive the command may
    hold the pipe: what the command wrote is read, then the guest ends.
    """
    out, into = os.pipe()
    os.set_blocking(out, False)
    try:
        process = os.posix_spawnp(
            command[0],
            list(command),
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, into, 1),
                (os.POSIX_SPAWN_DUP2, into, 2),
            ],
            setpgroup=0,
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which Python ignores
        )
    except OSError as error:
        output.write(f"{command[0]}: {error.strerror}\n".encode(errors="surrogateescape"))
        return f"exited {_NOT_STARTED}"
    os.close(into)
    end = os.pidfd_open(process)
    poller = select.poll()
    poller.register(out, select.POLLIN)
    poller.register(end, select.POLLIN)
    ended = closed = False
    while not ended:
        ended = end in dict(poller.poll())
        if not closed and _relay(out, output):
            closed = True
            poller.unregister(out)
    _, status = os.waitpid(process, 0)
    code = os.waitstatus_to_exitcode(status)
    return f"killed {-code}" if code < 0 else f"exited {code}"


def _relay(out: int, output: BinaryIO) -> bool:
    """Pass on what has come. Returns whether each holder of the pipe has closed it."""
    read = b""
    try:
        while read := os.read(out, _READ_BYTES):
            output.write(read)
    except BlockingIOError:
        return False
    finally:
        output.flush()
    return not read


if __name__ == "__main__":
    main(*sys.argv[1:])
