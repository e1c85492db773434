"""`overlaykit layer`: a view shows an added layer; a damaged or hostile source leaves nothing in the store.

The kinds of sources have their own tests in tests/layers; these are what a user of the command sees.
"""

from __future__ import annotations

import io
import json
import os
import signal
import tarfile

import pytest

from ..layers.mirror import Mirror
from ..views.fixtures import only_as
from ..views.user import TestUser


def archive(user: TestUser, *members: tuple[tarfile.TarInfo, bytes]) -> str:
    path = user.path("archive.tar.gz")
    with tarfile.open(path, "w:gz") as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def member(name: str, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def stored(user: TestUser) -> list[str]:
    return [layer["name"] for layer in json.loads(user.succeeds("layer", "ls", "--json"))]


def test_a_layer_is_added_listed_used_and_removed(user: TestUser) -> None:
    tool = (member("usr/bin/greet", mode=0o755), b"#!/bin/sh\necho hello\n")
    assert user.succeeds("layer", "add", "greeter", f"tar:{archive(user, tool)}") == ""
    (layer,) = json.loads(user.succeeds("layer", "ls", "--json"))
    assert (layer["name"], layer["files"], layer["bytes"]) == ("greeter", 1, len(tool[1]))
    table = user.succeeds("layer", "ls")
    assert table.splitlines()[0].split() == [
        "NAME",
        "ADDED",
        "SIZE",
        "FILES",
        "SOURCE",
        "DIRECTORY",
    ]
    assert table.splitlines()[1].split()[0] == "greeter"
    assert user.succeeds("run", "-l", "greeter", "-l", "host", "greet") == "hello\n"
    user.wait_for_descendants()  # the daemon has the layer
    assert user.succeeds("layer", "rm", "greeter") == ""
    assert stored(user) == []
    assert user.refused("layer", "rm", "greeter").startswith("there is no layer greeter")


def test_a_directory_becomes_a_layer_that_does_not_change_with_it(user: TestUser) -> None:
    tree = user.directory("tree", file="before\n")
    user.succeeds("layer", "add", "tree", f"dir:{tree}")
    user.write(os.path.join(tree, "file"), "after\n")
    user.succeeds("run", "-l", "tree", "-l", "host", "grep", "before", "/file")


def test_a_layer_in_use_is_not_removed(user: TestUser) -> None:
    user.succeeds("layer", "add", "used", f"dir:{user.directory('tree')}")
    command = ("run", "-l", "used", "-l", "host", "sh", "-c", "echo started; read line")
    with user.start(*command) as view:
        assert view.stdout is not None
        assert view.stdout.readline() == "started\n"
        assert user.refused("layer", "rm", "used") == (
            "the layer used is used by a running view; end the view first ('overlaykit ps' lists them)"
        )
        view.communicate("end\n")
    user.wait_for_descendants()  # the daemon has the layer
    user.succeeds("layer", "rm", "used")


def test_a_name_in_use_is_refused(user: TestUser) -> None:
    tree = user.directory("tree")
    user.succeeds("layer", "add", "name", f"dir:{tree}")
    assert user.refused("layer", "add", "name", f"dir:{tree}") == (
        "there is already a layer name; choose another name, or remove it with 'overlaykit layer rm name'"
    )
    for bad in "host", "../up", "a b":
        assert user.refused("layer", "add", bad, f"dir:{tree}").startswith(
            f"{bad!r} cannot name a layer"
        )


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (
            "nonsense",
            "'nonsense' is no source of a layer; write dir:PATH, tar:PATH or deb:PACKAGE[,PACKAGE]@SUITE",
        ),
        ("dir:/no/such", "/no/such does not exist; give the path of a directory"),
        ("tar:/no/such", "/no/such does not exist; give the path of a tar archive"),
    ],
)
def test_a_missing_source_is_reported(user: TestUser, source: str, line: str) -> None:
    assert user.refused("layer", "add", "x", source) == line
    assert stored(user) == []


@pytest.mark.parametrize("damage", ["cut short", "a byte changed", "no archive at all"])
def test_a_corrupt_archive_leaves_no_incomplete_layer(user: TestUser, damage: str) -> None:
    path = archive(user, *((member(f"file{i}"), os.urandom(20_000)) for i in range(10)))
    with open(path, "rb") as file:
        data = bytearray(file.read())
    if damage == "cut short":
        del data[len(data) // 2 :]
    elif damage == "a byte changed":
        data[len(data) // 2] ^= 0xFF
    else:
        data[:] = os.urandom(1000)
    user.write(path, bytes(data))
    line = user.refused("layer", "add", "x", f"tar:{path}")
    assert line.startswith(f"{path} is damaged, cut short, or no archive that can be read (")
    assert line.endswith("); fetch or make it again")
    assert stored(user) == []


HOSTILE = {
    "climbs out": [(member("../../outside"), b"x")],
    "climbs out on the way": [(member("a/../../outside"), b"x")],
    "goes through a symbolic link": [
        (member("link", type=tarfile.SYMTYPE, linkname="/var/tmp"), b""),
        (member("link/outside"), b"x"),
    ],
    "is a hard link out": [
        (member("hard", type=tarfile.LNKTYPE, linkname="../../../../etc/passwd"), b"")
    ],
}


@pytest.mark.parametrize("how", HOSTILE)
def test_an_archive_that_writes_outside_its_layer_adds_nothing(user: TestUser, how: str) -> None:
    path = archive(user, (member("good"), b"x"), *HOSTILE[how])
    line = user.refused("layer", "add", "x", f"tar:{path}")
    assert line.startswith(f"{path}: the member {HOSTILE[how][-1][0].name!r} ")
    assert line.endswith(", so nothing was added; make the archive again without it")
    assert stored(user) == []
    assert not os.path.exists("/var/tmp/outside")


# Only root can replace the machine's mirror. Other tests with a mirror are in tests/layers.
@only_as("root")
def test_a_corrupt_package_leaves_no_incomplete_layer(user: TestUser) -> None:
    mirror = Mirror(user.path("mirror"))
    control = "Package: broken\nVersion: 1\nArchitecture: all\nMaintainer: nobody\nDescription: x\n"
    package = user.path("mirror", "debian", "pool", "broken_1_all.deb")
    mirror.describe(user.write(package, os.urandom(500)), control)
    mirror.publish()
    try:
        mirror.use()
        line = user.refused("layer", "add", "x", "deb:broken@test")
    finally:
        mirror.leave()
    assert "broken_1_all.deb is damaged, cut short, or no archive that can be read (" in line
    assert stored(user) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_layer_leaves_nothing(user: TestUser, number: signal.Signals) -> None:
    ready = user.path("ready")
    os.mkfifo(ready)
    programs = user.directory("programs", zstd=f"#!/bin/sh\necho >{ready}\nexec sleep 60\n")
    os.chmod(os.path.join(programs, "zstd"), 0o755)
    compressed = user.write(user.path("archive.tar.zst"), b"\x28\xb5\x2f\xfd")
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    adding = user.start("layer", "add", "half", f"tar:{compressed}", env=environment)
    with open(ready) as started:
        started.read()
    adding.send_signal(number)
    adding.communicate()
    assert adding.returncode == 128 + number
    store = os.path.join(user.home, ".local/share/overlaykit/layers")
    assert not os.path.exists(store) or os.listdir(store) == []


def test_a_full_store_is_reported_and_not_the_source_file(user: TestUser) -> None:
    tree = user.directory("tree", file=os.urandom(200_000))
    data = user.directory("data")
    done = user.changed_machine(
        f"mount -t tmpfs -o size=64k none {data}; export XDG_DATA_HOME={data}",
        *("layer", "add", "large", f"dir:{tree}"),
    )
    assert done.returncode == 125
    assert done.stderr == (
        f"overlaykit: {data}/overlaykit/layers: No space left on device:"
        " make room there, or set XDG_DATA_HOME to a directory on another disk\n"
    )
