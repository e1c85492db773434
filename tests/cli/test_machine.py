"""`overlaykit run --vm`: what is refused, and ends before the command runs. Commands in machines: tests/machine."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
from typing import IO, Any

import pytest

from overlaykit import _native
from overlaykit.cli import main
from overlaykit.machine import disk, emulator
from overlaykit.machine.kernel import Kernel
from overlaykit.procfs import descendants
from overlaykit.views import Registry, accelerators, guest, logs, named
from overlaykit.views import machine as machines

from ..machine import filters, tiny_kernel
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


@only_as("root")
@needs_programs
def test_a_console_without_end_fills_no_disk_of_the_host(user: TestUser) -> None:
    kernel = tiny_kernel.make(user.path("kernel"), floods=True)
    line = user.refused(*emulated(kernel), "--", "true")
    assert line == f"the machine ended without a result: {'x' * 200}"


@only_as("root")
@needs_programs
def test_qemu_and_virtiofsd_may_ask_the_kernel_for_little(user: TestUser) -> None:
    with user.start(*machine(user, halts=True), "--", "true") as process:
        try:
            for program in (_PROGRAM, "virtiofsd"):
                found = _confined(process, program)
                assert [one for one in filters.DANGEROUS if not filters.denies(found, one)] == []
                with open(f"/proc/{found}/limits", encoding="ascii") as limits:
                    (line,) = (one for one in limits if one.startswith("Max address space"))
                assert int(line.split()[-2]) < 8 << 30
        finally:
            process.send_signal(signal.SIGTERM)


def _confined(process: subprocess.Popen[str], program: str) -> int:
    """A process below another one, once its own filter holds, which is the last."""
    while process.poll() is None:
        for one in descendants(process.pid):
            if program in command_line(one).split(" ")[0] and filters.denies(one, "execve"):
                return one
    raise AssertionError(f"no {program}")


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
        inside = f"{name}: a machine, whose files 'cp' does not reach: 'exec' runs a command in it"
        assert user.refused("cp", f"{name}:/etc/passwd", user.path("copy")) == inside
        line = user.refused("exec", "--ulimit", "nofile=9", name, "true")
        assert line.startswith("exec: --ulimit: not in a machine")
        with user.start("exec", "-u", "root", name, "true") as waiting:
            waiting.send_signal(signal.SIGKILL)  # its command may run once the first one does
        assert user.refused("attach", name).startswith(f"{name}: ")
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
        assert user.succeeds("diff", "-l", "host", path) == ""
        assert user.succeeds("diff", "--json", f"{path}..{path}", "-l", "host") == "[]\n"
        found = user.succeeds("explain", path, "/etc/passwd")
        assert found == "/etc/passwd\n  answers   file       /etc/passwd\n"
        assert "(--to)" in user.refused("apply", path)
        other = user.write(user.path("other"), "no disk")
        line = user.refused("diff", other)
        assert line == f"{other}: not a qcow2 file; name another one, or remove it"
        line = user.refused(*run, "--disk-file", other, "--", "true")
        assert line == f"{other}: not a qcow2 file; name another one, or remove it"
        fcntl.flock(file, fcntl.LOCK_EX)
        line = user.refused(*run, "--", "true")
        assert line == f"{path}: another machine uses it; end that first"
        assert user.refused("diff", path) == line
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
                ("--stop-timeout", "1"),
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


def test_the_kernel_of_a_view_is_the_host_s(user: TestUser) -> None:
    user.refused("create", "--kernel", "/boot", "--", "true")


def test_options_of_a_machine_are_checked_when_it_is_created(user: TestUser) -> None:
    line = user.refused("create", "--vm", "--upper", "/nowhere", "--", "true")
    assert line.startswith("run: --upper: not with --vm")
    line = user.refused("run", "--vm", "-d", "-i", "--", "true")
    assert line.startswith("run: -i: not with --vm and -d")


@needs_programs
@pytest.mark.parametrize("options", [["-d"], ["--name", "one"], ["-d", "--name", "one"]])
def test_nothing_is_left_of_a_named_machine_that_cannot_be_started(
    user: TestUser, options: list[str]
) -> None:
    line = user.refused(*machine(user), *options, "--", "true")
    assert line == "the machine ended without a result: its kernel panicked: no reason"
    assert os.listdir(user.named_views) == []


def test_what_a_named_machine_prints_and_how_it_ends_is_kept(
    user: TestUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a machine that is none: tests/machine boots one."""

    def run(hardware: machines.Machine, argv: list[str], **given: Any) -> int:
        assert hardware.disk_file == (f"{user.named_views}/one/disk" if argv == ["kept"] else None)
        given["on_ready"](lambda: None)
        if given["log"] is None:
            return 4
        given["log"].write("stdout", b"line\nrest")
        given["note"]("a note")
        raise guest.GuestEnded("no reason")

    monkeypatch.setattr(machines, "run", run)
    command = user.write(user.path("printed"), "")
    with open(command, "wb") as printed:
        assert _status_of(["run", "--vm", "-d", "--name", "one", "--", "kept"], printed) == 0
        view = named.NamedView("one")
        ended = view.wait()
        assert ended is not None
        assert ended.status == 125
        assert user.overlaykit("logs", "one").stdout == "line\nrest"
        records = [(one.stream, one.text) for one in logs.read(view)]
        assert records == [
            ("stdout", b"line"),
            ("stderr", b"overlaykit: a note"),
            ("stderr", b"overlaykit: the machine ended without a result: no reason"),
            ("stdout", b"rest"),
        ]
        assert _status_of(["start", "-a", "one"], printed) == 4
        ended = view.wait()
        assert ended is not None
        assert ended.status == 4
        view.remove()
        assert _status_of(["run", "--vm", "--rm", "--name", "one", "--", "dropped"], printed) == 4
    assert not named.exists("one")


def _status_of(arguments: list[str], printed: IO[bytes]) -> int:
    """The status of the command in a fork, which has this process's replacements."""
    child = os.fork()
    if child == 0:
        status: object = 125
        try:
            os.dup2(printed.fileno(), 1)
            status = main.run(arguments)
        except SystemExit as ended:
            status = ended.code
        finally:
            os._exit(int(str(status)))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _own_covers() -> list[str]:
    """The files of /usr on which this test has mounted something, in their order."""
    with open("/proc/self/mounts", encoding="ascii") as file:
        paths = [line.split()[1] for line in file]
    return [path for path in paths if path.startswith("/usr/")]
