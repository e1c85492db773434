"""One run of a guest under QEMU, from its start to its result.

A guest has one of these ends, and each ends QEMU: the command ends; a step of its plan fails; the kernel panics (it
reboots at once, and QEMU exits instead); the deadline passes.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final, Literal, TypeAlias

from overlaykit.errors import Error
from overlaykit.machine import guest, initramfs, plan
from overlaykit.machine.kernel import Kernel
from overlaykit.machine.share import shared
from overlaykit.record import Record

Accelerator: TypeAlias = Literal["kvm", "tcg"]
Threads: TypeAlias = Literal["multi", "single"]

INIT: Final = os.path.join(os.path.dirname(os.path.dirname(__file__)), "_guest_init")
"""The program built from native/guest_init.c."""

_QEMU: Final = "qemu-system-x86_64"
_PANIC: Final = re.compile(rb"Kernel panic - not syncing: ([^\r\n]*)")
_KERNEL_ARGUMENTS: Final = "console=ttyS0 loglevel=5 panic=-1 oops=panic mitigations=off"


class NoQemu(Error):
    message = "{0} is not here; install qemu-system-x86 and e2fsprogs"


class GuestFailed(Error):
    message = "the guest ended without a result: {0}; its messages are in {1}"


class GuestTimedOut(Error):
    message = "the guest did not end within {0:g} seconds; its messages are in {1}"
    exit_code = 124  # as timeout(1)


class Machine(Record, kw_only=True):
    """The hardware of a guest, and the programs that boot it."""

    kernel: Kernel
    init: str
    """The path of the program built from native/guest_init.c."""
    accelerator: Accelerator
    modules: Sequence[str] = (*guest.NEEDED, *guest.ON_DEMAND)
    processors: int = 2
    threads: Threads = "multi"
    """Of TCG: one for each processor, or one for all. With several, the kernel of a guest may panic where it patches
    its text, such as for a static key: "Oops: int3" (seen with QEMU 7.2)."""
    memory: int = 2 << 30
    disk: int = 8 << 30
    """The size of the guest's disk, a sparse file that is removed after the run."""


class End(Record):
    """The end of a guest's command."""

    status: int
    """Its exit status, or 128 + N if the signal N ended it."""
    disk_full: bool
    """Whether the guest's disk has no space left."""


def run(
    machine: Machine,
    command: guest.Command,
    *,
    output: Callable[[bytes], object],
    log: str,
    seconds: float | None,
    share: str = "/",
) -> End:
    """Run a command in a guest whose root is the directory `share` of the host, below an overlay.

    `output` gets what the command writes. The kernel's messages go to the file `log`. The guest has `seconds` from now;
    None: it has no deadline.
    Raises: GuestFailed, GuestTimedOut, NoQemu, NoModule, NoVirtiofsd, RootOnly; OSError.
    """
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="overlaykit-guest-"))
        messages = stack.enter_context(open(log, "wb", buffering=0))
        socket = os.path.join(directory, "virtiofs")
        disk = os.path.join(directory, "disk")
        _make_disk(disk, machine.disk)
        stack.enter_context(shared(share, socket, messages.fileno()))
        devices = [
            *("-chardev", f"socket,id=share,path={_quoted(socket)}"),
            *("-device", f"vhost-user-fs-pci,chardev=share,tag={guest.SHARE_TAG},queue-size=1024"),
            *("-drive", f"if=none,id=disk,format=raw,cache=unsafe,file={_quoted(disk)}"),
            # A full disk of the host is an error of the guest's; by default the guest would wait.
            *("-device", "virtio-blk-pci,drive=disk,werror=report,rerror=report"),
        ]
        modules = machine.kernel.modules(machine.modules)
        names = [_module_path(module.name) for module in modules]
        entries = [
            initramfs.file(_module_path(module.name)[1:], module.content) for module in modules
        ]
        steps = guest.with_root_of_the_host(names, command)
        return _boot(
            machine, steps, entries, devices, directory, output, messages.fileno(), seconds
        )


def trial(machine: Machine, log: str, seconds: float) -> bool:
    """Whether the machine boots a guest that does nothing, within some seconds.

    Raises: NoQemu, NoModule; OSError.
    """
    with (
        tempfile.TemporaryDirectory(prefix="overlaykit-guest-") as directory,
        open(log, "wb") as messages,
    ):
        modules = machine.kernel.modules(("virtio_pci", "virtio_console"))
        entries = [initramfs.file(_module_path(one.name)[1:], one.content) for one in modules]
        steps = guest.report_only([_module_path(one.name) for one in modules])
        try:
            end = _boot(
                machine, steps, entries, [], directory, lambda _: None, messages.fileno(), seconds
            )
        except (GuestFailed, GuestTimedOut):
            return False
        return end.status == 0


def archive(init: str, steps: bytes, entries: Sequence[initramfs.Entry]) -> bytes:
    """The initramfs of a guest that carries out the encoded plan `steps`; `entries` are its modules."""
    with open(init, "rb") as program:
        return initramfs.archive(
            [
                initramfs.directory("dev"),
                # The kernel opens it for init.
                initramfs.console("dev/console"),
                initramfs.directory("modules"),
                initramfs.file("init", program.read(), 0o755),
                initramfs.file(plan.PATH, steps),
                *entries,
            ]
        )


def _module_path(name: str) -> str:
    return f"/modules/{name}.ko"


def _boot(
    machine: Machine,
    steps: plan.Plan,
    entries: list[initramfs.Entry],
    devices: list[str],
    directory: str,
    output: Callable[[bytes], object],
    log: int,
    seconds: float | None,
) -> End:
    deadline = None if seconds is None else time.monotonic() + seconds
    initrd = os.path.join(directory, "initramfs")
    with open(initrd, "wb") as file:
        file.write(archive(machine.init, steps.encoded(), entries))
    kernel = machine.kernel.image
    if machine.kernel.is_loadable:
        kernel = os.path.join(directory, "kernel")
        with open(kernel, "wb") as file:
            file.write(machine.kernel.content())
    with _qemu(machine, kernel, initrd, devices, log) as (process, out, status):
        if not _relay(out, output, deadline):
            raise GuestTimedOut(seconds, _name(log))
        # It has closed its end of the pipe: it has ended, or ends now.
        code = process.wait()
        with open(status, "rb", closefd=False) as file:
            return _end(file.read().decode(errors="replace"), code, _name(log))


def _relay(out: int, output: Callable[[bytes], object], deadline: float | None) -> bool:
    """Pass on what comes until the end of file. Returns False if the deadline passes before."""
    poller = select.poll()
    poller.register(out, select.POLLIN)
    while True:
        left = None if deadline is None else max(0, deadline - time.monotonic()) * 1000
        if not poller.poll(left):
            return False
        read = os.read(out, 1 << 16)
        if not read:
            return True
        output(read)


def _end(result: str, code: int, log: str) -> End:
    lines = result.splitlines()
    full = "full" in lines
    what, _, rest = lines[-1].partition(" ") if lines else ("", "", "")
    if what == "exited":
        return End(int(rest), full)
    if what == "killed":
        return End(128 + int(rest), full)
    if what == "failed":
        number, _, step = rest.partition(" ")
        raise GuestFailed(f"{step}: {os.strerror(int(number))}", log)
    with open(log, "rb") as file:
        panic = _PANIC.search(file.read())
    if panic:
        raise GuestFailed(f"kernel panic: {panic[1].decode(errors='replace').strip()}", log)
    if code < 0:
        raise GuestFailed(f"QEMU was ended by {signal.Signals(-code).name}", log)
    raise GuestFailed(f"QEMU ended with status {code}", log)


@contextmanager
def _qemu(
    machine: Machine, kernel: str, initrd: str, devices: list[str], log: int
) -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
    """QEMU, and the descriptors from which the guest's output and status are read."""
    program, setpriv = shutil.which(_QEMU), shutil.which("setpriv")
    if program is None or setpriv is None:
        raise NoQemu(_QEMU)
    size = machine.memory
    with ExitStack() as stack, ExitStack() as of_qemu:
        out, out_end = _pipe(stack, of_qemu)
        status, status_end = _pipe(stack, of_qemu)
        console = os.open(f"/proc/self/fd/{log}", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        of_qemu.callback(os.close, console)
        ends = {1: console, 2: out_end, 3: status_end}
        command = [
            *(setpriv, "--pdeathsig", "KILL", program),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-machine", "q35,memory-backend=ram", "-smp", str(machine.processors)),
            *("-accel", "kvm" if machine.accelerator == "kvm" else f"tcg,thread={machine.threads}"),
            *("-cpu", "host" if machine.accelerator == "kvm" else "max,la57=off"),
            *(
                "-object",
                f"memory-backend-memfd,id=ram,size={size},share=on",
                "-m",
                f"{size >> 20}M",
            ),
            *("-kernel", kernel, "-initrd", initrd, "-append", _KERNEL_ARGUMENTS),
            *(part for n, end in ends.items() for part in ("-add-fd", f"fd={end},set={n}")),
            # Without append, QEMU truncates; it cannot truncate a pipe.
            *("-chardev", "file,id=console,path=/dev/fdset/1,append=on"),
            *("-chardev", "file,id=output,path=/dev/fdset/2,append=on"),
            *("-chardev", "file,id=status,path=/dev/fdset/3,append=on"),
            *("-serial", "chardev:console"),
            # The first of the virtio devices: its ports are /dev/vport0pN.
            *("-device", "virtio-serial-pci,id=serial,addr=1"),
            *("-device", "virtserialport,bus=serial.0,nr=1,chardev=output"),
            *("-device", "virtserialport,bus=serial.0,nr=2,chardev=status"),
            *("-device", "virtio-rng-pci"),
            *devices,
        ]
        process = stack.enter_context(
            subprocess.Popen(
                command,
                pass_fds=ends.values(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        )
        stack.callback(process.kill)
        of_qemu.close()
        yield process, out, status


def _pipe(readers: ExitStack, writers: ExitStack) -> tuple[int, int]:
    """A pipe, whose ends the two stacks close."""
    read, write = os.pipe()
    readers.callback(os.close, read)
    writers.callback(os.close, write)
    return read, write


def _make_disk(path: str, size: int) -> None:
    with open(path, "wb") as file:
        file.truncate(size)
    program = shutil.which("mkfs.ext4", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise NoQemu("mkfs.ext4")
    subprocess.run([program, "-q", "-F", "-O", "quota", path], check=True, stdin=subprocess.DEVNULL)


def _name(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")


def _quoted(path: str) -> str:
    """A path in an option of QEMU, where a comma ends a value."""
    return path.replace(",", ",,")
