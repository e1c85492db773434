"""Descriptors of the caller: the command gets them as without a view, except those that lead out of the view."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys

import pytest

from overlaykit.views import View

from ..views.user import TestUser, command, read_to_end

LISTS = "ls -l /proc/$$/fd; true"  # of the shell, not of ls
SUBSETS = [(0,), (1,), (2,), (0, 1, 2)]


def parse_listing(listing: str) -> dict[int, str]:
    """The listing of `ls -l /proc/PID/fd`."""
    links = [line.split(" -> ") for line in listing.splitlines() if " -> " in line]
    return {int(link.split()[-1]): target for link, target in links}


@pytest.mark.parametrize("closed", SUBSETS)
def test_standard_descriptors_that_are_closed_are_closed_for_the_command(
    user: TestUser, closed: tuple[int, ...]
) -> None:
    report = user.write(user.path("report"), "")
    script = f"for n in 0 1 2; do test -e /proc/$$/fd/$n && echo $n; done >{report}; exit 7"
    redirections = " ".join(f"{number}>&-" for number in closed)
    line = f'exec "$@" {redirections}'
    program = ["sh", "-c", line, "sh", command(), "run", "-v", f"{report}:{report}"]
    # The shell redirects descriptor 1 during the loop.
    assert subprocess.run([*program, "sh", "-c", script], check=False).returncode == 7
    with open(report) as file:
        found = set(map(int, file.read().split()))
    assert found - {1} == {0, 1, 2} - set(closed) - {1}


@pytest.mark.parametrize("closed", SUBSETS)
def test_a_program_that_lacks_standard_descriptors_can_use_a_view(
    user: TestUser, closed: tuple[int, ...]
) -> None:
    program = (
        "import os\n"
        "from overlaykit import View\n"
        "before = os.listdir('/proc/self/fd')\n"
        "with View() as view:\n"
        "    status = view.run(['sh', '-c', 'exit 7']).returncode\n"
        "assert os.listdir('/proc/self/fd') == before\n"
        "os._exit(status)\n"
    )
    redirections = " ".join(f"{number}>&-" for number in closed)
    line = ["sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, "-c", program]
    assert subprocess.run(line, check=False).returncode == 7


def test_pipes_sockets_plain_files_and_terminals_are_passed_on(user: TestUser) -> None:
    plain = user.write(user.path("plain"), "")
    leader, follower = os.openpty()
    ours, theirs = socket.socketpair()
    reader, writer = os.pipe()
    counter = os.eventfd(0)
    file, null, memory = os.open(plain, os.O_RDONLY), os.open(os.devnull, os.O_RDWR), memfd()
    passed = {follower, theirs.fileno(), reader, counter, file, null, memory}
    with theirs, ours:
        listing = user.succeeds("run", "sh", "-c", LISTS, pass_fds=passed)
    for descriptor in (leader, follower, reader, writer, counter, file, null, memory):
        os.close(descriptor)
    assert set(parse_listing(listing)) == {0, 1, 2, *passed}


def test_more_descriptors_than_select_takes_are_passed_on(user: TestUser) -> None:
    program = (
        "import os, resource, sys\n"
        "_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))\n"
        "for _ in range(1100):\n"
        "    os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    listing = user.program(
        [sys.executable, "-c", program, command(), "run", "sh", "-c", "ls /proc/$$/fd"]
    )
    assert {3, 1102} <= set(map(int, listing.split()))


def memfd() -> int:
    return os.memfd_create("test")


def test_descriptors_that_lead_out_of_the_view_pass_only_by_number(user: TestUser) -> None:
    reader, writer = os.pipe()
    opened = {
        "directory": os.open("/usr", os.O_RDONLY),
        "path": os.open("/etc/passwd", os.O_PATH),
        "namespace": os.open("/proc/self/ns/net", os.O_RDONLY),
        "process": os.pidfd_open(os.getpid()),
        "device": os.open("/dev/fuse", os.O_RDWR),
        "pipe": reader,
    }
    numbers = set(opened.values())
    arguments = ("run", "sh", "-c", LISTS)
    by_default = parse_listing(user.succeeds(*arguments, pass_fds=numbers))
    assert set(by_default) == {0, 1, 2, opened["pipe"]}
    for name, number in opened.items():
        by_name = user.succeeds(
            "run", "--preserve-fd", str(number), *arguments[1:], pass_fds=numbers
        )
        assert set(parse_listing(by_name)) == {0, 1, 2, opened["pipe"], number}, name
    for descriptor in (*numbers, writer):
        os.close(descriptor)


def test_no_standard_descriptor_leads_out_of_the_view(user: TestUser) -> None:
    leading = {
        "directory": os.open("/usr", os.O_RDONLY),
        "path": os.open("/dev/null", os.O_PATH),
        "namespace": os.open("/proc/self/ns/net", os.O_RDONLY),
    }
    before = os.dup(0)
    with View() as view:
        for name, descriptor in leading.items():
            os.dup2(descriptor, 0)
            done = view.run(["sh", "-c", "test ! -e /proc/$$/fd/0"])
            assert done.returncode == 0, name
            os.close(descriptor)
        os.dup2(before, 0)
        os.close(before)
        with open("/dev/zero") as device:
            done = view.run(["head", "-c", "1"], stdin=device, capture_output=True)
        assert done.stdout == b"\0"


def test_a_number_of_descriptors_is_counted_from_3_on(user: TestUser) -> None:
    script = 'exec 3</usr 4</etc 5</bin; exec "$@"'
    shell = ["sh", "-c", script, "sh", command(), "run"]
    printed = user.program([*shell, "--preserve-fds", "2", "sh", "-c", LISTS])
    assert set(parse_listing(printed)) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        (("--preserve-fds", "99999999999"), "descriptor 3 is not open: have the shell open it"),
        (("--preserve-fd", "1000"), "descriptor 1000 is not open: have the shell open it"),
        (("--preserve-fd", "x"), "write a number of descriptors from 3 on (--preserve-fds 2)"),
        (("--preserve-fd", "2"), "write a number of descriptors from 3 on (--preserve-fds 2)"),
        (("--preserve-fds", "-1"), "write a number of descriptors from 3 on (--preserve-fds 2)"),
    ],
)
def test_closed_descriptors_are_reported_in_one_line(
    user: TestUser, option: tuple[str, str], complaint: str
) -> None:
    assert complaint in user.refused("run", *option, "true")


def test_process_substitution_works(user: TestUser) -> None:
    line = f"{command()} run -- cat <(echo from the shell)"
    assert user.program(["bash", "-c", line]) == "from the shell\n"


def test_make_in_a_view_uses_the_jobserver_of_its_caller(user: TestUser) -> None:
    makefile = user.write(
        user.path("Makefile"),
        "inside:\n\t+@$(OVERLAYKIT) run -- $(MAKE) -s -f $(MAKEFILE) all\n"
        "all: a b\n"
        # Each waits for the other: they end only if they run at once.
        "a:\n\t@echo a >b.fifo; read line <a.fifo\nb:\n\t@read line <b.fifo; echo b >a.fifo\n",
    )
    for name in ("a.fifo", "b.fifo"):
        os.mkfifo(user.path(name))
    variables = {"OVERLAYKIT": command(), "MAKEFILE": makefile}
    arguments = [f"{name}={value}" for name, value in variables.items()]
    printed = user.program(
        ["make", "-s", "-j2", "-f", makefile, *arguments, "inside"], cwd=user.scratch
    )
    assert "jobserver unavailable" not in printed


def test_sockets_of_systemd_reach_the_command(user: TestUser) -> None:
    script = (
        "import os, socket\n"
        "assert os.environ['LISTEN_PID'] == str(os.getpid())\n"
        "assert 'LISTEN_PIDFDID' not in os.environ\n"
        "print(socket.socket(fileno=3).getsockname()[1])\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        program = (
            "import os, sys\n"
            f"os.dup2({listener.fileno()}, 3)\n"
            "os.environ |= {'LISTEN_FDS': '1', 'LISTEN_PID': str(os.getpid()), 'LISTEN_PIDFDID': '7'}\n"
            "os.execv(sys.argv[1], sys.argv[1:])\n"
        )
        line = [sys.executable, "-c", program, command(), "run", "/usr/bin/python3", "-c", script]
        printed = user.program(line, pass_fds=[listener.fileno()])
        assert printed == f"{listener.getsockname()[1]}\n"


@pytest.mark.parametrize("ports", [(), ("-p", "0:80")])
def test_a_reader_sees_when_the_command_closes_its_output(
    user: TestUser, ports: tuple[str, ...]
) -> None:
    reader, writer = os.pipe()
    script = f"exec {writer}>&- >&-; read line"
    with user.start("run", *ports, "bash", "-c", script, pass_fds=[writer]) as view:
        os.close(writer)
        assert read_to_end(reader) == b""  # while the command is running
        assert view.stdout is not None
        assert view.stdout.read() == ""
        assert view.stdin is not None
        view.stdin.write("\n")
        view.stdin.close()
        assert view.wait() == 0
    os.close(reader)


def test_a_program_passes_descriptors_by_number(user: TestUser) -> None:
    reader, writer = os.pipe()
    other = os.open("/usr", os.O_RDONLY)
    os.set_inheritable(other, True)
    script = f"test ! -e /proc/$$/fd/{other} && echo passed >&{writer}"
    with View() as view:
        assert view.run(["bash", "-c", script], pass_fds=[writer]).returncode == 0
    assert not os.get_inheritable(writer)
    os.close(writer)
    os.close(other)
    assert read_to_end(reader) == b"passed\n"
    os.close(reader)


def test_more_descriptors_than_a_view_takes_are_refused_by_number(user: TestUser) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (5000, max(5000, limits[1])))
    null = os.open(os.devnull, os.O_RDONLY)
    passed = [os.dup(null) for _ in range(4200)]
    before = user.records()
    line = user.refused("run", "true", pass_fds=passed)
    assert (
        line == "4200 descriptors for the command are more than a view passes: close some of them"
    )
    assert user.records() == before
    os.closerange(null, passed[-1] + 1)
