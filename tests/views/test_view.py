"""The Python API: a view as a context manager, its commands and their results."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable
from subprocess import DEVNULL, PIPE, STDOUT, CalledProcessError, Popen
from typing import Any

import pytest

from overlaykit.errors import Error
from overlaykit.layers import Store
from overlaykit.namespace import Bind, CommandNotFound
from overlaykit.views import Registry, View
from overlaykit.views.entry import About, Entry
from overlaykit.views.fuse_driver import FuseRoot
from overlaykit.views.view import (
    ChildrenLost,
    CommandRunning,
    DaemonEnded,
    LastCommand,
    NotStarted,
    OfAnotherProcess,
)

from .fixtures import only_as, only_with, with_both_drivers
from .user import TestUser

pytestmark = [only_with(host=True), with_both_drivers]


def test_a_view_runs_a_command_and_returns_its_status(user: TestUser) -> None:
    with View(["host"]) as view:
        assert view.run(["sh", "-c", "exit 7"]).returncode == 7


@pytest.mark.parametrize(
    "given", ["dir:{name}", "./{name}", "/proc/self/cwd/{name}", "/dev/fd/{fd}"]
)
def test_paths_of_a_layer_and_an_upper_are_resolved_as_the_callers(
    user: TestUser, given: str
) -> None:
    layer = user.directory("layer", given="from the layer\n")
    upper = user.directory("upper")
    os.chdir(user.scratch)
    fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (layer, upper)]
    layer_text, upper_text = (
        given.format(name=name, fd=fd) for name, fd in zip(("layer", "upper"), fds, strict=True)
    )
    with View([layer_text, "host"], upper=upper_text.removeprefix("dir:")) as view:
        done = view.run(["sh", "-c", "cat /given && echo x > /written"], capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"from the layer\n")
    for fd in fds:
        os.close(fd)
    assert "written" in os.listdir(upper)


def test_an_exception_in_the_block_ends_the_command_and_the_mount(user: TestUser) -> None:
    before = user.leftovers()
    running: list[object] = []

    def fail() -> None:
        with View(name="one") as view:
            view.launch(["sleep", "1000"])
            running.append(user.records())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert running == [["one"]]
    assert user.leftovers() == before


def test_a_view_without_a_command_leaves_nothing(user: TestUser) -> None:
    before = user.leftovers()
    with View() as view:
        assert view.processes is None
    assert user.leftovers() == before


def test_closing_again_does_nothing(user: TestUser) -> None:
    view = View()
    view.start()
    view.launch(["sleep", "1000"])
    view.close()
    view.close()


def test_a_missing_command_leaves_a_view_that_can_be_closed(user: TestUser) -> None:
    with View() as view, pytest.raises(CommandNotFound, match="no-such-command"):
        view.run(["no-such-command"])


def test_a_command_that_ends_before_its_entry_is_published_is_no_error(
    user: TestUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = Entry.publish
    view = View()

    def publish_late(entry: Entry, about: About) -> None:
        wait_for_exit(about.pid)
        assert view._rootfs is not None
        # The mount ends with the command, the daemon with the mount.
        if view._rootfs.root.mount < 0:
            wait_for_exit(about.daemon)
        publish(entry, about)

    monkeypatch.setattr(Entry, "publish", publish_late)
    with view:
        assert view.run(["true"]).returncode == 0


def wait_for_exit(pid: int) -> None:
    try:
        ended = os.pidfd_open(pid)
    except ProcessLookupError:  # it has been reaped
        return
    select.select([ended], [], [])
    os.close(ended)


def test_a_view_counts_its_processes(user: TestUser) -> None:
    os.mkfifo(user.path("fifo"))
    started = os.open(user.path("fifo"), os.O_RDWR)  # both ends: no open(2) waits
    with View(binds=[Bind(source=user.path("fifo"), target="/fifo")]) as view:
        processes = view.launch(["sh", "-c", "sleep 1000 & echo started >/fifo; wait"])
        assert os.read(started, 100) == b"started\n"
        assert processes.count() == 3  # init, the shell and its child
    assert processes.count() == 0
    os.close(started)


def test_a_view_explains_which_layer_answers(user: TestUser) -> None:
    top = user.directory("top", file="x")
    with View([top, "host"]) as view:
        (hit,) = view.explain("/file").hits
        assert (hit.role, hit.path) == ("answers", os.path.join(top, "file"))
        with pytest.raises(FileNotFoundError):
            view.explain("/no/such")


def test_layers_come_from_the_store_that_is_given(user: TestUser) -> None:
    store = Store(user.path("store"))
    store.add("greeting", f"dir:{user.directory('tree', greeting='hello')}")
    with View(["greeting", "host"], store=store) as view:
        with pytest.raises(Error, match="is used by a running view"):
            store.remove("greeting")
        assert view.run(["grep", "-q", "hello", "/greeting"]).returncode == 0
    store.remove("greeting")


def test_a_view_is_found_by_its_name_while_it_runs(user: TestUser) -> None:
    with View(name="one") as view:
        view.launch(["sleep", "1000"])
        assert Registry().find("one").about.command == ("sleep", "1000")
    with pytest.raises(Error, match="no view or mount of that name"):
        Registry().find("one")


@pytest.mark.xdist_group("fifty views")
@pytest.mark.long
def test_fifty_views_one_after_another_leave_nothing(user: TestUser) -> None:
    user.set_deadline(600)
    before = user.leftovers(), cgroups()
    for number in range(50):
        with View() as view:
            assert (
                view.run(["sh", "-c", f"echo {number} >/etc/number; exit {number}"]).returncode
                == number
            )
        assert (user.leftovers(), cgroups()) == before, f"after view {number}"


def test_the_kernels_overlayfs_shows_the_changes_of_an_upper(user: TestUser) -> None:
    lower = user.directory("lower", "data", changed="before", removed="x", kept="kept")
    lower = os.path.dirname(lower)
    upper = user.path("upper")
    script = "cd /data; echo after >changed; rm removed; mkdir new; echo made >new/file"
    with View([lower, "host"], upper=upper) as view:
        assert view.run(["sh", "-ec", script]).returncode == 0
    with View([lower, "host"], upper=upper) as view:
        script = "cd /data; grep after changed; test ! -e removed; cat new/file"
        assert view.run(["sh", "-ec", script]).returncode == 0
    work = user.path(".upper.overlaykit")
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    become = ["unshare", "--mount"]
    if not user.is_root:
        become += ["--user", "--map-root-user"]
        options += ",userxattr"
    target = user.directory("target")
    script = f"mount -t overlay overlay -o {options} {target}; cd {target}/data; ls; cat changed new/file"
    done = user.program([*become, "sh", "-ec", script])
    assert done.split() == ["changed", "kept", "new", "after", "made"]


def test_a_view_holds_thousands_of_open_files(user: TestUser) -> None:
    lower = user.directory("lower")
    for number in range(1500):
        user.write(os.path.join(lower, str(number)), str(number))
    script = (
        "import os, resource\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))\n"
        f"files = [open(f'{lower}/{{n}}', 'r+' if n % 3 == 0 else 'r') for n in range(1500)]\n"
        "assert [int(file.read()) for file in files] == list(range(1500))\n"
    )
    with View() as view:
        assert view.run(["/usr/bin/python3", "-c", script]).returncode == 0


def cgroups() -> list[str]:
    return sorted(directory for directory, _, _ in os.walk("/sys/fs/cgroup"))


def test_commands_run_one_after_another_over_the_same_files(user: TestUser) -> None:
    upper = user.directory("upper")
    with View(upper=upper) as view:
        for number in range(3):
            script = f"echo {number} >>/numbers; echo $$; exit {number}"
            done = view.run(["sh", "-c", script], capture_output=True, text=True)
            assert done.returncode == number
            assert int(done.stdout) < 10  # a new PID namespace each time
        assert view.run(["cat", "/numbers"], capture_output=True).stdout == b"0\n1\n2\n"
        view.run(["touch", "/last"], last=True, check=True)
        assert sorted(os.listdir(upper)) == ["last", "numbers"]
        with pytest.raises(LastCommand, match="has had its last command"):
            view.run(["true"])


def test_a_second_command_is_refused_while_the_first_runs(user: TestUser) -> None:
    with View(name="one") as view:
        with pytest.raises(NotStarted):
            view.wait()
        view.launch(["sleep", "1000"])
        with pytest.raises(CommandRunning, match="a command runs in view one"):
            view.run(["true"])
        assert view.processes is not None
        view.processes.kill()
        assert view.wait() == 137
        assert view.run(["true"]).returncode == 0
    with pytest.raises(NotStarted, match="start"):
        View().run(["true"])


def test_output_is_captured_completely_and_input_is_written(user: TestUser) -> None:
    lines = "".join(f"{number}\n" for number in range(100_000))
    with View() as view:
        done = view.run(["cat"], input=lines, capture_output=True, text=True)
        assert (done.returncode, done.stdout == lines, done.stderr) == (0, True, "")
        done = view.run(["sh", "-c", "echo out; echo err >&2"], stdout=PIPE, stderr=STDOUT)
        assert (done.stdout, done.stderr) == (b"out\nerr\n", None)
        done = view.run(["cat"], stdin=DEVNULL, stdout=PIPE)
        assert done.stdout == b""
        # Neither unread input nor a child that outlives the command delays the end.
        done = view.run(["sh", "-c", "sleep 1000 & echo started"], input=lines, capture_output=True)
        assert done.stdout == b"started\n"
        with open(user.path("log"), "wb") as file:
            view.run(["echo", "logged"], stdout=file, check=True)
        with pytest.raises(CalledProcessError) as caught:
            view.run(["sh", "-c", "echo why; exit 3"], capture_output=True, check=True)
        assert (caught.value.returncode, caught.value.output) == (3, b"why\n")
    with open(user.path("log")) as log:
        assert log.read() == "logged\n"


def test_one_text_in_place_of_a_list_of_layers_is_refused(user: TestUser) -> None:
    with pytest.raises(TypeError, match=r"give a list, \['host'\]"):
        View("host")


class Late(Exception):
    """Raised by a signal handler."""


def test_invalid_arguments_raise_type_and_value_errors(user: TestUser) -> None:
    mistakes: tuple[Callable[[], object], ...] = (
        lambda: View(binds="/etc:/mnt"),
        lambda: View(ports="8080:80"),
    )
    for wrong in mistakes:
        with pytest.raises(TypeError, match="give a list"):
            wrong()
    with pytest.raises(Error, match="--network a/b: no mode, and not the name of a network"):
        View(network="a/b")
    with pytest.raises(ValueError, match="name one at least"):
        View([])
    with View() as view:
        for argv in "true", b"true":
            with pytest.raises(TypeError, match="give a list"):
                view.run(argv)  # type: ignore[arg-type]
        for unfit in [], ["true", "a\0b"]:
            with pytest.raises(ValueError, match="argv: "):
                view.run(unfit)
        for env in {"A=B": "c"}, {"A\0": "c"}, {"A": "c\0"}:
            with pytest.raises(ValueError, match="env: "):
                view.run(["true"], env=env)
        assert view.run(["true"]).returncode == 0


def test_binds_and_ports_may_be_written_as_on_the_command_line(user: TestUser) -> None:
    shared = user.directory("shared", file="contents\n")
    with View(binds=[f"{shared}:/mnt:ro"], ports=["0:80"]) as view:
        script = "cat /mnt/file; ! test -w /mnt"
        assert view.run(["sh", "-c", script], capture_output=True, text=True).stdout == "contents\n"
        assert view.processes is not None
        (port,) = view.processes.ports
        assert port.view == 80
        assert port.host > 0
    with pytest.raises(Error, match="-p x: "):
        View(ports=["x"])


@only_as("root")
@with_both_drivers
def test_another_user_reads_a_layer_whose_disk_has_no_acls(user: TestUser) -> None:
    layer = user.directory("layer")
    done = user.changed_machine(
        f"mount -t ramfs none {layer}; echo text > {layer}/file",
        *("run", "--driver", user.driver, "-l", layer, "-l", user.small_system()),
        *("-v", "/usr:/usr:ro", "--", "setpriv", "--reuid=77", "--clear-groups", "cat", "/file"),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "text\n", "")


def test_an_exception_while_output_is_awaited_ends_the_command(user: TestUser) -> None:
    def fail(*_: object) -> None:
        raise Late

    os.mkfifo(user.path("fifo"))
    fifo = Bind(source=user.path("fifo"), target="/fifo")
    interrupter = Popen(
        ["sh", "-c", 'read _ <"$0"; kill -s XCPU $1', fifo.source, str(os.getpid())]
    )
    before = signal.signal(signal.SIGXCPU, fail)
    with View(binds=[fifo]) as view:
        for command, fails in (
            (["sh", "-c", "echo started >/fifo; sleep 1000 & wait"], lambda: None),
            (["sleep", "1000"], fail),
        ):
            with pytest.raises(Late):
                view.run(command, capture_output=True, on_launch=fails)
            assert view.processes is not None
            assert view.processes.count() == 0
            view.processes.kill()  # no process is left
        assert view.run(["true"]).returncode == 0
    signal.signal(signal.SIGXCPU, before)
    assert interrupter.wait() == 0


def test_an_exception_at_the_end_of_a_launch_ends_the_command(user: TestUser) -> None:
    class Interrupted(View):
        def _publish(self, *arguments: Any, **options: Any) -> None:
            super()._publish(*arguments, **options)
            os.kill(os.getpid(), signal.SIGXCPU)  # deferred by the launch

    def fail(*_: object) -> None:
        raise Late

    before = signal.signal(signal.SIGXCPU, fail)
    with Interrupted() as view:
        for start in (view.run, view.launch):
            with pytest.raises(Late):
                start(["sleep", "1000"])
            assert view.processes is not None
            assert view.processes.count() == 0
    signal.signal(signal.SIGXCPU, before)


def test_a_closed_descriptor_is_refused_and_no_internal_one_passes_in_its_place(
    user: TestUser,
) -> None:
    with View() as view:
        used = {int(name) for name in os.listdir("/proc/self/fd")}
        free = [number for number in range(3, 64) if number not in used]
        before = os.listdir("/proc/self/fd")
        for number in free[:10]:
            for capture in (False, True):
                with pytest.raises(OSError, match=f"descriptor {number}: Bad file"):
                    view.run(["true"], pass_fds=[number], capture_output=capture)
        assert os.listdir("/proc/self/fd") == before
        assert view.run(["true"]).returncode == 0


def test_no_command_follows_a_last_one_that_cannot_be_started(user: TestUser) -> None:
    upper = user.directory("upper")
    with View(upper=upper) as view:
        assert view.run(["sh", "-c", "echo x >/written"]).returncode == 0
        with pytest.raises(CommandNotFound, match="no-such-command"):
            view.run(["no-such-command"], last=True)
        with pytest.raises(LastCommand):
            view.run(["true"])
    assert os.listdir(upper) == ["written"]


def test_two_threads_cannot_start_commands_in_one_view_at_once(user: TestUser) -> None:
    with View() as view:
        at_once = threading.Barrier(3)
        raised: list[Error] = []

        def launch() -> None:
            at_once.wait()
            try:
                view.launch(["sleep", "1000"])
            except CommandRunning as error:
                raised.append(error)

        threads = [threading.Thread(target=launch) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(raised) == 2
        assert view.processes is not None
        assert view.processes.count() == 2


def test_a_fork_of_the_process_leaves_its_view_alone(user: TestUser) -> None:
    with View() as view:
        view.launch(["sleep", "1000"])
        child = os.fork()
        if child == 0:
            try:
                view.close()
                with pytest.raises(OfAnotherProcess, match="make one in this process"):
                    view.run(["true"])
                os._exit(7)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert view.processes is not None
        assert view.processes.count() == 2
        view.processes.kill()
        assert view.wait() == 137
        assert view.run(["true"]).returncode == 0


def test_a_program_that_ignores_sigchld_is_refused_with_the_fix(user: TestUser) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with pytest.raises(ChildrenLost, match=r"SIGCHLD is ignored: set it to signal\.SIG_DFL"):
            View().start()
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


@only_with(driver="fuse")
def test_a_command_after_the_daemons_death_is_refused(user: TestUser) -> None:
    with View() as view:
        view.run(["true"], check=True)
        assert view._rootfs is not None
        assert isinstance(view._rootfs.root, FuseRoot)
        view._rootfs.root.daemon.process.kill()
        view._rootfs.root.daemon.process.wait()
        with pytest.raises(DaemonEnded):
            view.run(["true"])


def test_a_timeout_while_a_launch_ends_leaves_no_descriptor_that_keeps_the_view(
    user: TestUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*_: object) -> None:
        raise Late

    close, publish = os.close, Entry.publish
    armed: list[bool] = []

    def close_late(descriptor: int) -> None:
        if armed:
            armed.clear()
            signal.raise_signal(signal.SIGXCPU)
        close(descriptor)

    def publish_and_arm(entry: Entry, about: About) -> None:
        publish(entry, about)
        armed.append(True)

    monkeypatch.setattr(os, "close", close_late)
    monkeypatch.setattr(Entry, "publish", publish_and_arm)
    before = signal.signal(signal.SIGXCPU, late)
    with View() as view, pytest.raises(Late):
        view.run(["true"])
    signal.signal(signal.SIGXCPU, before)
