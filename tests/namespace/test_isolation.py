"""Isolation: what a view sees of the machine and of itself."""

from __future__ import annotations

import os
import socket
import tempfile

import pytest

from overlaykit import _native, namespace

from .harness import LaunchHarness

pytestmark = pytest.mark.as_each_user


def test_a_view_sees_only_its_own_processes(harness: LaunchHarness) -> None:
    pids = harness.output("sh", "-c", "cd /proc; echo [0-9]*").split()
    assert pids == ["1", "2"]


def test_a_view_has_its_own_host_name(harness: LaunchHarness) -> None:
    before = socket.gethostname()
    assert harness.output("uname", "-n", hostname="elsewhere") == "elsewhere\n"
    assert socket.gethostname() == before


@pytest.mark.parametrize("network", ["private", "none"])
def test_a_view_has_a_loopback_of_its_own_that_is_up(harness: LaunchHarness, network: str) -> None:
    program = (
        "import socket; s = socket.create_server(('127.0.0.1', 80));"
        "socket.create_connection(('127.0.0.1', 80)); print(len(socket.if_nameindex()))"
    )
    interfaces = harness.output("python3", "-c", program, network=network)
    assert int(interfaces) <= len(socket.if_nameindex())
    names = harness.output("ls", "/sys/class/net", network=network).split()
    assert "lo" in names
    assert "eth0" not in names


def test_the_hosts_network_is_there_when_asked_for(harness: LaunchHarness) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        program = f"import socket; socket.create_connection({address!r}); print('reached')"
        assert harness.output("python3", "-c", program, network="host") == "reached\n"


def test_dev_holds_the_usual_devices_that_work(harness: LaunchHarness) -> None:
    script = (
        "echo gone > /dev/null; head -c 2 /dev/zero | od -An -tx1; ls /dev/fd/1 /dev/stdout >/dev/null;"
        "touch /dev/shm/x; test -c /dev/pts/ptmx && test -c /dev/tty && ls /dev"
    )
    printed = harness.output("sh", "-c", script).split()
    assert printed[:2] == ["00", "00"]
    devices = {"full", "null", "ptmx", "pts", "random", "shm", "tty", "urandom", "zero"}
    assert devices <= set(printed[2:])


def test_a_terminal_can_be_made_inside(harness: LaunchHarness) -> None:
    program = "import os, pty; pid, fd = pty.fork(); pid or os._exit(7); print(os.waitpid(pid, 0)[1] >> 8)"
    assert harness.output("python3", "-c", program) == "7\n"


def test_what_describes_the_machine_cannot_be_changed(harness: LaunchHarness) -> None:
    script = "for f in /sys/x /proc/sys/kernel/hostname /proc/sysrq-trigger; do echo x > $f && exit 1; done; true"
    assert harness.run("sh", "-c", f"exec 2>/dev/null; {script}") == 0


def test_run_is_empty_and_can_be_written(harness: LaunchHarness) -> None:
    assert harness.output("sh", "-c", "touch /run/mine; ls /run") == "mine\n"
    assert not os.path.exists("/run/mine")


def test_the_root_of_a_view_keeps_only_what_containers_keep(harness: LaunchHarness) -> None:
    status = harness.output("cat", "/proc/self/status")
    kept = sum(1 << capability for capability in (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 31))
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert f"{name}:\t{kept:016x}" in status
    for name in ("CapInh", "CapAmb"):
        assert f"{name}:\t{0:016x}" in status


def test_nothing_that_a_view_mounts_or_was_given_is_mounted_outside(harness: LaunchHarness) -> None:
    with open("/proc/self/mountinfo") as mountinfo:
        before = mountinfo.read()
    harness.run("true")
    with open("/proc/self/mountinfo") as mountinfo:
        assert mountinfo.read() == before


def test_a_view_can_be_read_only(harness: LaunchHarness) -> None:
    root = harness.root(_native.MOUNT_ATTR_RDONLY)
    assert harness.run("sh", "-c", f"! touch {harness.scratch}/x 2>/dev/null", root=root) == 0


def test_binds_share_a_directory_and_a_file_both_ways_or_only_to_read(
    harness: LaunchHarness,
) -> None:
    shared, target = (os.path.join(harness.scratch, name) for name in ("shared", "deep/er/target"))
    os.mkdir(shared)
    with open(f"{shared}/file", "w") as file:
        file.write("content\n")
    binds = (
        namespace.Bind(source=shared, target=target),
        namespace.Bind(source=f"{shared}/file", target=f"{harness.scratch}/one", read_only=True),
    )
    script = f"cat {harness.scratch}/one; echo new > {target}/new; ! (echo x > {harness.scratch}/one) 2>/dev/null"
    assert harness.output("sh", "-c", script, binds=binds) == "content\n"
    with open(f"{shared}/new") as file:
        assert file.read() == "new\n"


def test_a_read_only_bind_is_so_in_what_is_mounted_below_it_too(harness: LaunchHarness) -> None:
    bind = namespace.Bind(source="/dev", target=f"{harness.scratch}/dev", read_only=True)
    script = f"! touch {harness.scratch}/dev/shm/overlaykit-test 2>/dev/null"
    assert harness.run("sh", "-c", script, binds=(bind,)) == 0


def test_a_bind_whose_source_is_missing_is_one_line_that_names_it(harness: LaunchHarness) -> None:
    bind = namespace.Bind(source="/no/such/source", target="/mnt")
    with pytest.raises(namespace.BindSourceMissing, match=r"^-v /no/such/source: .*No such file"):
        harness.launch("true", binds=(bind,))


def test_a_mountpoint_that_cannot_be_made_is_one_line_that_names_it(harness: LaunchHarness) -> None:
    target = f"{harness.scratch}/missing"
    bind = namespace.Bind(source="/etc", target=target)
    with pytest.raises(namespace.BindTargetMissing, match=f"^{target}: .*Read-only file system"):
        harness.launch("true", root=harness.root(_native.MOUNT_ATTR_RDONLY), binds=(bind,))


def test_a_target_that_is_a_link_is_followed_inside_the_view(harness: LaunchHarness) -> None:
    os.symlink("/run/deep", f"{harness.scratch}/link")
    bind = namespace.Bind(source="/etc", target=f"{harness.scratch}/link")
    assert harness.run("test", "-e", "/run/deep/passwd", binds=(bind,)) == 0
    assert not os.path.exists("/run/deep")


@pytest.mark.parametrize("target", ["link", "new/../link"])
def test_a_target_does_not_lead_to_descriptors_that_init_has(
    harness: LaunchHarness, target: str
) -> None:
    """In the view, its own /dev/shm is at the path of the directory."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as outside:
        descriptor = os.open(outside, os.O_RDONLY | os.O_DIRECTORY)
        os.symlink(f"/proc/self/fd/{descriptor}", f"{harness.scratch}/link")
        bind = namespace.Bind(source="/etc/passwd", target=f"{harness.scratch}/{target}/made")
        with pytest.raises(namespace.BindTargetMissing, match="Too many levels"):
            harness.launch("true", binds=(bind,), descriptors=(descriptor,))
        os.close(descriptor)
        assert os.listdir(outside) == []


def test_nothing_of_the_machines_can_be_written_through_proc(harness: LaunchHarness) -> None:
    # The machine's root owns all files of procfs; an ordinary user's view owns none.
    program = (
        "import os\n"
        "for entry in os.scandir('/proc'):\n"
        "    if entry.name.isdigit() or entry.is_symlink() or entry.stat().st_uid != 0: continue\n"
        "    may_be_written = entry.is_dir() or entry.stat().st_mode & 0o222\n"
        "    if may_be_written and entry.name not in ('interrupts', 'kcore', 'keys', 'timer_list'):\n"
        "        if not os.statvfs(entry.path).f_flag & os.ST_RDONLY: print(entry.path)\n"
    )
    assert harness.output("python3", "-c", program) == ""


def test_what_the_launcher_has_in_memory_cannot_be_read_in_the_view(harness: LaunchHarness) -> None:
    script = "for f in environ mem maps auxv; do cat /proc/1/$f 2>/dev/null | head -c 1; done"
    os.environ["SECRET"] = "of the launcher's"
    assert harness.output("sh", "-c", script, env={"PATH": os.environ["PATH"]}) == ""
