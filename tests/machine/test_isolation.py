"""What a machine's root reaches of the host: its layers, and published ports; and what two machines have apart."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator

import pytest

from overlaykit.layers import Store
from overlaykit.rmtree import rmtree_path

from ..ports import unused_port
from .run import Run

pytestmark = [pytest.mark.xdist_group("guests"), pytest.mark.long]

SECRET = b"of the host alone\n"
PROGRAMS = ("sh", "cat", "ls", "mkdir", "mount", "mknod")
LOOK = """
for path in /link /up /../../..$SECRET $SECRET /proc/1/root$SECRET /proc/self/cwd/../..$SECRET; do cat $path; done
mkdir /again
mount --bind / /again
ls -A /again
for path in link up ..$SECRET ../../..$SECRET proc/self/root$SECRET proc/1/root$SECRET; do cat /again/$path; done
ls -A /again/proc /again/sys /again/dev /again/run
mount -t virtiofs host /again || echo the share is mounted once
mknod /again/sda b 8 0; cat /again/sda
echo written >/new
"""
REACH = """
import socket, sys
for address in sys.argv[1:]:
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), 5)
        print("reached", address)
    except OSError:
        pass
print("done")
"""
SERVE = """
import socket, sys
listening = socket.socket()
listening.bind(("", 80))
listening.listen(1)
sys.stdout.write("up\\n")
sys.stdout.flush()
listening.accept()[0].sendall(("%d.%d" % sys.version_info[:2]).encode())
"""


@pytest.fixture
def layer(tmp_path: os.PathLike[str]) -> str:
    """A system with little more than a shell."""
    root = os.path.join(tmp_path, "layer")
    for name in ("usr/bin", "proc", "sys", "dev", "run", "tmp", "etc"):
        os.makedirs(os.path.join(root, name))
    os.symlink("usr/bin", os.path.join(root, "bin"))
    for program in PROGRAMS:
        path = shutil.which(program, path="/usr/bin:/bin")
        assert path is not None
        shutil.copy(path, os.path.join(root, "usr/bin"))
        needed = subprocess.run(["ldd", path], check=True, capture_output=True, text=True).stdout
        for library in (word for word in needed.split() if word.startswith("/")):
            os.makedirs(root + os.path.dirname(library), exist_ok=True)
            shutil.copy(library, root + library)
    return root


def test_root_of_a_machine_reaches_no_file_beyond_the_layers(
    kernel: str, layer: str, tmp_path: os.PathLike[str]
) -> None:
    secret = os.path.join(tmp_path, "secret")
    with open(secret, "wb") as file:
        file.write(SECRET)
    os.symlink(secret, os.path.join(layer, "link"))
    os.symlink("../../../../../../../.." + secret, os.path.join(layer, "up"))
    names = set(os.listdir(layer))
    _, output, _ = Run(
        *(kernel, "-l", layer, "-e", f"SECRET={secret}", "--", "/bin/sh", "-c", LOOK)
    ).end()
    assert SECRET not in output
    listed, *below = output.decode().split("/again/")
    assert set(listed.split()) == names | {"again"}
    # Of what is mounted in the view, procfs and devices among it, nothing is shared.
    said = "the share is mounted once"
    assert [text.strip() for text in below] == ["dev:", "proc:", "run:", f"sys:\n{said}"]
    assert set(os.listdir(layer)) == names


def test_a_machine_reaches_no_network(kernel: str) -> None:
    with socket.create_server(("0.0.0.0", 0)) as listening:
        port = listening.getsockname()[1]
        addresses = ["10.0.2.2", "10.0.2.3", "127.0.0.1", *_own_addresses()]
        reached = [f"{address}:{port}" for address in addresses] + ["10.0.2.3:53"]
        status, output, errors = Run(
            *(kernel, "-p", f"{unused_port()}:80", "--"),
            *("/usr/bin/python3", "-c", REACH, *reached),
        ).end()
        assert (status, output, errors) == (0, b"done\n", b"")


@pytest.fixture(scope="module")
def python2() -> Iterator[str]:
    """The files of Debian's Python 2.7, as the demo has them."""
    directory = os.path.join("/var/tmp", f"overlaykit-test-{os.getpid()}-python2")
    os.mkdir(directory)
    yield Store(directory).add("python2", "deb:python2.7@bullseye").path
    rmtree_path(directory)


def test_two_pythons_are_at_one_path_and_port_in_two_machines_at_once(
    kernel: str, python2: str, tmp_path: os.PathLike[str]
) -> None:
    answers = []
    for target, more in (("python2.7", ("-l", python2)), ("python3", ())):
        top = os.path.join(tmp_path, target)
        os.makedirs(os.path.join(top, "usr/bin"))
        os.symlink(target, os.path.join(top, "usr/bin/python"))
        answers.append((unused_port(), ("-l", top, *more, "-l", "host")))
    (one, first), (other, second) = answers
    command = ("--", "/usr/bin/python", "-c", SERVE)
    with (
        Run(kernel, "-p", f"{one}:80", *first, *command) as two,
        Run(kernel, "-p", f"{other}:80", *second, *command) as three,
    ):
        assert two.line() == three.line() == b"up\n"
        for port, answer in ((one, b"2.7"), (other, b"3.")):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                assert connection.recv(100).startswith(answer)
        assert two.end() == three.end() == (0, b"", b"")


def _own_addresses() -> list[str]:
    """The addresses of this machine that others reach."""
    found = subprocess.run(["hostname", "-I"], check=True, capture_output=True, text=True).stdout
    return [address for address in found.split() if ":" not in address]
