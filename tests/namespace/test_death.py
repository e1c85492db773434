"""When any process of a view dies, the others end and nothing is left."""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress

import pytest

from overlaykit import namespace
from overlaykit.procfs import children, descendants

from .harness import LaunchHarness, line

VIEW = ("sh", "-c", "sleep 1000 & setsid sleep 1000 & echo started; wait")


def reap_adopted() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


@pytest.mark.parametrize("victim", ["launcher", "monitor", "init"])
def test_when_one_is_killed_all_end(harness: LaunchHarness, victim: str) -> None:
    root = harness.root()
    with harness.piped() as printed:
        launcher = os.fork()
        if launcher == 0:
            ports = (namespace.Port(host=0, view=80),)
            with harness.launch(*VIEW, root=root, ports=ports) as running:
                os._exit(running.wait())
        assert line(printed) == b"started\n"
        (monitor,) = children(launcher)
        (init,) = children(monitor)
        everything = [os.pidfd_open(process) for process in descendants(launcher)]
        assert len(everything) == 5  # monitor, init, the shell and what it started
        victims = {"launcher": launcher, "monitor": monitor, "init": init}
        os.kill(victims[victim], signal.SIGKILL)
        for process in everything:
            select.select([process], [], [])
            os.close(process)
        status = os.waitstatus_to_exitcode(os.waitpid(launcher, 0)[1])
        assert status == (-signal.SIGKILL if victim == "launcher" else 137)
        reap_adopted()


def test_what_a_command_leaves_behind_ends_with_it(harness: LaunchHarness) -> None:
    script = "setsid sleep 1000 & (setsid sh -c 'sleep 1000 & echo $!' &) ; echo started; read line"
    reader, writer = os.pipe()
    stdin = os.dup(0)
    os.dup2(reader, 0)
    with harness.piped() as printed, harness.launch("sh", "-c", script) as running:
        line(printed), line(printed)
        assert len(descendants(running.init_pid)) >= 3  # the shell and what it leaves behind
        os.write(writer, b"\n")
        assert running.wait() == 0
        for process in descendants(running.init_pid):
            pytest.fail(f"{process} is left")
    os.dup2(stdin, 0)
    for descriptor in (reader, writer, stdin):
        os.close(descriptor)


def test_orphans_are_reaped_while_the_command_runs(harness: LaunchHarness) -> None:
    script = (
        "import os, subprocess, sys\n"
        "reader, writer = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    if os.fork() == 0:\n"
        "        os.read(reader, 1)\n"  # until its parent is gone and it is init's
        "        os._exit(0)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "pids = [int(p) for p in os.listdir('/proc') if p.isdecimal()]\n"
        "orphan = os.pidfd_open(max(pids))\n"
        "os.write(writer, b'x')\n"
        "import select; select.select([orphan], [], [])\n"
        # Init reaps it after the pidfd is readable: only then is its process id free.
        "while os.path.exists(f'/proc/{max(pids)}'): os.sched_yield()\n"
        "print('reaped')\n"
    )
    assert harness.output("python3", "-c", script) == "reaped\n"


def test_a_view_knows_how_many_processes_it_holds(harness: LaunchHarness) -> None:
    with harness.piped() as printed, harness.launch(*VIEW) as running:
        assert line(printed) == b"started\n"
        assert running.count() == 4  # init, the shell, and two
        running.kill()
        assert running.wait() == 137
        assert running.count() == 0


def test_closing_ends_a_view_and_closing_again_does_nothing(harness: LaunchHarness) -> None:
    running = harness.launch("sleep", "1000")
    running.close()
    assert children(os.getpid()) == [harness.keeper] * (not harness.privileged)
    running.close()


def test_an_exception_in_the_callers_block_ends_the_view(harness: LaunchHarness) -> None:
    with pytest.raises(ZeroDivisionError), harness.launch("sleep", "1000"):
        raise ZeroDivisionError
    assert children(os.getpid()) == [harness.keeper] * (not harness.privileged)


def state() -> tuple[list[str], str, list[int]]:
    with open("/proc/self/mountinfo") as mountinfo:
        mounts = mountinfo.read()
    return sorted(os.listdir("/proc/self/fd")), mounts, children(os.getpid())


def test_twenty_launches_good_and_bad_leave_nothing(harness: LaunchHarness) -> None:
    harness.run("true")
    harness.roots.append(before_root := harness.roots.pop())
    before = state()
    for number in range(20):
        ports = (namespace.Port(host=0, view=80),) if number % 5 == 0 else ()
        if number % 4 == 3:
            with pytest.raises(namespace.CommandNotFound):
                harness.launch("no-such-thing", ports=ports)
        else:
            assert harness.run("true", ports=ports) == 0
        os.close(harness.roots.pop())
    assert before_root in harness.roots
    assert state() == before


def test_a_launch_that_fails_while_it_is_being_built_leaves_no_zombie(
    harness: LaunchHarness,
) -> None:
    before = children(os.getpid())
    binds = (namespace.Bind(source="/no/such/source", target="/mnt"),)
    # Init may fail before or after the monitor has reported its process id.
    for _ in range(50):
        with pytest.raises(namespace.BindSourceMissing):
            harness.launch("true", binds=binds)
        os.close(harness.roots.pop())
    assert children(os.getpid()) == before


def test_no_process_of_a_view_holds_the_callers_descriptors(harness: LaunchHarness) -> None:
    reader, writer = os.pipe()
    with harness.launch("sleep", "1000"):
        os.close(writer)
        assert os.read(reader, 1) == b"", "a view's process holds the caller's pipe"
    os.close(reader)
