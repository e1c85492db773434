"""`overlaykit run`: exit statuses and options."""

from __future__ import annotations

import os
import signal
import stat
import subprocess

import pytest

from ..ports import unused_port
from ..views.fixtures import in_all_variants, only_with, with_both_drivers
from ..views.user import TestUser, command

pytestmark = with_both_drivers


@in_all_variants
@pytest.mark.parametrize(
    ("script", "status"),
    [("true", 0), ("false", 1), ("exit 42", 42), ("kill -TERM $$", 143), ("kill -KILL $$", 137)],
)
def test_the_exit_status_is_the_commands(user: TestUser, script: str, status: int) -> None:
    done = user.overlaykit("run", "--", "sh", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


def test_a_missing_command_exits_127(user: TestUser) -> None:
    assert user.refused("run", "--", "no-such-command", status=127) == (
        "no-such-command: no such command in this view; name one that its PATH finds, or a path inside the view"
    )


@pytest.mark.parametrize("command", ["/etc/passwd", "/etc"])
def test_a_command_that_cannot_be_executed_exits_126(user: TestUser, command: str) -> None:
    line = user.refused("run", "--", command, status=126)
    assert line == (
        f"{command}: cannot be executed in this view (Permission denied);"
        " check its mode, its #! line and its architecture"
    )


@only_with(host=True)
def test_a_command_without_its_interpreter_exits_126(user: TestUser) -> None:
    script = user.write(user.path("script"), "#!/no/such/interpreter\n")
    os.chmod(script, 0o755)
    assert "its interpreter is missing" in user.refused("run", script, status=126)


def test_options_after_the_command_are_the_commands(user: TestUser) -> None:
    assert user.succeeds("run", "echo", "--name", "-p", "--", "x") == "--name -p -- x\n"
    assert user.succeeds("run", "--", "echo", "--", "-v") == "-- -v\n"


def test_a_command_that_begins_with_a_dash_needs_the_two_dashes(user: TestUser) -> None:
    assert user.refused("run", "--", "--help", status=127).startswith("--help: no such command")


def test_the_environment_is_the_callers_and_what_e_sets(user: TestUser) -> None:
    printed = user.succeeds(
        *("run", "-e", "NEW=a=b", "-e", "KNOWN=changed", "-e", "EMPTY=", "--", "env"),
        env=os.environ | {"KNOWN": "before", "KEPT": "kept"},
    )
    lines = printed.splitlines()
    assert {"NEW=a=b", "KNOWN=changed", "EMPTY=", "KEPT=kept"} <= set(lines)


@only_with(host=True)
def test_the_working_directory_is_the_callers_if_the_view_has_it(user: TestUser) -> None:
    assert user.succeeds("run", "pwd") == user.home + "\n"
    assert user.succeeds("run", "-w", "/usr", "pwd") == "/usr\n"
    assert user.succeeds("run", "--read-only", "pwd", cwd="/proc") == "/proc\n"


def test_a_directory_is_shared_with_v(user: TestUser) -> None:
    shared = user.directory("shared", file="from the host\n")
    target = user.path("not", "there", "yet")
    script = f"cat {target}/file; echo from the view >{target}/new; stat -c %U:%G {target}/new"
    printed = user.succeeds("run", "-v", f"{shared}:{target}", "--", "sh", "-c", script)
    assert printed == "from the host\nroot:root\n"
    with open(os.path.join(shared, "new")) as new:
        assert new.read() == "from the view\n"
    assert os.stat(os.path.join(shared, "new")).st_uid == os.geteuid()
    assert not os.path.exists(user.path("not"))


def test_a_read_only_bind_cannot_be_written_to(user: TestUser) -> None:
    shared = user.directory("shared", file="contents\n")
    bind = f"{shared}:/mnt:ro"
    done = user.overlaykit("run", "-v", bind, "--", "sh", "-c", "cat /mnt/file; echo >/mnt/file")
    assert done.stdout == "contents\n"
    assert "Read-only file system" in done.stderr


def test_a_single_file_is_shared_with_v(user: TestUser) -> None:
    hosts = user.write(user.path("hosts"), "127.0.0.1 view\n")
    assert (
        user.succeeds("run", "-v", f"{hosts}:/etc/hosts", "cat", "/etc/hosts") == "127.0.0.1 view\n"
    )


@only_with(host=True)
def test_changes_without_an_upper_are_dropped(user: TestUser) -> None:
    path = user.path("written")
    assert user.succeeds("run", "sh", "-c", f"echo x >{path}; cat {path}") == "x\n"
    assert not os.path.exists(path)


@only_with(host=True)
def test_changes_in_an_upper_are_kept_for_the_next_view(user: TestUser) -> None:
    upper = user.directory("upper")
    path = user.write(user.path("file"), "before\n")
    user.succeeds("run", "--upper", upper, "sh", "-c", f"echo after >{path}")
    assert user.succeeds("run", "--upper", upper, "cat", path) == "after\n"
    with open(path) as file:
        assert file.read() == "before\n"
    with open(upper + path) as file:
        assert file.read() == "after\n"


@only_with(host=True)
def test_a_read_only_view_refuses_to_write_with_erofs(user: TestUser) -> None:
    path = user.path("written")
    done = user.overlaykit("run", "--read-only", "--", "sh", "-c", f"echo x >{path}")
    assert "Read-only file system" in done.stderr
    script = (
        "import errno, os\n"
        f"for act in [lambda: os.mkdir('{path}'), lambda: os.utime('/etc/passwd'),"
        " lambda: os.rename('/etc/passwd', '/etc/p'), lambda: os.unlink('/etc/passwd')]:\n"
        "    try:\n"
        "        act()\n"
        "    except OSError as error:\n"
        "        assert error.errno == errno.EROFS, error\n"
        "    else:\n"
        "        raise SystemExit('it could')\n"
    )
    user.succeeds("run", "--read-only", "--", "/usr/bin/python3", "-c", script)


@only_with(host=True)
def test_the_layer_named_first_answers(user: TestUser) -> None:
    top = user.directory("top", one="top\n")
    bottom = user.directory("bottom", one="bottom\n", two="bottom\n")
    target = user.path("base")
    for name in "top", "bottom":
        os.makedirs(user.path(name) + target)
        os.rename(user.path(name, "one"), user.path(name) + target + "/one")
    os.rename(os.path.join(bottom, "two"), bottom + target + "/two")
    layers = ("-l", top, "-l", f"dir:{bottom}", "-l", "host")
    assert user.succeeds("run", *layers, "cat", f"{target}/one", f"{target}/two") == "top\nbottom\n"


def test_the_name_of_a_view_is_its_host_name(user: TestUser) -> None:
    assert user.succeeds("run", "--rm", "--name", "Some.view_1", "hostname") == "Some.view_1\n"


def test_a_view_without_a_network_has_only_a_loopback(user: TestUser) -> None:
    for network in "private", "none":
        printed = user.succeeds("run", "--network", network, "cat", "/proc/net/dev")
        assert [line.split(":")[0].strip() for line in printed.splitlines()[2:]] == ["lo"]


def test_a_view_with_the_hosts_network_has_its_interfaces(user: TestUser) -> None:
    with open("/proc/net/dev") as interfaces:
        names = [line.split(":")[0] for line in interfaces]
    printed = user.succeeds("run", "--network", "host", "cat", "/proc/net/dev")
    assert [line.split(":")[0] for line in printed.splitlines()] == [
        name.rstrip("\n") for name in names
    ]


@only_with(host=True)
def test_a_published_port_answers_on_the_hosts_loopback(user: TestUser) -> None:
    page = user.directory("site", **{"index.html": "hello\n"})
    script = (
        "import functools, http.server as h\n"
        f"handler = functools.partial(h.SimpleHTTPRequestHandler, directory='{page}')\n"
        "server = h.HTTPServer(('', 80), handler)\n"
        "print('listening', flush=True)\n"
        "server.handle_request()\n"
    )
    port = unused_port()
    arguments = ("run", "-p", f"{port}:80", "/usr/bin/python3", "-c", script)
    with user.start(*arguments, stderr=-1) as view:
        assert view.stdout is not None
        assert view.stdout.readline() == "listening\n"
        assert fetch(port).endswith(b"\r\n\r\nhello\n")
        assert view.wait() == 0


@in_all_variants
def test_a_signal_to_the_launcher_reaches_the_command(user: TestUser) -> None:
    script = "trap 'echo got it; exit 7' TERM; echo ready; while :; do sleep 1000 & wait; done"
    with user.start("run", "sh", "-c", script) as view:
        assert view.stdout is not None
        assert view.stdout.readline() == "ready\n"
        view.send_signal(signal.SIGTERM)
        assert view.stdout.readline() == "got it\n"
        assert view.wait() == 7


def test_standard_input_and_output_are_the_callers(user: TestUser) -> None:
    done = user.overlaykit("run", "tr", "a-z", "A-Z", stdin=None, input="piped through\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "PIPED THROUGH\n", "")


def test_a_command_inherits_no_descriptor_of_overlaykit(user: TestUser) -> None:
    assert user.succeeds("run", "sh", "-c", "ls /proc/$$/fd").split() == ["0", "1", "2"]


def test_the_views_root_shows_the_mode_of_the_hosts(user: TestUser) -> None:
    for upper in ((), ("--upper", user.directory("upper"))):
        mode = int(user.succeeds("run", *upper, "stat", "-c", "%f", "/"), 16)
        assert mode == os.stat("/").st_mode
        assert stat.S_ISDIR(mode)


def fetch(port: int) -> bytes:
    import socket

    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: client.recv(65536), b""))


def test_arguments_and_names_of_any_bytes_reach_the_command(user: TestUser) -> None:
    upper = user.directory("odd\udcfe")
    done = user.overlaykit(
        "run", "--upper", upper, "--", "printf", "a\udcffb", errors="surrogateescape"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "a\udcffb", "")


@only_with(host=True)
def test_a_caller_that_ignores_sigchld_can_run_a_command(user: TestUser) -> None:
    program = [
        "sh",
        "-c",
        "trap '' CHLD; exec \"$@\"",
        "sh",
        command(),
        "run",
        "sh",
        "-c",
        "(:); exit 3",
    ]
    assert subprocess.run(program, check=False).returncode == 3


def test_a_new_upper_is_named_because_it_may_be_a_slip(user: TestUser) -> None:
    upper = user.path("tyop")
    done = user.overlaykit("run", "--upper", upper, "true")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"overlaykit: --upper {upper}: made, because it did not exist\n"
    assert user.succeeds("run", "--upper", upper, "true") == ""


@only_with(driver="fuse", server=False)
def test_a_view_runs_with_the_procfs_of_another_pid_namespace(user: TestUser) -> None:
    unshare = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
    run = (command(), "run", "echo", "there")
    assert user.program([*unshare, "--pid", "--fork", *run]) == "there\n"


@in_all_variants
def test_nothing_is_left_of_a_view_that_is_all_of_a_container(user: TestUser) -> None:
    """The launcher is PID 1 there: its end would kill the daemon, which removes the entry and the changes."""
    before = user.leftovers()
    container = (
        "unshare",
        "--user",
        "--map-root-user",
        "--pid",
        "--fork",
        "--mount",
        "--mount-proc",
    )
    view = (command(), "run", "-l", user.small_system(), "-v", "/usr:/usr:ro", "--")
    written = "mkdir /many && cd /many && seq 300 | xargs touch"
    user.program([*container, *view, "sh", "-c", written])
    assert user.leftovers() == before
    done = subprocess.run([*container, *view, "sh", "-c", "exit 7"], check=False)
    assert done.returncode == 7
    assert user.leftovers() == before
