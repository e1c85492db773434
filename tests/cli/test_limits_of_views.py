"""Limits of a view: memory, processors, processes, by control groups of either version."""

from __future__ import annotations

import glob
import os
import signal

import pytest

from ..views.fixtures import only_as, only_with, with_both_drivers
from ..views.user import TestUser

pytestmark = with_both_drivers

AS_ROOT = only_as("root")
"""An ordinary user has control groups only where they are delegated."""

ALL = ("-m", "64m", "--cpus", "0.5", "--cpuset-cpus", "0", "--pids-limit", "20")
HOG = "x = b'x' * (256 << 20)"
STORM = """
import os
children = []
for own in range(6):
    child = os.fork()
    if child == 0:
        for turn in range(2):
            for number in range(6):
                with open(f"/storm/{(own + number) % 6}", "r+b" if own == number else "rb") as file:
                    for at in range(16):
                        assert file.read(1 << 20) == b"x" * (1 << 20)
                    if own == number:
                        file.write(b"y" * (1 << 20))
                        file.truncate(16 << 20)
        os._exit(0)
    children.append(child)
print([os.waitpid(child, 0)[1] for child in children])
"""


def unique() -> str:
    """The name of a view that no other test on this machine has."""
    return f"limited-{os.urandom(4).hex()}"


def groups(name: str) -> list[str]:
    """The control groups of a view."""
    return [
        path
        for depth in ("", "*/", "*/*/", "*/*/*/", "*/*/*/*/")
        for path in glob.glob(f"/sys/fs/cgroup/{depth}overlaykit-{name}-*")
    ]


def contents(name: str, file: str) -> str:
    """What a file of the view's groups says."""
    (path,) = [path for path in groups(name) if os.path.exists(f"{path}/{file}")]
    with open(f"{path}/{file}") as opened:
        return opened.read().strip()


@AS_ROOT
def test_a_view_over_its_memory_is_killed_alone_and_says_so(user: TestUser) -> None:
    name = unique()
    with user.start("run", "-m", "64m", "sh", "-c", "echo other; read line") as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "other\n"
        done = user.overlaykit(
            "run", "--rm", "--name", name, "-m", "64m", "/usr/bin/python3", "-c", HOG
        )
        assert done.returncode == 128 + signal.SIGKILL
        assert done.stderr == (
            "overlaykit: killed, because it needed more than --memory allows: give it more\n"
        )
        assert other.communicate("end\n")[0] == ""
        assert other.returncode == 0
    assert groups(name) == []


@AS_ROOT
@only_with(driver="fuse")
def test_readers_and_writers_of_more_than_the_memory_allows_come_to_an_end(user: TestUser) -> None:
    """The kernel takes pages back while it waits for the daemon, which needs some itself."""
    layer = user.directory("layer")
    os.mkdir(f"{layer}/storm")
    for number in range(6):
        with open(f"{layer}/storm/{number}", "wb") as file:
            file.write(b"x" * (16 << 20))
    options = ("-l", layer, "-l", "host", "-m", "48m")
    assert user.succeeds("run", *options, "/usr/bin/python3", "-c", STORM) == f"{[0] * 6}\n"


@AS_ROOT
def test_another_kill_is_not_taken_for_a_lack_of_memory(user: TestUser) -> None:
    done = user.overlaykit("run", "-m", "64m", "sh", "-c", "kill -KILL $$")
    assert (done.returncode, done.stderr) == (128 + signal.SIGKILL, "")


@AS_ROOT
def test_limits_hold_for_all_processes_and_for_those_that_join(user: TestUser) -> None:
    name = unique()
    script = "echo on; read line"
    with user.start("run", "--rm", "--name", name, *ALL, "sh", "-c", script) as view:
        assert view.stdout is not None
        assert view.stdout.readline() == "on\n"
        assert user.succeeds("exec", name, "nproc") == "1\n"
        assert contents(name, "pids.max") == "20"
        assert int(contents(name, "pids.current")) == 2
        bomb = "i=0; while [ $i -lt 50 ]; do sleep 60 >/dev/null 2>&1 & i=$((i + 1)); done"
        refused = user.overlaykit("exec", name, "sh", "-c", bomb)
        assert refused.returncode == 2
        assert "Cannot fork" in refused.stderr
        assert int(contents(name, "pids.current")) <= 20
        view.communicate("end\n")
        assert view.returncode == 0
    assert groups(name) == []


@AS_ROOT
def test_groups_of_a_killed_view_are_removed_by_the_next(user: TestUser) -> None:
    name = unique()
    with user.start("run", "--rm", "--name", name, *ALL, "sh", "-c", "echo on; read line") as view:
        assert view.stdout is not None
        assert view.stdout.readline() == "on\n"
        view.kill()
    user.wait_for_descendants()
    user.succeeds("run", *ALL, "true")
    assert groups(name) == []


@AS_ROOT
def test_a_weight_is_set_for_what_divides_a_disk(user: TestUser) -> None:
    # BFQ and io.cost; `test_io_weight.py` sees the effect.
    expected = {"blkio.bfq.weight": "1000", "io.bfq.weight": "1000", "io.weight": "2000"}
    name = unique()
    options = ("--rm", "--name", name, "--io-weight", "2000")
    with user.start("run", *options, "sh", "-c", "echo on; read line") as view:
        assert view.stdout is not None
        assert view.stdout.readline() == "on\n"
        found = {
            file: contents(name, file).split()[-1]
            for file in expected
            if any(os.path.exists(f"{path}/{file}") for path in groups(name))
        }
        assert found
        assert found == {file: expected[file] for file in found}
        view.communicate("end\n")
    assert groups(name) == []


@AS_ROOT
@only_with(host=True)
def test_a_view_for_several_commands_has_one_set_of_groups(user: TestUser) -> None:
    from overlaykit.namespace import Limits
    from overlaykit.views import View

    name = unique()
    with View(["host"], name=name, limits=Limits(pids=20)) as view:
        for _ in range(2):
            view.run(["true"], check=True)
            assert len(groups(name)) == 1
    assert groups(name) == []


@only_as("ordinary user")
def test_an_ordinary_user_is_told_how_limits_are_delegated(user: TestUser) -> None:
    line = user.refused("run", "-m", "64m", "true")
    assert line.startswith(
        "--memory: the controller memory cannot be used here (Permission denied)"
    )
    assert "systemd-run --user --scope -p Delegate=yes" in line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-m", "5"), "--memory 5: give 512k at least"),
        (("-m", "x"), "--memory x: give a number with b, k, m, g or t, such as 512m"),
        (("--memory-swap", "1g"), "--memory-swap 1073741824: give --memory as well"),
        (
            ("-m", "2m", "--memory-swap", "1m"),
            "--memory-swap 1048576: give --memory and more, or -1",
        ),
        (("--cpus", "0"), "--cpus 0.0: give 0.01 at least"),
        (("--cpus", "nan"), "--cpus nan: give 0.01 at least"),
        (("--cpuset-cpus", "a"), "--cpuset-cpus a: give processors such as 0-2,5"),
        (("--pids-limit", "0"), "--pids-limit 0: give 1 at least, or -1"),
        (("--io-weight", "0"), "--io-weight 0: give 1 to 10000"),
    ],
)
def test_a_limit_that_makes_no_sense_is_named(
    user: TestUser, options: tuple[str, ...], said: str
) -> None:
    assert user.refused("run", *options, "true") == said


@AS_ROOT
def test_a_limit_that_the_machine_cannot_give_is_named_and_leaves_nothing(user: TestUser) -> None:
    name = unique()
    line = user.refused("run", "--rm", "--name", name, "-m", "64m", "--cpuset-cpus", "4000", "true")
    assert line.startswith("--cpuset-cpus: the controller cpuset cannot be used here")
    assert groups(name) == []
