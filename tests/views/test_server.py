"""The fork server: who is served, what a daemon takes over, and that no view depends on it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

import overlaykit
from overlaykit import View, _native, namespace, signals
from overlaykit.fuse import server_client
from overlaykit.procfs import children, descendants
from overlaykit.views import server

from ..patience import patience
from ..processes import open_files
from .fixtures import as_installed, only_as, only_with
from .serving import (
    connected,
    daemon_of,
    descriptors,
    directory,
    footprint,
    kill_server,
    memory,
    parent_of,
    running,
    start_loaded,
    switched_on,
    view,
    wait_for_daemons,
    wait_for_end,
)
from .user import ORDINARY, TestUser, command

# The tests switch it on themselves.
pytestmark = [as_installed, only_with(driver="fuse", server=False)]

GROWTH = 256
"""KiB: a few pages that are written for the first time."""


class Late(Exception):
    """A signal has arrived."""


def _raise_late(*_: object) -> None:
    raise Late


RUN = ("run", "--", "true")


def socket_directory(user: TestUser) -> str:
    return os.path.join(user.runtime, ".server")


def test_daemons_are_forked_by_one_server_and_commands_are_their_callers(user: TestUser) -> None:
    with switched_on():
        for number in range(3):
            with View(name=f"v{number}") as one:
                one.launch(["sleep", "1000"])
                found = running()
                assert parent_of(daemon_of(f"v{number}")) == found.pid
                assert found.served == number + 1
                assert found.alive == 1
                (command_of_view,) = (
                    process
                    for process in descendants(os.getpid())
                    if _command_line(process) == "sleep 1000 "
                )
                assert found.pid not in _ancestors(command_of_view)
                assert os.getpid() in _ancestors(command_of_view)
            assert one.processes is not None


def test_no_directory_for_dropped_changes_is_left_while_a_server_waits(user: TestUser) -> None:
    with switched_on():
        user.succeeds(*RUN)
        wait_for_daemons()
        assert not os.path.exists(user.temporary_uppers)
        with View(name="first"):
            assert os.path.exists(user.temporary_uppers)
        assert not os.path.exists(user.temporary_uppers)


def test_without_a_server_views_start_alike(user: TestUser) -> None:
    assert user.succeeds("run", "--", "echo", "x") == "x\n"
    assert server.status() is None
    assert not os.path.exists(socket_directory(user))


def test_what_is_written_is_kept_and_read_the_same_way_with_a_server(user: TestUser) -> None:
    lower = user.directory("lower", f="lower")
    upper = user.directory("upper")
    script = "cat f; echo more >> f; mkdir d; rm -r gone; exit 7"
    os.mkdir(os.path.join(lower, "gone"))
    with switched_on():
        for _ in range(2):
            done = user.overlaykit(
                "run",
                "-l",
                lower,
                "-l",
                "host",
                "--upper",
                upper,
                "-w",
                "/",
                "--",
                "sh",
                "-c",
                script,
            )
            assert (done.returncode, done.stderr) in ((7, ""), (7, done.stderr))
        assert running().served == 2
    assert user.program(["cat", os.path.join(upper, "f")]) == "lowermore\nmore\n"


def test_a_view_reports_the_errors_of_its_files_with_a_server(user: TestUser) -> None:
    with switched_on():
        user.succeeds(*RUN)
        upper = user.directory("upper")
        with View(upper=upper, name="first") as first:
            first.launch(["sleep", "1000"])
            line = user.refused("run", "--upper", upper, "--", "true")
        assert line.startswith(f"upper {upper} is in use by view first")
        assert running().served == 3


def test_two_first_views_at_once_are_both_served(user: TestUser) -> None:
    with switched_on():
        views = [user.start(*RUN, stderr=subprocess.PIPE) for _ in range(4)]
        for one in views:
            _, errors = one.communicate()
            assert (one.returncode, errors) == (0, "")
        servers = [p for p in children(os.getpid()) if "server_main" in _command_line(p)]
        assert servers == [running().pid]


def _is_executed(server: int) -> bool:
    with open(f"/proc/{server}/cmdline", "rb") as file:
        return b"server_main" in file.read()


def start_while_the_server_loads(user: TestUser) -> tuple[list[subprocess.Popen[str]], int]:
    """Six first views, which all wait for the server. Returns: them, and the server, which is stopped."""
    views = [user.start(*RUN, stderr=subprocess.PIPE)]
    # The view waits until the child has executed the server.
    while (loading := user.server()) is None or not _is_executed(loading):
        assert views[0].poll() is None
    os.kill(loading, signal.SIGSTOP)
    assert not os.path.exists(os.path.join(directory(), server_client.SOCKET))
    views += [user.start(*RUN, stderr=subprocess.PIPE) for _ in range(5)]
    # They register themselves after they have asked for a daemon.
    while len(os.listdir(user.runtime)) < 1 + len(views):
        assert all(one.poll() is None for one in views)
    return views, loading


def all_get_through(views: list[subprocess.Popen[str]]) -> None:
    for one in views:
        _, errors = one.communicate()
        assert (one.returncode, errors) == (0, "")


def test_several_first_views_start_one_server_and_are_served_by_it(user: TestUser) -> None:
    with switched_on():
        views, loading = start_while_the_server_loads(user)
        os.kill(loading, signal.SIGCONT)
        all_get_through(views)
        assert (running().pid, running().served) == (loading, 6)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.one_in(2)
def test_several_first_views_start_though_the_server_dies_while_it_loads(
    user: TestUser, number: int
) -> None:
    with switched_on():
        views, loading = start_while_the_server_loads(user)
        os.kill(loading, number)
        os.kill(loading, signal.SIGCONT)
        all_get_through(views)
        user.wait_for_descendants()
        user.succeeds(*RUN)
        assert running().served == 1


def test_several_first_views_start_though_the_server_does_not_go_on(user: TestUser) -> None:
    with switched_on():
        views, loading = start_while_the_server_loads(user)
        all_get_through(views)
        os.kill(loading, signal.SIGCONT)
        while server.status() is None:
            assert user.server() == loading
        assert running().served == 0


def test_a_daemon_has_the_limits_and_priorities_of_its_caller(user: TestUser) -> None:
    with switched_on():
        user.succeeds(*RUN)
        with (
            view(
                user, "changed", "nice", "-n", "7", "taskset", "1", "prlimit", "--core=0:0"
            ) as daemon,
            view(user, "plain") as other,
        ):
            assert {parent_of(daemon), parent_of(other)} == {running().pid}
            own = os.getpriority(os.PRIO_PROCESS, 0)
            assert os.getpriority(os.PRIO_PROCESS, daemon) == min(19, own + 7)
            assert os.sched_getaffinity(daemon) == {0}
            assert resource.prlimit(daemon, resource.RLIMIT_CORE) == (0, 0)
            assert os.getpriority(os.PRIO_PROCESS, other) == own
            assert os.sched_getaffinity(other) == os.sched_getaffinity(0)
            assert resource.prlimit(other, resource.RLIMIT_CORE)[1] == _hard(resource.RLIMIT_CORE)
            assert os.getsid(daemon) == daemon


@only_as("ordinary user")
def test_limits_that_a_server_may_not_take_over_are_refused(user: TestUser) -> None:
    """A server with the lower limits of the view that started it gives way to one that serves both."""
    limited = ("prlimit", "--core=0:0")
    with switched_on():
        user.program([*limited, command(), *RUN])
        first = running().pid
        with view(user, "unlimited") as daemon:
            assert parent_of(daemon) != first
            assert resource.prlimit(daemon, resource.RLIMIT_CORE)[1] == _hard(resource.RLIMIT_CORE)
        wait_for_end(first)
        user.succeeds(*RUN)
        with view(user, "both", *limited) as daemon, view(user, "unlimited") as other:
            assert {parent_of(daemon), parent_of(other)} == {running().pid}
            assert resource.prlimit(daemon, resource.RLIMIT_CORE) == (0, 0)


def test_a_daemon_has_the_environment_of_its_caller(user: TestUser) -> None:
    log = user.log
    user.expects_log = True
    with switched_on():
        user.succeeds(*RUN)
        user.succeeds(*RUN, env={**os.environ, "OVERLAYKIT_DEBUG": "1"})
        user.succeeds(*RUN)
        assert running().served == 3
    with open(log) as file:
        processes = {line.split()[2] for line in file}
    assert len(processes) == 1


def test_the_server_has_a_filter_and_so_have_its_daemons(user: TestUser) -> None:
    """Where the user has subordinate ids, its daemons execute newuidmap: no filter then."""
    filtered = user.is_root or namespace.available().writer != "helpers"
    with switched_on():
        user.succeeds(*RUN)
        with view(user, "one") as daemon:
            for process, filters in ((running().pid, 2 * filtered), (daemon, 2 + 2 * filtered)):
                with open(f"/proc/{process}/status") as file:
                    status = dict(line.split(":", 1) for line in file)
                assert int(status["Seccomp_filters"]) == filters
                assert int(status["NoNewPrivs"]) == (filters > 0)


def test_nothing_of_its_callers_stays_open_in_the_server(user: TestUser) -> None:
    """A reader of the view's output sees the end, and a disk can be unmounted."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    with switched_on():
        user.succeeds("run", "--preserve-fd", str(writer), "--", "true", close_fds=False)
        os.close(writer)
        assert os.read(reader, 1) == b""
        os.close(reader)
        user.succeeds(*RUN, cwd=user.directory("elsewhere"))
        pid = running().pid
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        opened = open_files(pid)  # without the connection that has asked for its pid
        assert opened.count("/dev/null") == 3
        # The last is held by the map of .ci/coverage/record.py.
        others = (
            "socket:",
            "anon_inode:",
            "/memfd:overlaykit-image",
            "/var/tmp/overlaykit-coverage-",
        )
        rest = [path for path in opened if not path.startswith(others)]
        assert sorted(rest) == ["/dev/null"] * 3 + [socket_directory(user)]


# Who is served.


@only_as("root")
@pytest.mark.parametrize(
    "prefix",
    [
        ("setpriv", "--clear-groups"),
        ("setpriv", "--no-new-privs"),
        ("setpriv", "--bounding-set=-sys_time"),
        ("setpriv", "--inh-caps=+chown"),
        ("unshare", "--mount"),
        ("unshare", "--uts"),
        ("unshare", "--net"),
        ("chroot", "elsewhere"),
        ("setarch", "--addr-no-randomize"),
    ],
    ids=" ".join,
)
def test_root_of_other_privileges_namespaces_or_directory_starts_without_the_server(
    user: TestUser, prefix: tuple[str, ...]
) -> None:
    os.setgroups([ORDINARY])
    if prefix[0] == "chroot":
        prefix = ("chroot", _other_root(user))
    with switched_on():
        user.succeeds(*RUN)
        served = running().served
        done = subprocess.run(
            [*prefix, command(), *RUN], capture_output=True, text=True, check=False
        )
        # In a chroot a view may be impossible: it says so.
        assert prefix[0] == "chroot" or (done.returncode, done.stderr) == (0, "")
        assert running().served == served
        user.succeeds(*RUN)
        assert running().served == served + 1
    if prefix[0] == "chroot":
        _native.umount2(prefix[1], _native.MNT_DETACH)


@only_as("ordinary user")
@pytest.mark.parametrize(
    "prefix",
    [
        ("setpriv", "--no-new-privs"),
        ("unshare", "--user", "--map-current-user", "--mount"),
        ("setarch", "--addr-no-randomize"),
    ],
    ids=" ".join,
)
def test_a_user_of_other_privileges_or_namespaces_starts_without_the_server(
    user: TestUser, prefix: tuple[str, ...]
) -> None:
    with switched_on():
        user.succeeds(*RUN)
        served = running().served
        done = subprocess.run(
            [*prefix, command(), *RUN], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert running().served == served


@only_as("root")
def test_a_client_with_a_seccomp_filter_is_not_served(user: TestUser) -> None:
    with switched_on():
        user.succeeds(*RUN)
        served = running().served

        def ask_filtered() -> str:
            _filter_nothing()
            return _ask_for_a_daemon()

        assert _in_child(ask_filtered) == "unequal: is_confined"
        assert running().served == served


def test_a_view_in_a_view_does_not_reach_the_server(user: TestUser) -> None:
    with switched_on():
        user.succeeds(*RUN)
        inner = ("sh", "-c", f"{command()} run -- echo inner; ls -a {user.runtime}")
        done = user.overlaykit("run", "--", *inner, env={**os.environ, server.VARIABLE: "0"})
        assert "inner" in done.stdout
        assert running().served == 2


@only_as("root")
def test_a_socket_of_another_user_is_not_used(user: TestUser) -> None:
    with switched_on():
        user.succeeds(*RUN)
        pid = running().pid
        elsewhere = user.directory("elsewhere")
        os.chown(elsewhere, ORDINARY, ORDINARY)
        os.chmod(user.scratch, 0o755)
        with _listener_of_another_user(os.path.join(elsewhere, "socket")) as connections:
            taken = os.path.join(socket_directory(user), "socket")
            os.rename(taken, taken + ".away")
            os.symlink(os.path.join(elsewhere, "socket"), taken)
            with view(user, "one") as daemon:
                assert parent_of(daemon) != pid
            assert server.status() is None
            os.rename(taken + ".away", taken)
            assert connections() == ""
        assert running().pid == pid


@only_as("root")
def test_a_directory_of_another_user_is_not_used(user: TestUser) -> None:
    with switched_on():
        user.succeeds(*RUN)
        pid = running().pid
        os.chown(socket_directory(user), ORDINARY, ORDINARY)
        with view(user, "one") as daemon:
            assert parent_of(daemon) != pid
        os.chown(socket_directory(user), 0, 0)
        os.chmod(socket_directory(user), 0o777)
        with view(user, "one") as daemon:
            assert parent_of(daemon) != pid
        os.chmod(socket_directory(user), 0o700)


def test_edited_code_is_noticed_and_the_server_replaced(user: TestUser) -> None:
    copy = user.path("copy", "overlaykit")
    shutil.copytree(overlaykit.__path__[0], copy)
    program = (sys.executable, "-P", "-m", "overlaykit", *RUN)
    with switched_on():
        os.environ["PYTHONPATH"] = user.path("copy")
        user.program([*program])
        first = running().pid
        user.program([*program])
        assert running().pid == first
        with open(os.path.join(copy, "fuse", "session.py"), "a") as file:
            file.write("\n# edited\n")
        user.program([*program])
        wait_for_end(first)
        assert server.status() is None
        user.program([*program])
        second = running()
        assert second.pid != first
        assert second.served == 1
        # A file that a daemon does not load does not matter.
        with open(os.path.join(copy, "cli", "bench.py"), "a") as file:
            file.write("\n# edited\n")
        user.program([*program])
        assert running().pid == second.pid
        del os.environ["PYTHONPATH"]


def test_a_server_of_another_version_is_replaced(
    user: TestUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    with switched_on():
        with View(name="running") as one:
            first = running().pid
            monkeypatch.setattr(overlaykit, "__version__", "0.0")
            with View(name="other") as other:
                other.run(["true"])
                assert parent_of(daemon_process(other)) == os.getpid()
            assert server.status() is None
            one.run(["true"], check=True)
        wait_for_end(first)
        monkeypatch.undo()
        os.environ[server.VARIABLE] = "1000"
        user.succeeds(*RUN)
        assert running().pid != first


@contextlib.contextmanager
def served_and_then_with(user: TestUser, variable: str) -> Iterator[int]:
    """The daemon of a view that has one variable more than the view that started the server."""
    name, _, value = variable.partition("=")
    user.succeeds(*RUN)
    with view(user, "odd", env={**os.environ, name: value}) as daemon:
        yield daemon


@pytest.mark.parametrize(
    "variable",
    [
        "PYTHONMALLOC=malloc",
        "PYTHONPATH=/nothing",
        "PYTHONOPTIMIZE=1",
        "PYTHONUTF8=1",
        "LD_LIBRARY_PATH=/",
        "GLIBC_TUNABLES=",
        "MALLOC_ARENA_MAX=1",
        "OVERLAYKIT_FAULT=copyup.data:1000000",
    ],
)
@pytest.mark.one_in(4)
def test_variables_that_act_on_loading_start_a_daemon_without_the_server(
    user: TestUser, variable: str
) -> None:
    with switched_on(), served_and_then_with(user, variable) as daemon:
        assert parent_of(daemon) != running().pid


@pytest.mark.parametrize(
    "variable",
    [
        "PYTHONDONTWRITEBYTECODE=1",
        "PYTHONHASHSEED=7",
        "PYTHONUNBUFFERED=1",
        "PYTHONSTARTUP=/nothing",
        "OVERLAYKIT_OF_A_USER=1",
        "LC_ALL=C",
        "TZ=UTC",
    ],
)
@pytest.mark.one_in(4)
def test_variables_that_change_nothing_in_a_daemon_do_not_keep_it_from_the_server(
    user: TestUser, variable: str
) -> None:
    with switched_on():
        with served_and_then_with(user, variable) as daemon:
            assert parent_of(daemon) == running().pid
        assert running().served == 2


def test_a_client_that_encodes_paths_otherwise_is_refused(user: TestUser) -> None:
    """Its daemon would remove other paths than those that it was given."""
    with switched_on():
        user.succeeds(*RUN)
        with connected() as connection:
            given = (b"start", b"user", server_client.identity(), b"iso8859-1")
            connection.send(b"\0".join(given))
            assert connection.recv(1000) == b"refused\0environment"


def test_requests_that_are_no_requests_do_not_end_the_server(user: TestUser) -> None:
    with switched_on():
        user.succeeds(*RUN)
        before = running()
        for message in (
            b"",
            b"\0",
            b"start",
            b"start\0user",
            b"\xff\0\xff",
            os.urandom(9999),
        ):
            with connected() as connection:
                connection.send(message)
        with connected(), connected() as connection:
            connection.sendmsg([b"status\0"], [_rights(0)])
            user.succeeds(*RUN)
        identity = server_client.identity()
        with connected() as connection:
            connection.send(b"start\0nothing\0" + identity + b"\0" + server_client.encoding())
            assert connection.recv(1000) == b""
        after = running()
        assert (after.pid, after.served) == (before.pid, before.served + 1)
        assert descriptors(after.pid) == descriptors(before.pid)


# What the server's end and silence do.


def test_views_go_on_when_the_server_is_killed(user: TestUser) -> None:
    upper = user.directory("upper")
    with switched_on(), View(upper=upper, name="one") as one:
        one.launch(["sh", "-c", "read line < /fifo; echo written > /f"], env={"PATH": "/bin"})
        assert one.processes is not None
        one.processes.close()
        first = kill_server()
        wait_for_end(first)
        one.run(["sh", "-c", "echo written > /f"], check=True)
        with View(name="two") as two:
            assert two.run(["echo", "x"], capture_output=True).stdout == b"x\n"
            assert running().pid != first
    with open(os.path.join(upper, "f")) as file:
        assert file.read() == "written\n"


def test_views_go_on_and_start_while_the_server_is_stopped(user: TestUser) -> None:
    with switched_on():
        with View(name="one") as one:
            pid = kill_server(signal.SIGSTOP)
            one.run(["true"], check=True)
            with View(name="two") as two:
                two.run(["true"], check=True)
                assert parent_of(daemon_process(two)) == os.getpid()
            os.kill(pid, signal.SIGCONT)
        with View() as three:
            assert parent_of(daemon_process(three)) == pid
        # The client that did not wait any longer left no daemon.
        wait_for_daemons()
        assert children(pid) == []


@pytest.mark.long
def test_a_server_that_is_killed_at_any_moment_delays_no_view_for_long(user: TestUser) -> None:
    ended = threading.Event()

    def disturb() -> None:
        number = 0
        while not ended.wait(0.02):
            for process in descendants(os.getpid()):
                if "server_main" in _command_line(process) and parent_of(process) == os.getpid():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, (signal.SIGKILL, signal.SIGSTOP)[number % 2])
            number += 1

    with switched_on():
        disturbing = threading.Thread(target=disturb)
        disturbing.start()
        try:
            for _ in range(8):
                assert user.succeeds("run", "--", "echo", "x") == "x\n"
        finally:
            ended.set()
            disturbing.join()
        for process in descendants(os.getpid()):
            if "server_main" in _command_line(process):
                os.kill(process, signal.SIGKILL)
                wait_for_end(process)
        user.succeeds(*RUN)


def test_the_server_ends_after_its_time_without_views(user: TestUser) -> None:
    with switched_on("0.2"):
        with View(name="one") as one:
            pid = running().pid
            with View(name="two"):
                pass
            one.run(["sleep", "0.4"], check=True)
            assert running().pid == pid
        wait_for_end(pid)
        assert not os.path.exists(socket_directory(user))


def test_more_layers_than_a_socket_holds_are_handed_over(user: TestUser) -> None:
    """They wait in the channel until the daemon is there."""
    layers = [user.directory(f"layer{number}", **{f"f{number}": "x"}) for number in range(240)]
    upper = user.directory("upper")
    with switched_on():
        user.succeeds(*RUN)
        with View([*layers, "host"], upper=upper) as one:
            assert parent_of(daemon_process(one)) == running().pid
            assert one.run(["cat", "/f0", "/f239"], capture_output=True).stdout == b"xx"


def test_an_environment_that_is_too_long_for_a_message_starts_without_the_server(
    user: TestUser,
) -> None:
    with switched_on():
        user.succeeds(*RUN)
        long = {f"LONG_{number}": "x" * 100_000 for number in range(10)}
        assert user.succeeds(
            "run", "--", "sh", "-c", 'echo "${#LONG_9}"', env={**os.environ, **long}
        )
        assert running().served == 1


def test_standard_descriptors_that_are_closed_stay_so_with_the_server(user: TestUser) -> None:
    script = f"exec {command()} run -- sh -c 'ls /proc/self/fd | wc -l' <&- 2>&-"
    with switched_on():
        counts = [user.program(["sh", "-c", script]) for _ in range(3)]
        assert running().served == 3
        os.environ[server.VARIABLE] = "off"
        assert counts == [user.program(["sh", "-c", script])] * 3
        os.environ[server.VARIABLE] = "1000"


def test_clients_that_say_nothing_do_not_keep_the_server(
    user: TestUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a slow machine a server takes longer to load than a view waits for it.
    monkeypatch.setattr(server_client, "LOADS_WITHIN_SECONDS", patience(10))
    with switched_on("0.2"), contextlib.ExitStack() as silent:
        with View():
            pid = running().pid
            for _ in range(300):
                with contextlib.suppress(OSError):
                    silent.enter_context(connected())
        wait_for_end(pid)


def test_a_server_without_descriptors_left_ends(user: TestUser) -> None:
    with switched_on(), contextlib.ExitStack() as silent:
        user.succeeds(*RUN)
        pid = running().pid
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (12, 12))
        for _ in range(20):
            with contextlib.suppress(OSError):
                silent.enter_context(connected())
        wait_for_end(pid)
        user.succeeds(*RUN)


@only_as("ordinary user")
def test_a_launcher_that_gets_no_daemon_and_may_start_no_process_says_so(user: TestUser) -> None:
    def allow(number: int, limit: int) -> Callable[[], None]:
        return lambda: resource.setrlimit(number, (limit, limit))

    with switched_on():
        # A daemon of this server cannot have the limit of open files of the next client.
        user.succeeds(*RUN, preexec_fn=allow(resource.RLIMIT_NOFILE, 256))
        line = user.refused(*RUN, preexec_fn=allow(resource.RLIMIT_NPROC, 0))
        assert os.strerror(errno.EAGAIN) in line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_the_server_and_no_view(user: TestUser, number: int) -> None:
    with switched_on():
        with View() as one:
            pid = kill_server(number)
            wait_for_end(pid)
            assert server.status() is None
            one.run(["true"], check=True)
        assert not os.path.exists(socket_directory(user))


def test_an_interrupt_ends_a_view_that_waits_for_the_server(
    user: TestUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    with switched_on():
        user.succeeds(*RUN)
        pid = kill_server(signal.SIGSTOP)
        with monkeypatch.context() as patient, signals.held():
            patient.setattr(server_client, "ANSWERS_WITHIN_SECONDS", 1000)
            signal.signal(signal.SIGUSR1, _raise_late)
            # Held, it arrives where the view waits.
            os.kill(os.getpid(), signal.SIGUSR1)
            with pytest.raises(Late):
                View().start()
        os.kill(pid, signal.SIGCONT)
        wait_for_daemons()


def test_a_launcher_that_is_killed_while_it_starts_leaves_nothing(user: TestUser) -> None:
    chance = random.Random(7)
    with switched_on():
        user.succeeds(*RUN)
        for _ in range(12):
            one = user.start("run", "--", "sleep", "1000", stderr=subprocess.DEVNULL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.wait(chance.uniform(0.05, 0.3))
            one.kill()
            one.communicate()
            for process in descendants(os.getpid()):
                if process != running().pid:
                    wait_for_end(process)
        user.succeeds(*RUN)
        wait_for_daemons()
        assert os.listdir(user.runtime) == [".server"]


def test_a_server_whose_launcher_is_killed_while_it_loads_serves_the_next_view(
    user: TestUser,
) -> None:
    with switched_on():
        # No pipe, which the stopped server may still have open.
        null = subprocess.DEVNULL
        with user.start(*RUN, stdout=null, stderr=null) as view:
            while (loading := user.server()) is None:
                assert view.poll() is None
            os.kill(loading, signal.SIGSTOP)
            assert not os.path.exists(os.path.join(directory(), server_client.SOCKET))
            view.kill()
            view.wait()
        user.wait_for_descendants()
        assert user.server() == loading
        assert user.leftovers()["processes"] == []
        os.kill(loading, signal.SIGCONT)
        while server.status() is None:
            assert user.server() == loading
        user.succeeds(*RUN)
        assert (running().pid, running().served) == (loading, 1)


def test_the_server_ends_with_the_last_process_of_its_mount_namespace(user: TestUser) -> None:
    """It would keep the mounts of `unshare --mount` or of a container busy."""
    become = [] if user.is_root else ["--user", "--map-root-user"]
    mount = f"mount -t tmpfs busy {user.directory('mounted')}"
    script = (
        f"{mount}; {command()} run true; {command()} run true; {command()} server status --json"
    )
    with switched_on():
        shown = user.program(["unshare", "--mount", *become, "sh", "-c", script])
        status = json.loads(shown)
        assert status["served"] == 2
        wait_for_end(status["pid"])
        assert server.status() is None


def test_mounts_do_not_hold_the_server(user: TestUser) -> None:
    """Their daemons live long, and a server would keep the mount namespace that it lives in."""
    lower, target = user.directory("lower"), user.directory("target")
    with switched_on():
        user.succeeds("mount", "-o", f"lowerdir={lower}", target)
        assert server.status() is None
        user.succeeds("umount", target)


@only_as("root")
@pytest.mark.parametrize("hierarchy", ["unified", "freezer"])
def test_a_daemon_joins_its_callers_control_group(user: TestUser, hierarchy: str) -> None:
    with switched_on(), _control_groups(hierarchy, "starter", "other") as (starter, other):
        joining = 'echo 0 > "$0/cgroup.procs"; exec "$@"'
        user.program(["sh", "-c", joining, starter, command(), *RUN])
        pid = running().pid
        with view(user, "kept", "sh", "-c", joining, other) as daemon:
            assert parent_of(daemon) == pid
            assert _control_group(daemon, hierarchy) == os.path.basename(other)
            assert _control_group(pid, hierarchy) == os.path.basename(starter)
            _kill_control_group(starter)
            wait_for_end(pid)
            kept = daemon
            assert user.succeeds("run", "--", "echo", "x") == "x\n"
        assert running().pid != pid
        wait_for_end(kept)


# The memory image.


def test_idle_daemons_share_memory_and_go_on_serving(user: TestUser) -> None:
    lower = user.directory("lower", f="lower")
    script = "cat f; echo on; while read name; do echo more > $name; cat f $name; echo end; done"
    line = [command(), "run", "-l", lower, "-l", "host", "-w", "/", "--", "sh", "-c", script]
    with switched_on(), contextlib.ExitStack() as started:
        pid = start_loaded(user)
        views = []
        for _ in range(3):
            process = started.enter_context(
                subprocess.Popen(
                    line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
                )
            )
            started.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "loweron\n"
            views.append(process)
        daemons = children(pid)
        assert len(daemons) == 3
        for daemon in daemons:
            wait_for_image(daemon)
        for name in ("first", "second"):
            for process in views:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(f"{name}\n")
                assert process.stdout.readline() == "lowermore\n"
                assert process.stdout.readline() == "end\n"
        for process in views:
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait() == 0


def test_a_daemon_publishes_where_the_first_ended_before_it_was_idle(user: TestUser) -> None:
    with switched_on():
        user.succeeds(*RUN)
        wait_for_daemons()
        with view(user, "second") as daemon:
            wait_for_image(daemon)


# Growth.


@pytest.mark.long
def test_the_server_does_not_grow(user: TestUser) -> None:
    with switched_on():
        pid = start_loaded(user)
        for _ in range(10):
            user.succeeds(*RUN)
        before, used, served = footprint(pid), memory(pid), running().served
        for _ in range(50):
            user.succeeds(*RUN)
        assert footprint(pid) == before
        assert memory(pid) - used < GROWTH
        assert running().served == served + 50


def wait_for_image(daemon: int) -> None:
    """Wait until an idle daemon has the image in its memory."""
    while True:
        with open(f"/proc/{daemon}/maps") as maps:
            if "/memfd:overlaykit-image" in maps.read():
                return


def daemon_process(one: View) -> int:
    assert one._rootfs is not None
    return one._rootfs.root.daemon_pid


def _command_line(process: int) -> str:
    with contextlib.suppress(OSError), open(f"/proc/{process}/cmdline", "rb") as file:
        return file.read().replace(b"\0", b" ").decode()
    return ""


def _ancestors(process: int) -> list[int]:
    found = []
    while process > 1:
        process = parent_of(process)
        found.append(process)
    return found


def _hard(number: int) -> int:
    return resource.getrlimit(number)[1]


def _other_root(user: TestUser) -> str:
    """A bind mount of the root directory: the same files, another root."""
    root = user.directory("root")
    _native.mount("/", root, None, 0x1000 | _native.MS_REC)
    return root


def _in_child(body: Callable[[], str]) -> str:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, body().encode())
        finally:
            os._exit(0)
    os.close(writer)
    answer = os.read(reader, 1000).decode()
    os.close(reader)
    os.waitpid(child, 0)
    return answer


def _ask_for_a_daemon() -> str:
    """The reason with which the server refuses."""
    connection = server_client.connect(directory())
    assert connection is not None
    server_client.start(connection, server.MOUNTS, 10)
    connection.setblocking(True)
    return connection.recv(1000).decode().partition("\0")[2]


def _filter_nothing() -> None:
    """Install a seccomp filter that allows everything."""
    import ctypes

    allow = ctypes.create_string_buffer(b"\x06\0\0\0\0\0\xff\x7f", 8)
    program = ctypes.create_string_buffer(struct.pack("@HxxxxxxP", 1, ctypes.addressof(allow)), 16)
    _native.prctl(22, 2, ctypes.addressof(program))  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def _rights(descriptor: int) -> tuple[int, int, bytes]:
    return socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor.to_bytes(4, sys.byteorder)


@contextlib.contextmanager
def _listener_of_another_user(path: str) -> Iterator[Callable[[], str]]:
    """A listening socket of the ordinary user. Yields: a function that returns what it has received."""
    ready, ready_write = os.pipe()
    stop, stop_write = os.pipe()
    got, got_write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setresgid(ORDINARY, ORDINARY, ORDINARY)
            os.setresuid(ORDINARY, ORDINARY, ORDINARY)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            listener.bind(path)
            os.chmod(path, 0o666)
            listener.listen()
            os.write(ready_write, b".")
            os.close(stop_write)
            os.read(stop, 1)
            listener.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    connection, _ = listener.accept()
                    connection.setblocking(False)
                    os.write(got_write, connection.recv(1000))
        finally:
            os._exit(0)
    for descriptor in (ready_write, stop, got_write):
        os.close(descriptor)
    assert os.read(ready, 1) == b"."
    ended = False

    def received() -> str:
        nonlocal ended
        ended = True
        os.close(stop_write)
        os.waitpid(child, 0)
        return os.read(got, 1000).decode()

    try:
        yield received
    finally:
        if not ended:
            received()
        os.close(ready)
        os.close(got)


@contextlib.contextmanager
def _control_groups(hierarchy: str, *names: str) -> Iterator[list[str]]:
    mounted = f"/sys/fs/cgroup/{hierarchy}"
    if hierarchy == "unified" and not os.path.isdir(mounted):  # the only one, version 2
        mounted = "/sys/fs/cgroup"
    made = [f"{mounted}/overlaykit-test-{name}-{os.getpid()}" for name in names]
    for path in made:
        os.mkdir(path)
    try:
        yield made
    finally:
        for path in made:
            _kill_control_group(path)
            os.rmdir(path)


def _control_group(pid: int, hierarchy: str) -> str:
    with open(f"/proc/{pid}/cgroup") as file:
        lines = [line.rstrip("\n").split(":", 2) for line in file]
    wanted = "" if hierarchy == "unified" else hierarchy
    (path,) = (path for _, controllers, path in lines if controllers == wanted)
    return os.path.basename(path)


def _kill_control_group(path: str) -> None:
    while True:
        with open(os.path.join(path, "cgroup.procs")) as file:
            processes = [int(line) for line in file]
        if not processes:
            return
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            wait_for_end(process)
