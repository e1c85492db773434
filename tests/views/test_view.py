"""The Python API: a view as a context manager, and what it gives back."""

from __future__ import annotations

import os
import select

import pytest

from overlaykit.errors import Error
from overlaykit.layers import Store
from overlaykit.namespace import Bind, CommandNotFound
from overlaykit.views import Registry, View
from overlaykit.views.registry import About, Entry

from .someone import Someone


def test_it_runs_a_command_and_gives_its_status(someone: Someone) -> None:
    with View(["host"]) as view:
        assert view.run(["sh", "-c", "exit 7"]) == 7


def test_an_exception_inside_ends_the_command_and_the_mount(someone: Someone) -> None:
    before = someone.left()
    running: list[object] = []

    def fail() -> None:
        with View(name="one") as view:
            view.launch(["sleep", "1000"])
            running.append(someone.left()["noted down"])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert running == [["one"]]
    assert someone.left() == before


def test_a_view_that_nothing_was_launched_into_is_left_without_a_trace(someone: Someone) -> None:
    before = someone.left()
    with View() as view:
        assert view.processes is None
    assert someone.left() == before


def test_closing_again_does_nothing(someone: Someone) -> None:
    view = View()
    view.start()
    view.launch(["sleep", "1000"])
    view.close()
    view.close()


def test_a_command_that_is_missing_leaves_the_view_to_be_closed(someone: Someone) -> None:
    with View() as view, pytest.raises(CommandNotFound, match="no-such-command"):
        view.run(["no-such-command"])


def test_a_command_that_has_ended_before_it_is_noted_down_is_no_failure(
    someone: Someone, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = Entry.publish
    view = View()

    def publish_late(entry: Entry, about: About) -> None:
        await_end(about.pid)
        assert view._daemon is not None
        if view._daemon.mount < 0:  # nobody holds the files: the daemon ends too
            await_end(about.daemon)
        publish(entry, about)

    monkeypatch.setattr(Entry, "publish", publish_late)
    with view:
        assert view.run(["true"]) == 0


def await_end(pid: int) -> None:
    ended = os.pidfd_open(pid)
    select.select([ended], [], [])
    os.close(ended)


def test_it_says_how_many_processes_it_holds(someone: Someone) -> None:
    os.mkfifo(someone.path("fifo"))
    started = os.open(
        someone.path("fifo"), os.O_RDWR
    )  # of both ends, so that nobody waits to open it
    with View(binds=[Bind(source=someone.path("fifo"), target="/fifo")]) as view:
        processes = view.launch(["sh", "-c", "sleep 1000 & echo started >/fifo; wait"])
        assert os.read(started, 100) == b"started\n"
        assert processes.processes() == 3  # init, the shell, and what it started
    assert processes.processes() == 0
    os.close(started)


def test_it_says_which_layer_answers(someone: Someone) -> None:
    top = someone.directory("top", file="x")
    with View([top, "host"]) as view:
        (sight,) = view.explain("/file").sights
        assert (sight.role, sight.path) == ("answers", os.path.join(top, "file"))
        with pytest.raises(FileNotFoundError):
            view.explain("/no/such")


def test_layers_come_from_the_store_that_is_given(someone: Someone) -> None:
    store = Store(someone.path("store"))
    store.add("greeting", f"dir:{someone.directory('tree', greeting='hello')}")
    with View(["greeting", "host"], store=store) as view:
        with pytest.raises(Error, match="is used by a running view"):
            store.remove("greeting")
        assert view.run(["grep", "-q", "hello", "/greeting"]) == 0
    store.remove("greeting")


def test_a_view_is_found_by_its_name_while_it_runs(someone: Someone) -> None:
    with View(name="one") as view:
        view.launch(["sleep", "1000"])
        assert Registry().find("one").about.command == ("sleep", "1000")
    with pytest.raises(Error, match="no view or mount of that name"):
        Registry().find("one")


def test_fifty_views_one_after_another_leave_nothing(someone: Someone) -> None:
    before = someone.left(), cgroups()
    for number in range(50):
        with View() as view:
            assert view.run(["sh", "-c", f"echo {number} >/etc/number; exit {number}"]) == number
        assert (someone.left(), cgroups()) == before, f"after view {number}"


def test_what_is_kept_in_an_upper_is_what_the_kernels_overlayfs_shows(someone: Someone) -> None:
    lower = someone.directory("lower", "data", changed="before", removed="x", kept="kept")
    lower = os.path.dirname(lower)
    upper = someone.path("upper")
    script = "cd /data; echo after >changed; rm removed; mkdir new; echo made >new/file"
    with View([lower, "host"], upper=upper) as view:
        assert view.run(["sh", "-ec", script]) == 0
    with View([lower, "host"], upper=upper) as view:
        assert (
            view.run(["sh", "-ec", "cd /data; grep after changed; test ! -e removed; cat new/file"])
            == 0
        )
    work = someone.path(".upper.overlaykit")
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    become = ["unshare", "--mount"]
    if not someone.is_root:
        become += ["--user", "--map-root-user"]
        options += ",userxattr"
    target = someone.directory("target")
    script = f"mount -t overlay overlay -o {options} {target}; cd {target}/data; ls; cat changed new/file"
    done = someone.program([*become, "sh", "-ec", script])
    assert done.split() == ["changed", "kept", "new", "after", "made"]


def test_a_view_holds_thousands_of_open_files(someone: Someone) -> None:
    lower = someone.directory("lower")
    for number in range(1500):
        someone.write(os.path.join(lower, str(number)), str(number))
    script = (
        "import os, resource\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))\n"
        f"files = [open(f'{lower}/{{n}}', 'r+' if n % 3 == 0 else 'r') for n in range(1500)]\n"
        "assert [int(file.read()) for file in files] == list(range(1500))\n"
    )
    with View() as view:
        assert view.run(["/usr/bin/python3", "-c", script]) == 0


def cgroups() -> list[str]:
    return sorted(directory for directory, _, _ in os.walk("/sys/fs/cgroup"))
