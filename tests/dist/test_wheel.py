"""The wheel works where there is no checkout, and holds what it should."""

from __future__ import annotations

import configparser
import json
import os
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator

import pytest

from overlaykit import __version__
from overlaykit.rmtree import rmtree_path

from ..views.user import CHECKOUT, TestUser
from .installation import Distributions, build, install

pytestmark = pytest.mark.xdist_group("wheel")


@pytest.fixture(scope="session")
def distributions() -> Iterator[Distributions]:
    directory = tempfile.mkdtemp(prefix="overlaykit-test-", dir="/var/tmp")
    try:
        os.chmod(directory, 0o755)
        yield build(directory)
    finally:
        rmtree_path(directory)


def test_the_wheel_holds_the_package_alone_with_types_licence_and_programs(
    distributions: Distributions,
) -> None:
    assert f"overlaykit-{__version__}-cp311-abi3-linux_" in distributions.wheel
    with zipfile.ZipFile(distributions.wheel) as wheel:
        names = set(wheel.namelist())
        info = f"overlaykit-{__version__}.dist-info"
        programs = configparser.ConfigParser(delimiters="=")
        programs.read_string(wheel.read(f"{info}/entry_points.txt").decode())
    tops = {name.partition("/")[0] for name in names}
    assert tops - {f"overlaykit-{__version__}.data"} == {"overlaykit", info}
    assert f"{info}/licenses/LICENSE" in names
    share = f"overlaykit-{__version__}.data/data/share/man"
    assert {f"{share}/man1/overlaykit-run.1", f"{share}/man8/mount.fuse.overlaykit.8"} <= names
    for name in (
        "_guest_init",
        "_supervisor",
        "_seccomp_default.bpf",
        "_seccomp_terminal.bpf",
        "_seccomp_machine.bpf",
        "_seccomp_threads.bpf",
        "_seccomp_daemon.bpf",
        "_seccomp_mount_daemon.bpf",
        "_seccomp_server.bpf",
        "_native.abi3.so",
        "_native.pyi",
        "py.typed",
    ):
        assert f"overlaykit/{name}" in names
    assert set(programs["console_scripts"]) == {"overlaykit", "mount.fuse.overlaykit"}
    modules = {name for name in names if name.endswith(".py")}
    assert modules == set(_modules())


def _modules() -> Iterator[str]:
    """The package's files in the checkout."""
    for directory, _, names in os.walk(os.path.join(CHECKOUT, "overlaykit")):
        relative = os.path.relpath(directory, CHECKOUT)
        yield from (f"{relative}/{name}" for name in names if name.endswith(".py"))


def test_the_sdist_holds_what_the_set_up_and_the_build_need(distributions: Distributions) -> None:
    top = f"overlaykit-{__version__}"
    with tarfile.open(distributions.sdist) as sdist:
        names = set(sdist.getnames())
    for directory in ("native", "setup", "examples"):
        for name in os.listdir(os.path.join(CHECKOUT, directory)):
            assert name.startswith(("__", ".")) or f"{top}/{directory}/{name}" in names, name
    assert f"{top}/Makefile" in names


def test_the_main_commands_run_from_the_wheel_alone(
    user: TestUser, distributions: Distributions
) -> None:
    user.set_deadline(120)
    programs = install(distributions.wheel, user.path("environment"))
    kept = {name: os.environ[name] for name in os.environ if not name.startswith("PYTHON")}
    environment = kept | {"PATH": f"{programs}:{os.environ['PATH']}"}

    def run(*command: str) -> str:
        return user.program(list(command), env=environment)

    where = run("python", "-c", "import overlaykit; print(overlaykit.__file__)")
    assert where.startswith(user.path("environment"))
    assert run("overlaykit", "--version") == f"overlaykit {__version__}\n"
    assert "explain" in run("overlaykit", "--help")
    doctor = subprocess.run(
        ["overlaykit", "doctor"], env=environment, capture_output=True, text=True, check=False
    )
    assert (doctor.returncode in (0, 1), doctor.stderr) == (True, "")
    assert "overlaykit" in run("overlaykit", "bench", "--list")

    top = user.directory("top", file="top")
    target = user.directory("target")
    for mount in (
        ("overlaykit", "mount", "-o", f"lowerdir={top}", target),
        ("mount.fuse.overlaykit", "overlaykit", target, "-o", f"lowerdir={top}"),
    ):
        run(*mount)
        assert run("overlaykit", "explain", target, "/file").startswith("/file\n")
        assert target in run("overlaykit", "ps")
        run("overlaykit", "umount", target)
        assert os.listdir(target) == []

    run("overlaykit", "layer", "add", "one", f"dir:{top}")
    assert [layer["name"] for layer in json.loads(run("overlaykit", "layer", "ls", "--json"))] == [
        "one"
    ]
    assert run("overlaykit", "run", "-l", "one", "-l", "host", "--", "cat", "/file") == "top"
    run("overlaykit", "run", "--", "true")
    run("overlaykit", "layer", "rm", "one")
