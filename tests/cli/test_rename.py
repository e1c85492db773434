"""Views that are renamed, also while they run: everything goes on, and none touches another one's tree."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys

import pytest

from overlaykit.views.named import NamedView
from overlaykit.views.registry import NotRunning, Registry

from ..views.fixtures import in_matrix, with_both_drivers
from ..views.user import TestUser
from .test_named import removed, states
from .test_networks import leave_the_machine

pytestmark = with_both_drivers

SLEEP = "exec sleep 1000"


def begin(user: TestUser, name: str, mark: str, *options: str, script: str = SLEEP) -> None:
    """Run a detached view with a file of its own, /tmp/in-mark."""
    whole = f"echo {mark} > /tmp/in-mark; echo {mark}; {script}"
    given = ("-d", "--name", name, *options)
    assert user.succeeds("run", *given, "--", "sh", "-c", whole) == f"{name}\n"
    while user.overlaykit("logs", name).stdout != f"{mark}\n":
        os.sched_yield()


def mark_of(name: str) -> str:
    """What a view wrote, as its upper has it."""
    with open(os.path.join(NamedView(name).upper, "tmp", "in-mark")) as file:
        return file.read()


def supervisor(name: str) -> int:
    """The process id; 0: the view does not run."""
    with contextlib.suppress(NotRunning):
        return Registry().find(name).about.supervisor
    return 0


def await_open(process: subprocess.Popen[str], end: str) -> None:
    """Wait until a process has a file open whose path ends so."""
    while process.poll() is None:
        for descriptor in os.listdir(f"/proc/{process.pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                if os.readlink(f"/proc/{process.pid}/fd/{descriptor}").endswith(end):
                    return


def await_flock(process: subprocess.Popen[str]) -> None:
    """Wait until a process waits for a lock (proc_locks(5))."""
    waits = f" {process.pid} "
    while process.poll() is None:
        with open("/proc/locks") as file:
            if any("-> FLOCK" in line and waits in line for line in file):
                return
    raise AssertionError("it has not waited")


@in_matrix
def test_all_commands_know_a_running_view_by_its_new_name(user: TestUser) -> None:
    with removed(user, "v", "w"):
        begin(user, "v", "mark")
        (before,) = json.loads(user.succeeds("inspect", "v"))
        assert user.succeeds("rename", "v", "w") == ""
        assert states(user) == {"w": ("running", None)}
        (after,) = json.loads(user.succeeds("inspect", "w"))
        assert after["about"]["pid"] == before["about"]["pid"]
        assert after["path"] == os.path.join(user.named_views, "w")
        assert after["about"]["upper"] == os.path.join(user.named_views, "w", "upper")
        assert user.succeeds("exec", "w", "cat", "/tmp/in-mark") == "mark\n"
        assert user.succeeds("logs", "w") == "mark\n"
        (top,) = [
            one for one in json.loads(user.succeeds("top", "--json", "w")) if one["inside"] > 1
        ]
        assert top["command"] == ["sleep", "1000"]
        (use,) = json.loads(user.succeeds("stats", "--json", "w"))
        assert use["name"] == "w"
        explained = user.succeeds("explain", "w", "/tmp/in-mark")
        assert os.path.join(user.named_views, "w", "upper") in explained
        user.write(user.path("file"), "copied")
        user.succeeds("cp", user.path("file"), "w:/tmp/in-file")
        user.succeeds("cp", "w:/tmp/in-file", user.path("back"))
        assert "start --attach w" in user.succeeds("generate", "systemd", "w")
        for of_view in ("exec", "v", "true"), ("top", "v"), ("stats", "v"), ("stop", "v"):
            assert user.refused(*of_view).startswith("v: no view or mount of that name")
        for of_named in (("inspect", "v"), ("wait", "v"), ("rename", "v", "x")):
            assert user.refused(*of_named).startswith("v: there is no view of that name")
        user.succeeds("stop", "w")
        assert states(user) == {"w": ("stopped", 128 + signal.SIGTERM)}
        assert mark_of("w") == "mark\n"
        user.succeeds("start", "w")
        assert user.succeeds("exec", "w", "cat", "/tmp/in-file") == "copied"
        user.succeeds("kill", "w")
        assert user.succeeds("wait", "w") == "137\n"


@in_matrix
@pytest.mark.parametrize("options", [("--rm",), ()])
@pytest.mark.parametrize("end", ["stop", "kill", "supervisor"])
@pytest.mark.one_in(3)
def test_a_renamed_view_and_a_new_one_of_its_name_keep_their_trees(
    user: TestUser, options: tuple[str, ...], end: str
) -> None:
    def ended(name: str) -> None:
        if end == "supervisor":
            os.kill(supervisor(name), signal.SIGKILL)
            user.succeeds("ps", "-a")
        else:
            user.succeeds(end, name)
            user.overlaykit("wait", name)

    for first, second in ("w", "v"), ("v", "w"):
        with removed(user, "v", "w"):
            begin(user, "v", "first", *options)
            user.succeeds("rename", "v", "w")
            begin(user, "v", "second", *options)
            assert [user.succeeds("exec", name, "cat", "/tmp/in-mark") for name in "vw"] == [
                "second\n",
                "first\n",
            ]
            ended(first)
            left = {name: state for name, (state, _) in states(user).items()}
            expected = {second: "running"} | ({} if options else {first: "stopped"})
            assert left == expected
            assert mark_of(second) == {"v": "second\n", "w": "first\n"}[second]
            again = {"v": "second\n", "w": "first\n"}[second]
            assert user.succeeds("exec", second, "cat", "/tmp/in-mark") == again
            ended(second)
            assert sorted(states(user)) == ([] if options else ["v", "w"])
            if not options:
                assert (mark_of("v"), mark_of("w")) == ("second\n", "first\n")
    user.succeeds("run", "true")  # removes the entries of those that were killed


def test_the_tree_that_a_command_works_on_stays_the_same_if_its_name_changes(
    user: TestUser,
) -> None:
    with removed(user, "v", "w"):
        user.succeeds("create", "--name", "v", "--label", "of=first", "true")
        first = NamedView("v")
        user.succeeds("rename", "v", "w")
        user.succeeds("create", "--name", "v", "--label", "of=second", "true")
        assert (first.name, first.definition().labels) == ("w", {"of": "first"})
        first.remove()
        assert list(states(user)) == ["v"]
        assert NamedView("v").definition().labels == {"of": "second"}


def test_a_start_that_fails_removes_the_view_that_it_made_and_no_other(user: TestUser) -> None:
    with removed(user, "v", "w"):
        user.succeeds("create", "--name", "v", "nothing-of-this-name")
        created = NamedView("v").definition().created
        user.succeeds("rename", "v", "w")
        user.succeeds("create", "--name", "v", "true")
        failed = [sys.executable, "-P", "-m", "overlaykit.cli.failed", "v", str(created)]
        done = subprocess.run(
            [*failed, "MISSING", "2", "nothing-of-this-name", "before"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode, done
        assert list(states(user)) == ["v"]


def test_what_follows_a_view_goes_on_when_it_is_renamed(user: TestUser) -> None:
    with removed(user, "v", "w"):
        script = (
            "mkfifo /tmp/in-fifo; exec 3<>/tmp/in-fifo; while read line <&3; do echo $line; done"
        )
        begin(user, "v", "mark", script=script)
        with (
            user.start("logs", "-f", "v") as logs,
            user.start("attach", "v") as attached,
            user.start("wait", "v") as wait,
        ):
            assert logs.stdout is not None
            assert logs.stdout.readline() == "mark\n"
            await_open(attached, "/v/log")
            await_open(wait, "/v/status")
            user.succeeds("rename", "v", "w")
            begin(user, "v", "second")
            user.succeeds("exec", "w", "sh", "-c", "echo line > /tmp/in-fifo")
            assert logs.stdout.readline() == "line\n"
            user.succeeds("stop", "w")
            assert logs.communicate()[0] == ""
            assert wait.communicate()[0] == "143\n"
            assert attached.communicate()[0] == "line\n"
            assert (logs.returncode, attached.returncode) == (0, 143)
        assert states(user)["v"] == ("running", None)


@in_matrix
def test_a_view_that_starts_again_by_itself_does_so_with_its_new_name(user: TestUser) -> None:
    with removed(user, "v", "w"):
        script = "until test -e /tmp/in-go; do sleep 0.1; done; rm /tmp/in-go; exit 1"
        begin(user, "v", "first", "--restart", "always", script=script)
        user.succeeds("rename", "v", "w")
        begin(user, "v", "second")
        before = supervisor("w")
        user.overlaykit("exec", "w", "touch", "/tmp/in-go")  # it may end with the view
        while supervisor("w") in (0, before):
            os.sched_yield()
        assert states(user)["v"] == ("running", None)
        while not mark_of("w"):  # its command has just begun again
            os.sched_yield()
        assert (mark_of("v"), mark_of("w")) == ("second\n", "first\n")
        user.succeeds("rm", "-f", "w")
        assert states(user) == {"v": ("running", None)}
        assert mark_of("v") == "second\n"


def test_a_view_that_waits_for_its_next_start_is_renamed(user: TestUser) -> None:
    with removed(user, "v", "w"):
        script = "echo first > /tmp/in-mark; test -e /mnt/go && exec sleep 1000; exit 1"
        shared = user.directory("shared")
        options = ("-d", "--name", "v", "--restart", "always", "-v", f"{shared}:/mnt")
        user.succeeds("run", *options, "--", "sh", "-c", script)
        while states(user) != {"v": ("restarting", 1)}:
            os.sched_yield()
        user.succeeds("rename", "v", "w")
        begin(user, "v", "second")
        user.write(os.path.join(shared, "go"), "")
        while states(user)["w"][0] != "running":
            os.sched_yield()
        assert states(user)["v"] == ("running", None)
        while not mark_of("w"):  # its command has just begun again
            os.sched_yield()
        assert (mark_of("v"), mark_of("w")) == ("second\n", "first\n")


def test_a_name_in_a_shared_network_leads_to_the_view_that_has_taken_it(user: TestUser) -> None:
    leave_the_machine(user)
    with removed(user, "v", "w", "other"):
        network = ("--network", "lan")
        begin(user, "v", "first", *network)
        begin(user, "other", "other", *network)
        addresses = {name: Registry().find(name).about.address for name in ("v", "other")}
        user.succeeds("rename", "v", "w")

        def hosts(name: str) -> list[str]:
            lines = user.succeeds("exec", name, "cat", "/etc/hosts").splitlines()
            first = lines.index("# overlaykit network lan: begin")
            return lines[first + 1 : lines.index("# overlaykit network lan: end")]

        # As podman, until its next start.
        assert f"{addresses['v']} v" in hosts("other")
        begin(user, "v", "second", *network)
        second = Registry().find("v").about.address
        assert second not in addresses.values()
        expected = [f"{addresses['other']} other", f"{second} v"]
        assert [hosts(name) for name in ("other", "v", "w")] == [expected] * 3
        user.succeeds("stop", "v")
        if user.driver == "fuse":
            while hosts("other") != expected[:1]:
                os.sched_yield()
        user.succeeds("stop", "w")
        user.succeeds("start", "w")
        third = Registry().find("w").about.address
        assert sorted(hosts("other")) == sorted([expected[0], f"{third} w"])


def test_a_rename_waits_for_a_start_and_a_start_for_a_rename(user: TestUser) -> None:
    with removed(user, "v", "w", "x"):
        user.succeeds("run", "--name", "v", "--", "sh", "-c", "echo >> /tmp/in-mark; hostname")
        view = NamedView("v")
        lock = view.lock_name()  # as `start` does
        with user.start("rename", "v", "x") as rename:
            await_flock(rename)
            assert list(states(user)) == ["v"]
            os.close(lock)
        assert rename.returncode == 0
        assert list(states(user)) == ["x"]

        lock = view.lock_name()  # as `rename` does
        with user.start("start", "-a", "x") as start:
            await_flock(start)
            os.rename(view.path, os.path.join(user.named_views, "w"))
            user.succeeds("create", "--name", "x", "true")
            os.close(lock)
            assert start.communicate()[0] == "w\n"
        assert {name: state for name, (state, _) in states(user).items()} == {
            "w": "stopped",
            "x": "created",
        }
        assert mark_of("w") == "\n\n"
        assert os.listdir(NamedView("x").path) == ["view.json"]


def test_one_of_many_renames_at_once_succeeds(user: TestUser) -> None:
    names = [f"w{number}" for number in range(6)]
    with removed(user, "v", *names):
        begin(user, "v", "mark")
        running = [user.start("rename", "v", name, stderr=subprocess.PIPE) for name in names]
        said = {name: one.communicate()[1] for name, one in zip(names, running, strict=True)}
        (renamed,) = [name for name, text in said.items() if not text]
        assert list(states(user)) == [renamed]
        refused = "overlaykit: v: there is no view of that name"
        assert all(text.startswith(refused) for name, text in said.items() if name != renamed)
        assert mark_of(renamed) == "mark\n"


def test_a_name_in_use_is_refused(user: TestUser) -> None:
    with removed(user, "v", "w"):
        begin(user, "v", "first")
        user.succeeds("create", "--name", "w", "true")
        assert user.refused("rename", "v", "w").startswith("--name w: there is a view of that name")
        assert user.refused("rename", "v", "v").startswith("--name v: there is a view of that name")
        with user.start(
            "run", "--rm", "--name", "x", "--", "sh", "-c", "echo ready; read line"
        ) as x:
            assert x.stdout is not None
            assert x.stdout.readline() == "ready\n"
            assert user.refused("rename", "v", "x").startswith("--name x: a view of that name is")
            x.communicate("\n")
        user.succeeds("rename", "v", "x")
        taken = user.refused("run", "--rm", "--name", "x", "true")
        assert taken.startswith("--name x: a view of that name is running")
        user.succeeds("run", "--rm", "--name", "v", "true")
        assert mark_of("x") == "first\n"
        user.succeeds("rm", "-f", "x")


def test_a_view_in_the_foreground_without_a_directory_of_its_own_is_renamed(
    user: TestUser,
) -> None:
    script = "echo $0 > /tmp/in-mark; echo ready; read line"
    with removed(user, "named"):
        user.succeeds("create", "--name", "named", "true")
        run = ("run", "--rm", "--name", "v", "--", "sh", "-c", script)
        with user.start(*run, "first") as first:
            assert first.stdout is not None
            assert first.stdout.readline() == "ready\n"
            assert user.refused("rename", "v", "named").startswith("--name named: there is a view")
            assert user.refused("rename", "v", "v").startswith("--name v: a view of that name is")
            assert user.refused("rename", "v", "a/b").startswith("--name a/b: use up to 63")
            user.succeeds("rename", "v", "w")
            with user.start(*run, "second") as second:
                assert second.stdout is not None
                assert second.stdout.readline() == "ready\n"
                assert user.refused("rename", "v", "w").startswith("--name w: a view of that name")
                marks = [user.succeeds("exec", name, "cat", "/tmp/in-mark") for name in "vw"]
                assert marks == ["second\n", "first\n"]
                first.communicate("end\n")
                assert first.returncode == 0
                assert user.refused("exec", "w", "true").startswith("w: no view or mount")
                assert user.succeeds("exec", "v", "cat", "/tmp/in-mark") == "second\n"
                second.communicate("end\n")
                assert second.returncode == 0


def test_a_mount_keeps_its_name(user: TestUser) -> None:
    lower, target = user.directory("lower"), user.directory("target")
    user.succeeds("mount", "-o", f"lowerdir={lower}", "--name", "mounted", target)
    assert user.refused("rename", "mounted", "w").startswith("mounted: a mount, or a view that")
    user.succeeds("umount", target)


def test_without_a_home_directory_a_rename_is_one_line(user: TestUser) -> None:
    environment = {**os.environ, "HOME": user.path("none")}
    environment.pop("XDG_DATA_HOME", None)
    line = user.refused("rename", "v", "w", env=environment)
    assert line.startswith("there is no home directory to keep a named view in")


@pytest.mark.long
def test_renames_starts_and_ends_at_random_lose_no_tree(user: TestUser) -> None:
    """Each view has its own name in a file; two processes rename views and two end and start them, some are killed."""
    names = ("a", "b", "c", "d")
    chance = random.Random(14)
    with removed(user, *names):
        for name in names[:2]:
            user.succeeds("run", "--name", name, "--", "sh", "-c", f"echo {name} > /tmp/in-mark")
        trees = {os.stat(NamedView(name).path).st_ino: name for name in names[:2]}
        commands = [
            *(("rename", one, other) for one in names for other in names if one != other),
            *((action, name) for name in names for action in ("start", "stop", "kill")),
            *(("run", "-d", "--rm", "--name", name, "--", "sleep", "1000") for name in names),
        ]
        for _ in range(8):
            running = [
                user.start(*given, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
                for given in chance.sample(commands, 4)
            ]
            killed = chance.choice(running)
            if chance.random() < 0.5:
                killed.kill()
            for one in running:
                said = one.communicate()[1]
                assert one is killed or not said or said.startswith("overlaykit: "), said
                assert said.count("\n") <= 1, said
        for name, (state, _) in states(user).items():
            if state == "running":
                user.overlaykit("kill", name)
                user.overlaykit("wait", name)
        user.wait_for_descendants()
        found = {os.stat(NamedView(name).path).st_ino: name for name in states(user)}
        assert set(found) == set(trees)
        for inode, name in found.items():
            assert mark_of(name) == f"{trees[inode]}\n"
        # Removes what killed processes have left: half-made and half-removed views.
        user.succeeds("create", "--name", "last", "true")
        user.succeeds("rm", "last")
