"""Each system shows its layers, fresh in every round, and cleans up."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile

import pytest

from overlaykit.bench.systems import Layers, Show, System, custom, known, processes
from overlaykit.bench.systems.mounting import is_mountpoint
from overlaykit.bench.systems.trial import try_out
from overlaykit.bench.workload import Unfit

from ..views.fixtures import only_as
from ..views.user import TestUser

NAMES = ("plain", "kernel", "overlaykit", "fuse-overlayfs", "unionfs-fuse", "mergerfs")
ROOT_ONLY = {"kernel", "mergerfs"}
"""Systems that an ordinary user cannot mount: mergerfs brings a mount helper without a set-user-ID bit."""

FOREGROUND = "fuse-overlayfs -f -o lowerdir={lower},upperdir={upper},workdir={work} {target}"
DAEMON = 'sh -c \'exec fuse-overlayfs -o "$1" "$2"\' sh lowerdir={lower},upperdir={upper},workdir={work} {target}'


def named(name: str) -> System:
    systems, _ = custom.read([name], [], *known.known())
    return systems[0]


def layers(user: TestUser, *, written_to: bool = True) -> Layers:
    lowers = (
        user.directory("lowers", "top", shared="top", top="top"),
        user.directory("lowers", "bottom", shared="bottom", bottom="bottom"),
    )
    directory = tempfile.mkdtemp(dir=user.scratch)
    return Layers(lowers=lowers, directory=directory, written_to=written_to)


def read(path: str) -> str:
    with open(path) as file:
        return file.read()


def check(user: TestUser, system: System) -> None:
    """Check that a second show is fresh after changes in the first, and that the lowers stay unchanged."""
    given = layers(user)
    with system.over(given) as show:
        for _ in range(2):
            _check_once(show)
    assert sorted(os.listdir(given.lowers[0])) == ["shared", "top"]
    assert read(os.path.join(given.lowers[0], "shared")) == "top"
    assert os.listdir(given.directory) == []


def _check_once(show: Show) -> None:
    with show() as tree:
        assert sorted(os.listdir(tree.path)) == ["bottom", "shared", "top"]
        assert read(os.path.join(tree.path, "shared")) == "top"
        with open(os.path.join(tree.path, "new"), "w") as file:
            file.write("new")
        assert read(os.path.join(tree.path, "new")) == "new"
    assert not os.path.exists(os.path.join(tree.path, "new"))


@pytest.mark.parametrize("name", NAMES)
def test_every_round_finds_the_layers_as_they_are(user: TestUser, name: str) -> None:
    system = named(name)
    if user.is_root or name not in ROOT_ONLY:
        check(user, system)
    else:
        with pytest.raises(Unfit, match=r"takes root|cannot be mounted"):
            check(user, system)


@pytest.mark.parametrize("command", [FOREGROUND, DAEMON])
def test_a_command_of_the_users_own_is_a_system_too(user: TestUser, command: str) -> None:
    check(user, custom.command(f"own={command}"))


def test_names_with_quotes_and_blanks_reach_a_command_whole(user: TestUser) -> None:
    user.scratch = user.directory('it\'s a "place" $HOME')
    check(user, custom.command(f"own={FOREGROUND}"))


def test_a_directory_of_the_users_own_is_measured_in_a_new_one_below_it(user: TestUser) -> None:
    target = user.directory("target", theirs="theirs")
    check(user, custom.directory(target))
    assert os.listdir(target) == ["theirs"]


def test_files_that_are_only_read_are_copied_once(user: TestUser) -> None:
    with named("plain").over(layers(user, written_to=False)) as show:
        with show() as first:
            number = os.stat(first.path).st_ino
        with show() as second:
            assert os.stat(second.path).st_ino == number


def test_a_busy_mount_is_removed_with_the_processes_that_use_it(
    user: TestUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "TIMEOUT_SECONDS", 0.1)
    with named("fuse-overlayfs").over(layers(user)) as show:
        with show() as tree:
            process = subprocess.Popen(["sleep", "infinity"], cwd=tree.path)
        assert not is_mountpoint(tree.path)
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
    process.wait()


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("sh -c 'echo it is broken >&2; exit 3'", "cannot be mounted: it is broken"),
        ("false", "cannot be mounted: exit status 1"),
    ],
)
def test_a_system_that_cannot_be_mounted_is_left_out_with_its_message(
    user: TestUser, command: str, why: str
) -> None:
    able, left_out = try_out(
        [custom.command(f"bad={command} {{lower}} {{upper}} {{target}}"), named("plain")],
        user.scratch,
    )
    assert [system.name for system in able] == ["plain"]
    assert [(one.system, one.workload, one.why) for one in left_out] == [("bad", "", why)]


@only_as("root")
def test_a_failure_while_it_is_shown_unmounts_it(user: TestUser) -> None:
    def fail() -> None:
        with named("overlaykit").over(layers(user)) as show, show() as tree:
            assert stat.S_ISREG(os.stat(os.path.join(tree.path, "shared")).st_mode)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
