"""`overlaykit layer`: what is added is seen in a view; what is damaged or hostile leaves nothing in the store.

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
from ..views.someone import Someone
from ..views.staged import only_as


def archive(someone: Someone, *members: tuple[tarfile.TarInfo, bytes]) -> str:
    path = someone.path("archive.tar.gz")
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


def stored(someone: Someone) -> list[str]:
    return [layer["name"] for layer in json.loads(someone.succeeds("layer", "ls", "--json"))]


def test_a_layer_is_added_listed_used_and_removed(someone: Someone) -> None:
    tool = (member("usr/bin/greet", mode=0o755), b"#!/bin/sh\necho hello\n")
    assert someone.succeeds("layer", "add", "greeter", f"tar:{archive(someone, tool)}") == ""
    (layer,) = json.loads(someone.succeeds("layer", "ls", "--json"))
    assert (layer["name"], layer["files"], layer["bytes"]) == ("greeter", 1, len(tool[1]))
    table = someone.succeeds("layer", "ls")
    assert table.splitlines()[0].split() == [
        "NAME",
        "ADDED",
        "SIZE",
        "FILES",
        "SOURCE",
        "DIRECTORY",
    ]
    assert table.splitlines()[1].split()[0] == "greeter"
    assert someone.succeeds("run", "-l", "greeter", "-l", "host", "greet") == "hello\n"
    assert someone.succeeds("layer", "rm", "greeter") == ""
    assert stored(someone) == []
    assert someone.refused("layer", "rm", "greeter").startswith("there is no layer greeter")


def test_a_directory_becomes_a_layer_that_does_not_change_with_it(someone: Someone) -> None:
    tree = someone.directory("tree", file="before\n")
    someone.succeeds("layer", "add", "tree", f"dir:{tree}")
    someone.write(os.path.join(tree, "file"), "after\n")
    someone.succeeds("run", "-l", "tree", "-l", "host", "grep", "before", "/file")


def test_a_layer_in_use_is_not_removed(someone: Someone) -> None:
    someone.succeeds("layer", "add", "used", f"dir:{someone.directory('tree')}")
    command = ("run", "-l", "used", "-l", "host", "sh", "-c", "echo started; read line")
    with someone.start(*command) as view:
        assert view.stdout is not None
        assert view.stdout.readline() == "started\n"
        assert someone.refused("layer", "rm", "used") == (
            "the layer used is used by a running view; end the view first ('overlaykit ps' lists them)"
        )
        view.communicate("end\n")
    someone.succeeds("layer", "rm", "used")


def test_a_name_is_given_once(someone: Someone) -> None:
    tree = someone.directory("tree")
    someone.succeeds("layer", "add", "name", f"dir:{tree}")
    assert someone.refused("layer", "add", "name", f"dir:{tree}") == (
        "there is already a layer name; choose another name, or remove it with 'overlaykit layer rm name'"
    )
    for bad in "host", "../up", "a b":
        assert someone.refused("layer", "add", bad, f"dir:{tree}").startswith(
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
def test_a_source_that_is_missing_is_told(someone: Someone, source: str, line: str) -> None:
    assert someone.refused("layer", "add", "x", source) == line
    assert stored(someone) == []


@pytest.mark.parametrize("damage", ["cut short", "a byte changed", "no archive at all"])
def test_a_corrupt_archive_leaves_no_half_made_layer(someone: Someone, damage: str) -> None:
    path = archive(someone, *((member(f"file{i}"), os.urandom(20_000)) for i in range(10)))
    with open(path, "rb") as file:
        data = bytearray(file.read())
    if damage == "cut short":
        del data[len(data) // 2 :]
    elif damage == "a byte changed":
        data[len(data) // 2] ^= 0xFF
    else:
        data[:] = os.urandom(1000)
    someone.write(path, bytes(data))
    line = someone.refused("layer", "add", "x", f"tar:{path}")
    assert line.startswith(f"{path} is damaged, cut short, or no archive that can be read (")
    assert line.endswith("); fetch or make it again")
    assert stored(someone) == []


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
def test_an_archive_that_writes_outside_its_layer_adds_nothing(someone: Someone, how: str) -> None:
    path = archive(someone, (member("good"), b"x"), *HOSTILE[how])
    line = someone.refused("layer", "add", "x", f"tar:{path}")
    assert line.startswith(f"{path}: the member {HOSTILE[how][-1][0].name!r} ")
    assert line.endswith(", so nothing was added; make the archive again without it")
    assert stored(someone) == []
    assert not os.path.exists("/var/tmp/outside")


@only_as(
    "root"
)  # who can put a mirror in the place of the machine's; the others' are in tests/layers
def test_a_corrupt_package_leaves_no_half_made_layer(someone: Someone) -> None:
    mirror = Mirror(someone.path("mirror"))
    control = "Package: broken\nVersion: 1\nArchitecture: all\nMaintainer: nobody\nDescription: x\n"
    package = someone.path("mirror", "debian", "pool", "broken_1_all.deb")
    mirror.describe(someone.write(package, os.urandom(500)), control)
    mirror.publish()
    try:
        mirror.use()
        line = someone.refused("layer", "add", "x", "deb:broken@test")
    finally:
        mirror.leave()
    assert "broken_1_all.deb is damaged, cut short, or no archive that can be read (" in line
    assert stored(someone) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_layer_whose_making_is_interrupted_leaves_nothing(
    someone: Someone, number: signal.Signals
) -> None:
    ready = someone.path("ready")
    os.mkfifo(ready)
    programs = someone.directory("programs", zstd=f"#!/bin/sh\necho >{ready}\nexec sleep 60\n")
    os.chmod(os.path.join(programs, "zstd"), 0o755)
    compressed = someone.write(someone.path("archive.tar.zst"), b"\x28\xb5\x2f\xfd")
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    adding = someone.start("layer", "add", "half", f"tar:{compressed}", env=environment)
    with open(ready) as started:
        started.read()
    adding.send_signal(number)
    adding.communicate()
    assert adding.returncode == 128 + number
    store = os.path.join(someone.home, ".local/share/overlaykit/layers")
    assert not os.path.exists(store) or os.listdir(store) == []


def test_a_full_store_is_told_and_not_the_file_that_was_to_be_copied(someone: Someone) -> None:
    tree = someone.directory("tree", file=os.urandom(200_000))
    data = someone.directory("data")
    done = someone.changed_machine(
        f"mount -t tmpfs -o size=64k none {data}; export XDG_DATA_HOME={data}",
        *("layer", "add", "large", f"dir:{tree}"),
    )
    assert done.returncode == 125
    assert done.stderr == (
        f"overlaykit: {data}/overlaykit/layers: No space left on device:"
        " make room there, or set XDG_DATA_HOME to a directory on another disk\n"
    )
