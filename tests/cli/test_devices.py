"""The /dev of a view: what is in it, and what `--device`, `--gpus`, `--tmpfs` and `--shm-size` add."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from overlaykit import _native

from ..posix.syscalls import MNT_DETACH, MS_BIND
from ..views.fixtures import only_as, with_both_drivers
from ..views.user import TestUser

MINIMAL = {
    *("null", "zero", "full", "random", "urandom", "tty", "fuse"),
    *("fd", "stdin", "stdout", "stderr", "ptmx", "pts", "shm", "mqueue"),
}


@with_both_drivers
def test_the_devices_of_a_view_are_few_and_work(user: TestUser) -> None:
    assert set(user.succeeds("run", "--", "ls", "/dev").split()) == MINIMAL
    script = (
        "echo x >/dev/null && head -c 3 /dev/zero | od -An -tx1 && head -c 3 /dev/urandom | wc -c"
        " && head -c 3 /dev/random | wc -c && ! echo x 2>&- >/dev/full && test -d /dev/mqueue"
        " && echo in | cat /dev/stdin && echo out >/dev/stdout && touch /dev/shm/f && test -e /dev/ptmx"
    )
    assert user.succeeds("run", "--", "sh", "-c", script).split() == [
        *("00", "00", "00", "3", "3", "in", "out")
    ]


def test_a_device_can_be_added_and_renamed(user: TestUser) -> None:
    device = "/dev/net/tun" if os.path.exists("/dev/net/tun") else "/dev/null"
    options = (
        "--device",
        device,
        "--device",
        "/dev/null:/dev/sub/other:rw",
        "--device",
        "/dev/zero:rwm",
    )
    script = (
        f"stat -c %F {device} /dev/sub/other; echo x >/dev/sub/other; head -c 1 /dev/zero | wc -c"
    )
    assert user.succeeds("run", *options, "--", "sh", "-c", script).splitlines() == [
        "character special file",
        "character special file",
        "1",
    ]


@only_as("root")
def test_a_directory_stands_for_its_devices(user: TestUser) -> None:
    directory = user.directory("devices", file="no device")
    os.mknod(os.path.join(directory, "one"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mkdir(os.path.join(directory, "below"))
    os.mknod(os.path.join(directory, "below", "two"), stat.S_IFCHR | 0o666, os.makedev(1, 5))
    script = "stat -c '%n %t,%T %F' /dev/some/* /dev/some/below/*"
    found = user.succeeds("run", "--device", f"{directory}:/dev/some", "--", "sh", "-c", script)
    assert found.splitlines() == [
        "/dev/some/below 0,0 directory",
        "/dev/some/one 1,3 character special file",
        "/dev/some/below/two 1,5 character special file",
    ]


@only_as("root")
@pytest.mark.parametrize(
    ("options", "nodes"),
    [
        (("--gpus", "all"), {"/dev/dri/card0", "/dev/dri/renderD128", "/dev/nvidia0"}),
        (("--device", "amd.com/gpu=all"), {"/dev/dri/card0", "/dev/dri/renderD128"}),
        (
            ("--device", "nvidia.com/gpu=all"),
            {"/dev/dri/card0", "/dev/dri/renderD128", "/dev/nvidia0"},
        ),
    ],
)
def test_gpus_are_named_by_kind(user: TestUser, options: tuple[str, ...], nodes: set[str]) -> None:
    with own_dev(user, "dri/card0", "dri/renderD128", "nvidia0"):
        found = user.succeeds("run", *options, "--", "find", "/dev", "-name", "[cnr]*[0-9]")
    assert set(found.split()) == nodes


@only_as("root")
def test_a_machine_without_a_gpu_says_so(user: TestUser) -> None:
    with own_dev(user):
        for options in (("--gpus", "all"), ("--device", "amd.com/gpu=all")):
            line = user.refused("run", *options, "--", "true")
            assert line.startswith(f"{' '.join(options)}: this machine has no such GPU")


@contextmanager
def own_dev(user: TestUser, *nodes: str) -> Iterator[None]:
    """A /dev of the test's own mount namespace, with what a view needs and more nodes."""
    names = ("null", "zero", "full", "random", "urandom", "tty", "fuse")
    kept = {name: os.open(f"/dev/{name}", os.O_PATH) for name in names}
    _native.mount("dev", "/dev", "tmpfs", 0, "mode=0755")
    for name, descriptor in kept.items():
        user.write(f"/dev/{name}", "")
        _native.mount(f"/proc/self/fd/{descriptor}", f"/dev/{name}", None, MS_BIND)
        os.close(descriptor)
    os.symlink("/proc/self/fd", "/dev/fd")
    for node in nodes:
        os.makedirs(os.path.dirname(f"/dev/{node}"), exist_ok=True)
        os.mknod(f"/dev/{node}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    try:
        yield
    finally:
        _native.umount2("/dev", MNT_DETACH)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/dev/no-such", "--device /dev/no-such: No such file or directory"),
        ("/etc/passwd", "--device /etc/passwd: no device"),
        ("dev/null", "--device dev/null: no absolute path"),
        ("/dev/null:r", "--device /dev/null:r: a program cannot be held"),
        ("/dev/null:x", "--device /dev/null:x: 'x' is no access"),
        ("nvidia.com/gpu=0", "--device nvidia.com/gpu=0: '0' cannot be told apart"),
    ],
)
def test_a_device_that_cannot_be_had_is_named(user: TestUser, text: str, said: str) -> None:
    assert user.refused("run", "--device", text, "--", "true").startswith(said)


@with_both_drivers
def test_an_empty_file_system_in_memory_covers_a_path(user: TestUser) -> None:
    upper = user.path("upper")
    options = (
        "--upper",
        upper,
        "--tmpfs",
        "/opt/a:size=1m,mode=0750",
        "--mount",
        "type=tmpfs,dst=/etc,tmpfs-size=2m",
    )
    script = (
        "stat -f -c %T /opt/a /etc; stat -c %a /opt/a /etc; ls -A /etc | grep -v hosts; echo x > /opt/a/f;"
        " head -c 2M /dev/zero > /opt/a/g; cat /opt/a/f"
    )
    done = user.overlaykit("run", *options, "--", "sh", "-c", script)
    assert done.returncode == 0
    assert done.stdout.split() == ["tmpfs", "tmpfs", "750", "1777", "x"]
    assert "No space left" in done.stderr
    assert not os.path.exists(os.path.join(upper, "opt", "a", "f"))


def test_a_mount_in_memory_has_the_options_that_are_asked_for(user: TestUser) -> None:
    script = (
        "for at in /a /b; do grep \" $at tmpfs\" /proc/mounts | cut -d' ' -f4 | cut -d, -f1-4; done"
    )
    assert user.succeeds(
        "run", "--tmpfs", "/a", "--tmpfs", "/b:exec,ro", "--", "sh", "-c", script
    ) == ("rw,nosuid,nodev,noexec\nro,nosuid,nodev,relatime\n")


def test_a_bind_below_a_mount_in_memory_is_seen(user: TestUser) -> None:
    shared = user.directory("shared", file="text")
    options = ("-v", f"{shared}:/opt/a/b", "--tmpfs", "/opt/a")
    assert user.succeeds("run", *options, "--", "cat", "/opt/a/b/file") == "text"


def test_shared_memory_has_the_size_that_is_asked_for(user: TestUser) -> None:
    script = "df -k --output=size /dev/shm | tail -1"
    assert user.succeeds("run", "--shm-size", "8m", "--", "sh", "-c", script).strip() == "8192"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--tmpfs", "opt"), "--tmpfs opt: the target 'opt' is not absolute"),
        (("--tmpfs", "/"), "--tmpfs /: / cannot be covered"),
        (("--tmpfs", "/proc"), "--tmpfs /proc: /proc cannot be covered"),
        (("--tmpfs", "/a:size=big"), "--tmpfs /a:size=big: 'size=big'"),
        (("--tmpfs", "/a:mode=99"), "--tmpfs /a:mode=99: 'mode=99'"),
        (("--mount", "type=tmpfs"), "--mount type=tmpfs: the target ''"),
        (("--mount", "type=tmpfs,dst=/a,src=/b"), "--mount type=tmpfs,dst=/a,src=/b: 'src=/b'"),
        (("--shm-size", "much"), "--shm-size much: no size"),
    ],
)
def test_a_mount_in_memory_that_cannot_be_is_named(
    user: TestUser, options: tuple[str, ...], said: str
) -> None:
    assert user.refused("run", *options, "--", "true").startswith(said)
