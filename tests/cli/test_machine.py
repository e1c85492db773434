"""`overlaykit run --vm`: what is refused, and ends before the command runs. Commands in machines: tests/machine."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal

import pytest

from overlaykit import _native
from overlaykit.machine import disk, emulator
from overlaykit.machine.kernel import Kernel
from overlaykit.procfs import descendants
from overlaykit.views import Registry, accelerators

from ..machine import tiny_kernel
from ..posix.syscalls import MS_BIND
from ..views.fixtures import only_as
from ..views.user import TestUser, command_line

_PROGRAM = "qemu-system-x86_64"

needs_programs = pytest.mark.skipif(bool(emulator.missing()), reason="--vm needs QEMU")


def machine(user: TestUser, text: str = tiny_kernel.PANIC, *, halts: bool = False) -> list[str]:
    """Arguments of a run with a kernel that writes a text and ends, emulated."""
    return emulated(tiny_kernel.make(user.path("kernel"), text, halts=halts))


def emulated(kernel: str) -> list[str]:
    """Arguments of a run with a kernel for which KVM is not tried."""
    accelerators.remember(Kernel(kernel), "tcg")
    return ["run", "--vm", "--kernel", kernel, "-l", "host"]


@needs_programs
def test_a_panic_of_the_kernel_is_told_in_one_line(user: TestUser) -> None:
    line = user.refused(*machine(user), "-p", "127.0.0.1:0:80", "--", "true")
    assert line == "the machine ended without a result: its kernel panicked: no reason"


@needs_programs
def test_what_qemu_says_of_a_file_that_is_no_kernel_is_told(user: TestUser) -> None:
    kernel = tiny_kernel.with_image(user.path("kernel"), b"x")
    image = os.path.join(kernel, "boot", f"vmlinuz-{tiny_kernel.RELEASE}")
    line = user.refused(*emulated(kernel), "--kernel", image, "--", "true")
    assert line.startswith("the machine ended without a result: qemu")


@needs_programs
def test_a_signal_before_the_command_runs_ends_the_machine(user: TestUser) -> None:
    with user.start(*machine(user, halts=True), "--", "true") as process:
        while not any(_PROGRAM in command_line(one) for one in descendants(process.pid)):
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM


@needs_programs
def test_other_commands_signal_a_machine_and_do_not_take_it_for_a_view(user: TestUser) -> None:
    with user.start(*machine(user, halts=True), "--", "a-command") as process:
        while not (running := [one for one in Registry().running() if one.about.machine]):
            assert process.poll() is None
        ((name, command),) = [(one.about.name, one.about.command) for one in running]
        assert command == ("a-command",)
        inside = f"{name}: a machine, which runs one command: 'exec' and 'cp' do not reach into it"
        assert user.refused("exec", name, "true") == inside
        assert user.refused("cp", f"{name}:/etc/passwd", user.path("copy")) == inside
        disk = f"{name}: a machine, which writes to a disk of its own: 'diff' and 'apply' do not read it"
        assert user.refused("diff", name) == disk
        assert name in user.succeeds("stats", "--no-stream", name)
        user.succeeds("stop", name)
        assert process.wait() == 128 + signal.SIGTERM  # of its command, not the end of QEMU


@needs_programs
def test_a_disk_file_is_made_once_for_one_machine_at_a_time(user: TestUser) -> None:
    path = user.path("disk")
    run = (*machine(user), "--disk-file", path)
    assert "panicked" in user.refused(*run, "--disk", "64m", "--", "true")
    with open(path, "rb") as file:
        made = file.read()
        assert disk.size_of(file.fileno(), path) == 64 << 20
        assert "panicked" in user.refused(*run, "--", "true")
        line = user.refused(*run, "--disk", "1g", "--", "true")
        assert line == (
            f"--disk {1 << 30}: {path} has {64 << 20} bytes; leave --disk out, or name another file"
        )
        other = user.write(user.path("other"), "no disk")
        line = user.refused(*run, "--disk-file", other, "--", "true")
        assert line == f"--disk-file {other}: not a qcow2 file; name another one, or remove it"
        fcntl.flock(file, fcntl.LOCK_EX)
        line = user.refused(*run, "--", "true")
        assert line == f"--disk-file {path}: another machine uses it; end that first"
        file.seek(0)
        assert len(file.read()) == len(made)


@only_as("root")
@needs_programs
def test_each_program_that_is_missing_is_named_with_its_package(user: TestUser) -> None:
    run = machine(user)
    for program, package in (
        ("mkfs.ext4", "e2fsprogs"),
        ("/usr/libexec/virtiofsd", ""),
        ("/usr/lib/qemu/virtiofsd", "qemu-system-common (Debian 12) or virtiofsd (Debian 13)"),
        (_PROGRAM, "qemu-system-x86"),
    ):
        path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        if path is not None:
            _native.mount(os.devnull, path, None, MS_BIND)
        if package:
            line = user.refused(*run, "--", "true")
            assert line == f"--vm needs {os.path.basename(program)}; install {package}"
    (checked,) = (one for one in user.overlaykit("doctor").stdout.splitlines() if "--vm" in one)
    assert "not here; install qemu-system-x86 and qemu-system-common (Debian 12) or" in checked
    for path in reversed(_own_covers()):
        _native.umount2(path, 0)


@only_as("root")
@needs_programs
def test_the_end_of_virtiofsd_is_told(user: TestUser) -> None:
    """Of Debian 13, which takes other options."""
    libexec = user.directory("libexec")
    with open(os.path.join(libexec, "virtiofsd"), "w") as file:
        file.write("#!/bin/sh\nexit 1\n")
    os.chmod(file.name, 0o755)
    _native.mount(libexec, "/usr/libexec", None, MS_BIND)
    of_c = "/usr/lib/qemu/virtiofsd"
    if os.path.exists(of_c):
        _native.mount(os.devnull, of_c, None, MS_BIND)
    line = user.refused(*machine(user, halts=True), "--", "true")
    assert line == "the machine ended without a result: virtiofsd ended, which serves its files"
    for path in reversed(_own_covers()):
        _native.umount2(path, 0)


@only_as("root")
@needs_programs
def test_a_program_outside_usr_is_refused(user: TestUser) -> None:
    """QEMU and virtiofsd see /usr alone."""
    programs = user.directory("programs")
    other = os.path.join(user.path("other"), _PROGRAM)
    os.makedirs(os.path.dirname(other))
    with open(other, "w") as file:
        os.chmod(file.name, 0o755)
    os.symlink(other, os.path.join(programs, _PROGRAM))
    _native.mount(programs, "/usr/local/sbin", None, MS_BIND)
    line = user.refused(*machine(user), "--", "true")
    assert line == f"--vm needs {_PROGRAM} below /usr; it is {other}"
    _native.umount2("/usr/local/sbin", 0)


@needs_programs
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--memory", "50m"], "--memory 52428800: a machine takes 96m at least"),
        (["--cpus", "1.5"], "--cpus 1.5: a machine takes a whole number of processors, 1 to 64"),
        (["--disk", "1k"], "--disk 1024: the disk of a machine has 8m to 16t"),
        (["--kernel", "/nowhere"], "/nowhere: No such file or directory"),
        (
            ["--kernel", "/etc"],
            "there is no kernel below /etc; remove the directory to fetch it again",
        ),
        *(
            (
                [option, *value],
                f"run: {option}: not with --vm; leave one of them out: see 'overlaykit run --help'",
            )
            for option, *value in (
                ("--upper", "/nowhere"),
                ("--detach",),
                ("--name", "one"),
                ("--read-only",),
                ("--network", "host"),
            )
        ),
    ],
)
def test_a_wrong_option_is_named_in_one_line(
    user: TestUser, arguments: list[str], line: str
) -> None:
    assert user.refused(*machine(user), *arguments, "--", "true") == line


@pytest.mark.parametrize("option", [["--vm"], ["--kernel", "/boot"]])
def test_a_named_view_is_no_machine(user: TestUser, option: list[str]) -> None:
    """It would start without one."""
    user.refused("create", *option, "--", "true")


def _own_covers() -> list[str]:
    """The files of /usr on which this test has mounted something, in their order."""
    with open("/proc/self/mounts", encoding="ascii") as file:
        paths = [line.split()[1] for line in file]
    return [path for path in paths if path.startswith("/usr/")]
