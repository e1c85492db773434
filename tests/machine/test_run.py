"""`overlaykit run --vm`: what a command in a machine sees, and what its caller sees of it.

`make test` boots one guest here. `make test-all` and `make proofs` boot the others.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from overlaykit.machine import disk

from ..ports import unused_port
from .run import ENOUGH, Run, printed, proportional

pytestmark = pytest.mark.xdist_group("guests")

SCRIPT = """
cat; echo error >&2; echo again >/dev/stderr
id -u; id -G; pwd; echo $WORD; hostname; umask
df -B1 --output=size / | tail -1; nproc; uname -r
cat own; perl -e 'rename "dir", "moved" or die' && cat moved/deep
echo changed >file && cat file; rm old; ls
seq 100000; touch /tmp/done
while :; do sleep 0.1; done
"""
BESIDE = "cat; id -un; pwd; while ! [ -e /tmp/done ]; do sleep 0.1; done; exit 4"
CHANGES = """\
M  /of-a-machine/file  (4 -> 8 bytes)
R  /of-a-machine/dir/ -> /of-a-machine/moved/
D  /of-a-machine/old
"""


def test_a_command_in_a_machine_is_as_in_a_view(kernel: str, tmp_path: os.PathLike[str]) -> None:
    layer = os.path.join(tmp_path, "layer", "of-a-machine")
    os.makedirs(layer)
    for name in ("old", "kept", "file"):
        with open(os.path.join(layer, name), "w", encoding="ascii") as file:
            file.write(name)
            os.fchmod(file.fileno(), 0o666)
    with open(os.path.join(layer, "own"), "w", encoding="ascii") as file:
        file.write("private\n")
        os.fchmod(file.fileno(), 0o600)
        os.fchown(file.fileno(), 12, 34)
    os.mkdir(os.path.join(layer, "dir"))
    with open(os.path.join(layer, "dir", "deep"), "w", encoding="ascii") as file:
        file.write("moves along\n")
    os.chmod(layer, 0o777)
    name = f"machine-{os.urandom(4).hex()}"
    with (
        ThreadPoolExecutor(1) as pool,
        Run(
            *(kernel, "--disk", "50g", "-e", "WORD=a word", "-u", "12:34", "--hostname", "inside"),
            *("-l", os.path.dirname(layer), "-l", "host", "-w", "/of-a-machine"),
            *("--rm", "--name", name, "--", "sh", "-c", SCRIPT),
            umask=0o027,
        ) as machine,
    ):
        options = ("-i", "-u", "nobody", "-w", "/of-a-machine", name)
        ended = pool.submit(machine.end, b"given\n" * 20000)
        beside = machine.execute(b"given too\n", *options, "--", "sh", "-c", BESIDE)
        assert beside == (4, b"given too\nnobody\n/of-a-machine\n", b"")
        assert CHANGES in printed("diff", name)
        answer = f"answers   file       the disk of {name}:/of-a-machine/file\n"
        assert answer in printed("explain", name, "/of-a-machine/file")
        printed("kill", "-s", "USR1", name)
        status, output, errors = ended.result()
    assert (status, errors) == (128 + signal.SIGUSR1, b"error\nagain\n")
    given, _, rest = output.decode().partition("12\n")
    group, directory, word, host, umask, size, processors, release, *more = rest.splitlines()
    assert given == "given\n" * 20000
    assert (group, directory, word, host, umask) == (
        "34",
        "/of-a-machine",
        "a word",
        "inside",
        "0027",
    )
    assert 48 << 30 < int(size) <= 50 << 30
    assert (processors, release[:4]) == ("1", "6.1.")
    assert more[:3] == ["private", "moves along", "changed"]
    assert more[3:] == ["file", "kept", "moved", "own", *map(str, range(1, 100001))]
    assert sorted(os.listdir(layer)) == ["dir", "file", "kept", "old", "own"]


def test_a_disk_that_names_another_file_is_refused(tmp_path: os.PathLike[str]) -> None:
    """QEMU would show that file to the guest."""
    path = os.path.join(tmp_path, "disk")
    with open(path, "w+b") as file:
        disk.create(path, disk.LEAST, journal=False)
        assert disk.size_of(file.fileno(), path) == disk.LEAST
        os.pwrite(file.fileno(), (512).to_bytes(8, "big"), 8)
        with pytest.raises(disk.BadDisk, match="features"):
            disk.size_of(file.fileno(), path)


def test_an_empty_disk_takes_less_than_a_mebibyte(tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "disk")
    with open(path, "xb"):
        pass
    disk.create(path, 50 << 30, journal=False)
    assert os.stat(path).st_blocks * 512 < 1 << 20


def test_a_file_system_without_room_for_a_disk_is_seen(tmp_path: os.PathLike[str]) -> None:
    with open(os.path.join(tmp_path, "disk"), "xb") as file, open("/proc/version", "rb") as full:
        assert not disk.has_no_room(file.fileno())
        assert disk.has_no_room(full.fileno())


def test_a_disk_is_made_without_room_for_temporary_files(
    tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few file systems have files as large as a disk may be."""
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    path = os.path.join(tmp_path, "disk")
    with open(path, "xb"):
        pass
    disk.create(path, 1 << 40, journal=True)
    assert os.stat(path).st_blocks * 512 < 32 << 20


@pytest.mark.long
@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        (["no-such-command"], 127, "no-such-command: no such command in this view"),
        (["/etc/passwd"], 126, "/etc/passwd: cannot be executed in this view (Permission denied)"),
        (["sh", "-c", "exit 42"], 42, ""),
        (
            ["sh", "-c", "echo c >/proc/sysrq-trigger"],
            125,
            "the machine ended without a result: its kernel panicked: sysrq triggered crash",
        ),
    ],
)
def test_the_end_of_a_command_is_told(
    kernel: str, command: list[str], status: int, message: str
) -> None:
    ended, output, errors = Run(kernel, "--", *command).end()
    assert (ended, output) == (status, b"")
    assert errors.decode().startswith(f"overlaykit: {message}" if message else "")
    assert len(errors.splitlines()) == bool(message)


@pytest.mark.long
@pytest.mark.parametrize("program", ["virtiofsd", "qemu-system", "_supervisor"])
def test_a_killed_program_ends_the_machine_with_one_line(kernel: str, program: str) -> None:
    with Run(kernel, "--", "sh", "-c", "echo up; sleep 1000") as run:
        assert run.line() == b"up\n"
        ends = run.kill(program)
        status, _, errors = run.end()
        assert status == 125
        assert len(errors.splitlines()) == 1
        _await(ends)


@pytest.mark.long
def test_nothing_is_left_when_overlaykit_is_killed(kernel: str) -> None:
    with Run(kernel, "--", "sh", "-c", "echo up; sleep 1000") as run:
        assert run.line() == b"up\n"
        ends = [os.pidfd_open(one) for one in run.family()]
        run.process.kill()
        _await(ends)


@pytest.mark.long
def test_a_signal_reaches_the_command(kernel: str) -> None:
    script = 'trap "echo ended; exit 9" TERM; echo up; while :; do sleep 0.1; done'
    with Run(kernel, "--", "sh", "-c", script) as run:
        assert run.line() == b"up\n"
        run.process.terminate()
        assert run.end() == (9, b"ended\n", b"")


@pytest.mark.long
def test_a_machine_and_a_view_publish_the_same_port_at_once(kernel: str) -> None:
    server = (
        "import socket, sys\n"
        "listening = socket.create_server(('', 80))\n"
        "print('up', flush=True)\n"
        "listening.accept()[0].sendall(sys.argv[1].encode())\n"
    )
    port, other = unused_port(), unused_port()
    python = "/usr/bin/python3"
    view = subprocess.Popen(
        [
            *(sys.executable, "-m", "overlaykit", "run", "-p", f"{other}:80", "--"),
            *(python, "-c", server, "view"),
        ],
        stdout=subprocess.PIPE,
    )
    with view, Run(kernel, "-p", f"{port}:80", "--", python, "-c", server, "machine") as run:
        assert view.stdout is not None
        assert view.stdout.readline() == b"up\n"
        assert run.line() == b"up\n"
        for number, answer in ((port, b"machine"), (other, b"view")):
            with socket.create_connection(("127.0.0.1", number)) as connection:
                assert connection.recv(100) == answer
        assert run.end() == (0, b"", b"")
        assert view.wait(ENOUGH) == 0


@pytest.mark.long
def test_a_disk_file_keeps_what_was_written(kernel: str, tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "disk")
    first = ("--disk", "64m", "--disk-file", path, "--")
    assert Run(kernel, *first, "sh", "-c", "echo new >/etc/issue").end()[0] == 0
    kept = Run(kernel, "--disk-file", path, "--", "cat", "/etc/issue").end()
    assert kept == (0, b"new\n", b"")


@pytest.mark.long
def test_a_machine_takes_half_of_the_memory_that_it_has(loadable: str) -> None:
    with Run(loadable, "--", "sh", "-c", "echo up; sleep 1000") as run:
        assert run.line() == b"up\n"
        programs = [
            process
            for process, name in run.family().items()
            if "qemu-system" in name or "virtiofsd" in name
        ]
        assert len(programs) >= 2
        for program in programs:
            with open(f"/proc/{program}/limits", encoding="ascii") as file:
                limits = {line[:26].strip(): line[26:].split()[0] for line in file}
            assert limits["Max core file size"] == "0"
            # Of a disk of 8 GiB: its console, too, takes no more of the host's disk.
            assert 8 << 30 < int(limits["Max file size"]) < 9 << 30
        # The guest gives back within seconds what its kernel no longer needs.
        while sum(map(proportional, programs)) > 128 << 20:
            assert run.process.poll() is None


@pytest.mark.long
def test_an_ordinary_user_is_root_in_a_machine(ordinary: tuple[str, dict[str, Any]]) -> None:
    """On the files that the user may read; what it writes has owners of its own."""
    kernel, user = ordinary
    key = os.path.join(user["cwd"], ".ssh", "key")
    os.mkdir(os.path.dirname(key))
    with open(key, "w", encoding="ascii") as file:
        file.write("secret")
    os.chown(os.path.dirname(key), user["user"], user["group"])
    script = (
        f"echo up; id -u; cat /etc/shadow {key} 2>/dev/null; echo new >/etc/new; chown 12:34 /etc/new; "
        "stat -c %u:%g /etc/new; read word; echo $word"
    )
    with Run(kernel, "--", "sh", "-c", script, **user) as run:
        assert run.line() == b"up\n"
        assert {os.stat(f"/proc/{one}").st_uid for one in run.family()} == {user["user"]}
        assert run.end(b"given\n")[:2] == (0, b"0\n12:34\ngiven\n")
    assert not os.path.exists("/etc/new")


@pytest.mark.long
def test_a_full_disk_is_told(kernel: str) -> None:
    script = "dd if=/dev/zero of=/zeros bs=64k 2>/dev/null; exit 4"
    status, _, errors = Run(kernel, "--disk", "8m", "--", "sh", "-c", script).end()
    assert status == 4
    assert errors == b"overlaykit: the disk of the machine is full: give it a larger --disk\n"


@pytest.mark.long
def test_a_full_disk_of_the_host_is_told(kernel: str, tmp_path: os.PathLike[str]) -> None:
    small = os.path.join(tmp_path, "small")
    os.mkdir(small)
    script = "dd if=/dev/zero of=/zeros bs=64k count=1000 conv=fsync 2>/dev/null; exit 4"
    run = [
        *(sys.executable, "-m", "overlaykit", "run", "--vm", "--kernel", kernel),
        *("--disk", "200m", "--disk-file", f"{small}/disk", "--", "sh", "-c", script),
    ]
    full = f'mount -t tmpfs -o size=16m none {small} && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", full, "sh", *run],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    message = "the host's file system with the machine's disk is full: what it wrote may be lost"
    assert (done.returncode, done.stderr.decode()) == (4, f"overlaykit: {message}\n")


def _await(ends: list[int]) -> None:
    for end in ends:
        poller = select.poll()
        poller.register(end, select.POLLIN)
        assert poller.poll(ENOUGH * 1000)
        os.close(end)
