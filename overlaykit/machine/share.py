"""The host's files for a guest: virtiofsd, which serves one directory to one QEMU.

It ends when QEMU closes its connection, and is killed with this process. Source: virtiofsd(1).
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from overlaykit.errors import Error

_PLACES: Final = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")
"""Of Debian 12 (in C) and of Debian 13 (in Rust)."""


class NoVirtiofsd(Error):
    message = "virtiofsd is not here; install {0}"


class RootOnly(Error):
    message = "virtiofsd shares the host's files with a guest as root only; run this as root"


@contextmanager
def shared(directory: str, path: str, log: int) -> Iterator[None]:
    """Serve `directory` on the Unix socket `path`; messages go to the descriptor `log`.

    Raises NoVirtiofsd, RootOnly; OSError.
    """
    if os.geteuid() != 0:
        raise RootOnly
    program = next((place for place in _PLACES if os.path.exists(place)), None)
    if program is None:
        raise NoVirtiofsd("qemu-system-common (Debian 12) or virtiofsd (Debian 13)")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(1)
        number = listening.fileno()
        with subprocess.Popen(
            [*_dying("setpriv"), program, f"--fd={number}", *_options(program, directory)],
            pass_fds=[number],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        ) as process:
            try:
                yield
            finally:
                process.kill()


def _dying(setpriv: str) -> list[str]:
    return [shutil.which(setpriv) or setpriv, "--pdeathsig", "KILL"]


def _options(program: str, directory: str) -> list[str]:
    # The limit of descriptors stays: to raise it needs CAP_SYS_RESOURCE.
    if program == _PLACES[0]:
        options = ["--rlimit-nofile=0", "-o", f"source={directory}", "-o", "cache=always"]
        # The other sandbox refuses "/", which it cannot bind over itself and pivot to.
        return [*options, "-o", "sandbox=chroot"]
    return ["--rlimit-nofile=0", f"--shared-dir={directory}", "--cache=always", "--sandbox=chroot"]
