"""A machine that has a name and runs without its caller."""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from overlaykit.layers import kernels
from overlaykit.views.machine import SUITE

from .run import ENOUGH, overlaykit, printed

pytestmark = [pytest.mark.xdist_group("guests"), pytest.mark.long]

SCRIPT = """
trap "echo ended; exit 9" TERM
echo start >>/starts; cat /starts; echo error >&2
while :; do sleep 0.1; done
"""


@contextlib.contextmanager
def following(name: str) -> Iterator[subprocess.Popen[bytes]]:
    """What a machine prints, as it comes."""
    command = [sys.executable, "-m", "overlaykit", "logs", "-f", name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as log:
        try:
            yield log
        finally:
            log.kill()


@pytest.fixture
def named(loadable: str) -> Iterator[str]:
    """The name of a machine that runs, with the kernel of the store."""
    _, top = kernels.place()
    os.makedirs(top, exist_ok=True)
    os.symlink(loadable, os.path.join(top, SUITE))
    name = f"machine-{os.urandom(4).hex()}"
    run = ("run", "--vm", "-d", "--name", name, "--disk", "64m", "--", "sh", "-c", SCRIPT)
    assert printed(*run) == f"{name}\n"
    yield name
    overlaykit("kill", name)  # where the test has failed


def test_a_machine_in_the_background_is_stopped_started_killed_and_removed(
    named: str, tmp_path: pathlib.Path
) -> None:
    with following(named) as log:
        assert log.stdout is not None
        assert log.stdout.readline() == b"start\n"
        assert named in printed("ps")
        assert overlaykit("rm", named)[0] == 125
        script = "cat; id -un; echo error >&2; cat /starts; exit 4"
        command = ("exec", "-u", "nobody", "-w", "/tmp", named, "--", "sh", "-c", script)
        assert overlaykit(*command) == (4, "nobody\nstart\n", "error\n")
        assert overlaykit("exec", named, "no-such")[0] == 127
        line = f"stty rows 7; {sys.executable} -m overlaykit exec -it {named} stty size; exit $?"
        typed = subprocess.run(
            ["script", "-qec", line, "/dev/null"],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            check=True,
            timeout=ENOUGH,
        )
        assert b"7 0" in typed.stdout
        other = (sys.executable, "-m", "overlaykit", "exec", named, "sh", "-c", "echo up; cat")
        with subprocess.Popen(
            other, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        ) as killed:
            assert killed.stdout is not None
            assert killed.stdout.readline() == b"up\n"
            killed.kill()
        left = "while grep -qx cat /proc/[0-9]*/comm; do sleep 0.1; done"
        assert overlaykit("exec", named, "--", "sh", "-c", left)[0] == 0
        printed("stop", named)
        assert printed("wait", named) == "9\n"
        assert log.stdout.read() == b"ended\n"
    assert overlaykit("logs", named) == (0, "start\nended\n", "error\n")
    assert printed("diff", named, "/starts") == "A  /starts\n1 added\n"
    disk = str(tmp_path / "overlaykit" / "views" / named / "disk")
    assert f"answers   file       {disk}:/starts\n" in printed("explain", named, "/starts")
    status, _, errors = overlaykit("apply", named)
    assert (status, "--to" in errors) == (125, True)
    target = tmp_path / "target"
    target.mkdir()
    assert overlaykit("apply", named, "/starts", "--to", str(target))[0] == 0
    assert (target / "starts").read_bytes() == b"start\n"
    printed("start", named)
    with following(named) as log:
        assert log.stdout is not None
        lines = [log.stdout.readline() for _ in range(4)]
        assert lines == [b"start\n", b"ended\n", b"start\n", b"start\n"]
        assert overlaykit("apply", named, "--to", str(target))[0] == 125
        printed("rename", named, f"{named}-again")
        named += "-again"
        printed("kill", named)
        assert printed("wait", named) == "137\n"
    # Of a disk that the guest has not unmounted.
    assert "A  /starts\n" in printed(
        "diff", os.path.join(os.path.dirname(disk) + "-again", "disk"), "-l", "host"
    )
    printed("rm", named)
    assert os.listdir(tmp_path / "overlaykit" / "views") == []


def test_a_machine_that_fails_is_started_again_with_what_it_has_written(loadable: str) -> None:
    name = f"machine-{os.urandom(4).hex()}"
    run = ("run", "--vm", "--kernel", loadable, "-d", "--name", name, "--restart", "on-failure:1")
    assert printed(*run, "--", "sh", "-c", "echo line >>/n; cat /n; exit 3") == f"{name}\n"
    with following(name) as log:
        assert log.stdout is not None
        assert [log.stdout.readline() for _ in range(3)] == [b"line\n"] * 3
    assert printed("wait", name) == "3\n"
    assert printed("diff", name, "/n") == "A  /n\n1 added\n"
    printed("rm", name)
