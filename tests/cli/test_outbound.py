"""`run --network outbound`, and the default: views reach the outside without privileges, not the host's loopback."""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from typing import Final

import pytest

from ..views.user import TestUser, command
from .terminals import Terminal
from .test_named import removed
from .uplink import GATEWAY, OUTSIDE, OWN, PORT, connected

PROGRAMS: Final = ("pasta", "slirp4netns")

PROBE: Final = f"""
import socket, sys, threading
def probe(address):
    try:
        with socket.create_connection((address, {PORT}), timeout=patience) as client:
            found[address] = client.recv(100).decode()
    except OSError:
        found[address] = "refused"
found = {{}}
patience, *addresses = int(sys.argv[1]), *sys.argv[2:]
threads = [threading.Thread(target=probe, args=(address,)) for address in addresses]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(*(found[address] for address in addresses))
"""
PYTHON: Final = ("/usr/bin/python3", "-c", PROBE, "30")
HASTY: Final = (*PYTHON[:-1], "1")
"""For addresses that nothing answers: what does answer does so in a millisecond."""
OUTBOUND: Final = ("run", "--network", "outbound")


@pytest.fixture(params=PROGRAMS)
def program(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def only(user: TestUser, *programs: str) -> str:
    """A PATH with these programs alone."""
    directory = user.directory("programs")
    for name in programs:
        path = shutil.which(name)
        assert path, name
        os.symlink(path, os.path.join(directory, name))
    return directory


def printed(user: TestUser, path: str | None, *arguments: str, nameserver: str = OUTSIDE) -> str:
    done = connected(user, *OUTBOUND, *arguments, path=path, nameserver=nameserver)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def test_an_outbound_view_reaches_a_server_outside(user: TestUser, program: str) -> None:
    path = only(user, program)
    assert printed(user, path, *PYTHON, OUTSIDE) == "reached\n"


LOOKS_OUTSIDE: Final = f"""
import socket
print(*[name for _, name in socket.if_nameindex()])
print(socket.gethostbyname("a.example"))
print(socket.create_connection(("{OUTSIDE}", {PORT}), 30).recv(100).decode())
socket.setdefaulttimeout(1)
print(*(socket.socket().connect_ex((at, {PORT})) > 0 for at in ("127.0.0.1", "10.94.0.2")))
"""


def test_a_view_reaches_the_outside_from_its_first_connection_on(
    user: TestUser, program: str
) -> None:
    """The program is started by the first packet, a question for a name, and by nothing before."""
    directory = only(user, program)
    real = shutil.which(program)
    made = user.path("started")
    os.unlink(os.path.join(directory, program))
    script = f'#!/bin/sh\necho >>{made}\nexec {real} "$@"\n'
    os.chmod(user.write(os.path.join(directory, program), script), 0o755)
    idle = connected(user, "run", "/usr/bin/true", path=directory)
    assert (idle.returncode, idle.stderr, os.path.exists(made)) == (0, "", False)
    done = connected(user, "run", "/usr/bin/python3", "-c", LOOKS_OUTSIDE, path=directory)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"lo eth0\n{OUTSIDE}\nreached\nTrue True\n"
    with open(made) as file:
        assert file.read() == "\n"


WHEEL: Final = "probe-1-py3-none-any.whl"
INDEX: Final = """
import functools, http.server, subprocess, sys, threading
class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_): pass
handler = functools.partial(Quiet, directory={directory!r})
server = http.server.ThreadingHTTPServer(({address!r}, 80), handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.exit(subprocess.call(sys.argv[1:]))
"""


@pytest.mark.long
def test_pip_installs_from_an_index_outside(user: TestUser, program: str) -> None:
    page = {"index.html": f"<a href={WHEEL}>probe</a>"}
    with zipfile.ZipFile(
        os.path.join(user.directory("simple", "probe", **page), WHEEL), "w"
    ) as made:
        made.writestr("probe.py", "print('installed')")
        about = "Metadata-Version: 2.1\nName: probe\nVersion: 1\n"
        made.writestr("probe-1.dist-info/METADATA", about)
        made.writestr("probe-1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        made.writestr("probe-1.dist-info/RECORD", "")
    options = "-q --disable-pip-version-check --target=/tmp/new --trusted-host=index.example"
    install = f"{sys.executable} -m pip install {options} -i http://index.example/simple probe"
    script = f"{install} && {sys.executable} /tmp/new/probe.py"
    client = INDEX.format(directory=user.scratch, address=OUTSIDE)
    done = connected(
        user, "run", "--", "/bin/sh", "-c", script, path=only(user, program), client=client
    )
    assert (done.stdout, done.stderr, done.returncode) == ("installed\n", "", 0)


MEMBERS: Final = """
import os, sys
from overlaykit.views import View
_, path, mode, serves, looks = sys.argv[1:]
os.environ["PATH"] = path
reader, writer = os.pipe()
with View(name="one", network="lan") as one, View(network=["lan", mode]) as view:
    server = one.launch(["/usr/bin/python3", "-c", serves], redirected={1: writer})
    os.read(reader, 1)
    for _ in range(2):
        view.run(["/usr/bin/python3", "-c", looks], check=True)
    server.close()
"""
SERVES: Final = (
    "import socket\n"
    "with socket.create_server(('', 80)) as server:\n"
    "    print(flush=True)\n"
    "    while True: server.accept()[0].sendall(b'member')\n"
)
LOOKS_AT_BOTH: Final = (
    f"{LOOKS_OUTSIDE}\nprint(socket.create_connection(('one', 80), 30).recv(100).decode())\n"
)


@pytest.mark.parametrize("mode", ["auto", "outbound"])
@pytest.mark.one_in(3)
def test_a_member_of_a_shared_network_reaches_the_outside_too(
    user: TestUser, program: str, mode: str
) -> None:
    """With auto, root's reaches it through the network."""
    path = only(user, program)
    for name in "ip", "newuidmap", "newgidmap":
        found = shutil.which(name)
        if found:
            os.symlink(found, os.path.join(path, name))
    if user.is_root and mode == "auto":
        names = ("/usr/bin/python3", "-c", "import socket; print(len(socket.if_nameindex()))")
        done = connected(user, "run", "--net", "lan", "--net", mode, *names, path=path)
        assert done.stdout == "2\n"
        return
    both = f"lo eth0 eth1\n{OUTSIDE}\nreached\nTrue True\nmember\n"
    done = connected(user, path, mode, SERVES, LOOKS_AT_BOTH, client=MEMBERS)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", 2 * both)


def test_a_view_without_a_way_says_so_if_a_command_fails_for_it(user: TestUser) -> None:
    connect = f"import socket; socket.create_connection(('{OUTSIDE}', {PORT}))"
    tries = f"try:\n    {connect}\nexcept OSError:\n    pass\n"
    said = "overlaykit: the view reached nothing outside: {}\n".format
    path = only(user)
    done = connected(user, "run", "/usr/bin/python3", "-c", connect, path=path)
    assert done.stderr.endswith(
        said(
            "neither pasta nor slirp4netns is installed; install the package passt or slirp4netns, or "
            "take --network host"
        )
    )
    for script in tries, "raise SystemExit(3)":
        done = connected(user, "run", "/usr/bin/python3", "-c", script, path=path)
        assert done.stderr == ""
    done = connected(user, "run", "/usr/bin/python3", "-c", connect, route=False)
    assert done.stderr.endswith(said("this machine has no default route (IPv4)"))


def test_an_outbound_view_does_not_reach_the_hosts_loopback(user: TestUser, program: str) -> None:
    addresses = ["127.0.0.1", "10.94.0.2", "10.94.0.3", "10.94.0.50", "10.0.2.2", "169.254.1.1"]
    addresses.append(GATEWAY)
    if program == "pasta":
        addresses.append(OWN)  # the view has the same
    for nameserver in OUTSIDE, "127.0.0.1":
        said = printed(user, only_once(user, program), *HASTY, *addresses, nameserver=nameserver)
        assert said.split() == ["refused"] * len(addresses)


def only_once(user: TestUser, program: str) -> str:
    path = user.path("programs")
    return path if os.path.isdir(path) else only(user, program)


NAME: Final = ("/usr/bin/python3", "-c", "import socket; print(socket.gethostbyname('a.example'))")


def test_an_outbound_view_asks_the_hosts_name_server(user: TestUser, program: str) -> None:
    assert printed(user, only(user, program), *NAME) == f"{OUTSIDE}\n"


def test_a_name_server_on_the_hosts_loopback_answers_through_pasta(user: TestUser) -> None:
    assert printed(user, None, *NAME, nameserver="127.0.0.1") == f"{OUTSIDE}\n"


def test_slirp4netns_leads_to_no_name_server_on_the_hosts_loopback(user: TestUser) -> None:
    path = only(user, "slirp4netns")
    cat = ("/usr/bin/cat", "/etc/resolv.conf")
    assert printed(user, path, *cat, nameserver="127.0.0.1") == ""
    assert printed(user, path, "--dns", OUTSIDE, *NAME, nameserver="127.0.0.1") == f"{OUTSIDE}\n"


def test_a_private_view_reaches_nothing_outside(user: TestUser) -> None:
    done = connected(user, "run", "--network", "private", *PYTHON, OUTSIDE, OWN)
    assert (done.stdout, done.stderr) == ("refused refused\n", "")


def test_an_outbound_view_publishes_ports(user: TestUser, program: str) -> None:
    path = only(user, program)
    script = (
        "import socket, sys\n"
        "server = socket.create_server(('127.0.0.1', 80))\n"
        "print('ready', flush=True)\n"
        "server.accept()[0].sendall(b'inside')\n"
    )
    client = (
        "import socket, subprocess, sys\n"
        "view = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)\n"
        "view.stdout.readline()\n"
        "print(socket.create_connection(('127.0.0.1', 8000)).recv(100).decode())\n"
        "sys.exit(view.wait())\n"
    )
    view = [*OUTBOUND, "-p", "8000:80", "/usr/bin/python3", "-c", script]
    done = connected(user, *view, path=path, client=client)
    assert (done.returncode, done.stdout, done.stderr) == (0, "inside\n", "")


def fifo_of_program(user: TestUser) -> str:
    """A FIFO whose first line ends the program that connects views from now on."""
    directory, path = user.directory("programs"), user.path("fifo")
    os.mkfifo(path)
    script = user.write(os.path.join(directory, "pasta"), f"#!/bin/sh\nread _ <{path} &\n")
    os.chmod(script, 0o755)
    os.environ["PATH"] = f"{directory}:{os.environ['PATH']}"
    return path


ENDED: Final = (
    "overlaykit: the view reaches nothing outside any more: its network program has ended"
)


def test_the_end_of_the_program_is_in_the_log_of_a_detached_view(user: TestUser) -> None:
    fifo = fifo_of_program(user)
    with removed(user, "v"):
        user.succeeds("run", "-d", "--name", "v", "--network", "outbound", "--", "sleep", "1000")
        user.write(fifo, "\n")
        while not (said := user.overlaykit("logs", "v").stderr):
            pass
        assert said == f"{ENDED}\n"
        user.succeeds("exec", "v", "true")


def test_the_end_of_the_program_is_a_line_of_the_terminal(user: TestUser) -> None:
    fifo = fifo_of_program(user)
    script = "echo ready; read _; exit 4"
    with Terminal(command(), "run", "-it", "--network", "outbound", "sh", "-c", script) as terminal:
        terminal.read_until("ready\r\n")
        user.write(fifo, "\n")
        terminal.read_until(f"{ENDED}\r\n")
        terminal.type("\n")
        assert terminal.finish() == 4


def line(user: TestUser, path: str | None = None, *, route: bool = True, arrange: str = "") -> str:
    done = connected(user, *OUTBOUND, "true", path=path, route=route, arrange=arrange)
    assert (done.returncode, done.stdout) == (125, ""), done
    assert done.stderr.count("\n") == 1, done
    return done.stderr


def test_a_missing_program_is_named_with_its_package(user: TestUser) -> None:
    said = line(user, only(user))
    assert "neither pasta nor slirp4netns" in said
    assert "install the package passt" in said


def test_a_device_that_cannot_be_opened_is_named(user: TestUser) -> None:
    said = line(user, arrange="mount -t tmpfs none /dev/net")
    assert "/dev/net/tun cannot be opened (No such file or directory)" in said


def test_a_program_that_fails_says_why_and_leaves_nothing(user: TestUser) -> None:
    directory = user.directory("programs")
    script = user.write(os.path.join(directory, "pasta"), "#!/bin/sh\necho no uplink; exit 1\n")
    os.chmod(script, 0o755)
    assert "pasta cannot connect the view (no uplink)" in line(user, directory)


def test_a_program_that_says_nothing_fails_in_one_line(user: TestUser) -> None:
    directory = user.directory("programs")
    os.symlink("/bin/false", os.path.join(directory, "pasta"))
    assert "pasta cannot connect the view (Operation canceled)" in line(user, directory)


def test_pasta_says_what_it_misses(user: TestUser) -> None:
    said = line(user, route=False)
    assert said.startswith("overlaykit: --network outbound: pasta cannot connect the view (")
