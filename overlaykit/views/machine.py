"""A view's command in a machine: the view's layers, read-only, below an overlay of a guest's own.

QEMU and virtiofsd are the command of the view, which confines them, publishes its ports and ends them; this process
relays the guest's streams and signals. See `overlaykit.machine.emulator` for what the two programs reach.
"""

from __future__ import annotations

import fcntl
import os
import signal as signals_of_python
import socket
import tempfile
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from overlaykit import namespace
from overlaykit.errors import Error
from overlaykit.layers import kernels, staging
from overlaykit.machine import boot, disk, emulator, initramfs, view_guest
from overlaykit.machine.kernel import Kernel, NoKernel, NoModule
from overlaykit.machine.monitor import Monitor
from overlaykit.machine.session import End, Session
from overlaykit.namespace.confinement import MACHINE_FILTER, Confinement
from overlaykit.namespace.nested import Nested
from overlaykit.privilege import (
    CAP_DAC_OVERRIDE,
    CAP_FOWNER,
    CAP_KILL,
    CAP_NET_BIND_SERVICE,
    CAP_SETGID,
    CAP_SETPCAP,
    CAP_SETUID,
    CAP_SYS_CHROOT,
)
from overlaykit.record import Record
from overlaykit.views import View, accelerators, command, guest
from overlaykit.views.machine_callers import Callers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from overlaykit.namespace import Identity, Port
    from overlaykit.namespace.environment import Environment
    from overlaykit.views.lasting import Lasting
    from overlaykit.views.recording import LogWriter

SUITE: Final = "bookworm"
"""The release of Debian that the kernel is of."""
MEMORY: Final = 256 << 20
LEAST_MEMORY: Final = 96 << 20
"""A kernel with less panics, or kills the command."""
DISK: Final = 8 << 30
_MOST_PROCESSORS: Final = 64
_MODULES: Final = (*view_guest.MODULES, *view_guest.NETWORK_MODULES)
_TABLES: Final = 64 << 20
"""Bytes: more than the tables of a small disk take."""
_MESSAGES: Final = 64 << 10
_RESULT_MILLISECONDS: Final = 2000
"""Milliseconds that QEMU has to end once the guest has told its result."""

_KEPT: Final = frozenset(
    {
        *(CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_KILL, CAP_NET_BIND_SERVICE, CAP_SETGID, CAP_SETPCAP),
        *(CAP_SETUID, CAP_SYS_CHROOT),
    }
)
"""For virtiofsd, which reads files of any user, as the guest's overlayfs asks: with O_NOATIME; QEMU gives them up."""


class BadMemory(Error):
    message = "--memory {0}: a machine takes {1} at least"


class BadProcessors(Error):
    message = "--cpus {0:g}: a machine takes a whole number of processors, 1 to {1}"


class BadDiskSize(Error):
    message = "--disk {0}: the disk of a machine has 8m to 16t"


class DiskSizeDiffers(Error):
    message = "--disk {0}: {1} has {2} bytes; leave --disk out, or name another file"


class DiskInUse(Error):
    message = "{0}: another machine uses it; end that first"


class Machine(Record, kw_only=True):
    """The hardware that a command sees.

    Raises: BadMemory, BadProcessors, BadDiskSize.
    """

    memory: int = MEMORY
    processors: float = 1
    disk: int | None = None
    """Bytes; None: DISK, or what `disk_file` has."""
    disk_file: str | None = None
    """A qcow2 file that keeps what the guest writes; made where it is missing. None: dropped at the end."""
    kernel: str | None = None
    """A directory with boot/ and lib/modules/, or the image in such a boot/; None: Debian's, from the store."""

    def __post_init__(self) -> None:
        if self.memory < LEAST_MEMORY:
            raise BadMemory(self.memory, f"{LEAST_MEMORY >> 20}m")
        if self.processors != int(self.processors) or not 1 <= self.processors <= _MOST_PROCESSORS:
            raise BadProcessors(self.processors, _MOST_PROCESSORS)
        if self.disk is not None and not disk.LEAST <= self.disk <= disk.MOST:
            raise BadDiskSize(self.disk)


def run(
    machine: Machine,
    argv: Sequence[str],
    *,
    layers: Sequence[str],
    driver: str | None,
    ports: Sequence[Port],
    hidden: Sequence[str],
    share_home: bool,
    hostname: str | None,
    env: Environment,
    cwd: str | None,
    umask: int,
    identity: Identity | None,
    terminal: namespace.Terminal | None,
    size: Callable[[], tuple[int, int] | None],
    note: Callable[[str], None],
    on_ready: Callable[[Callable[[], None]], None],
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    lasting: Lasting | None = None,
    log: LogWriter | None = None,
) -> int:
    """Run a command in a machine. Returns its exit status, or 128 + N where signal N ended it.

    `size`: the rows and columns of the caller's terminal; `note` prints a line. `on_ready` is called once the command
    runs, with what tells it the size. `name`, `labels`: of the view; `lasting`: what the caller keeps of the command;
    `log` takes its output in place of the standard streams.
    Requires: the main thread. Raises: Error, OSError.
    """
    for program, package in emulator.missing():
        raise emulator.NoProgram(program, package)
    kernel = _kernel(machine.kernel)
    accelerator = accelerators.chosen(kernel, note)
    # QEMU inherits the mask: a signal of the terminal is for the guest's command.
    signals_of_python.pthread_sigmask(signals_of_python.SIG_BLOCK, guest.TAKEN)
    with ExitStack() as stack:
        disk_fd, kept = _disk(machine, stack)
        view = View(
            layers,
            read_only=True,
            name=name,
            labels=labels,
            driver=driver,
            network="private",
            ports=ports,
            binds=[
                namespace.Bind(
                    source=emulator.PROGRAMS,
                    target=emulator.ROOT + emulator.PROGRAMS,
                    read_only=True,
                )
            ],
            devices=_devices(accelerator),
            confinement=Confinement(capabilities=_KEPT, seccomp=MACHINE_FILTER),
            hidden=hidden,
            share_home=share_home,
        )
        stack.enter_context(view)
        for line in view.notes:
            note(line)
        account, env_of_user = command.account_of(identity, view.root().enter, env)
        assert isinstance(env_of_user, tuple)
        given = view_guest.Command(
            argv=tuple(argv),
            env=env_of_user,
            cwd=namespace.environment.current_directory() if cwd is None else cwd,
            cwd_required=cwd is not None,
            hostname=hostname or view.name,
            user=0 if account is None else account.user,
            group=0 if account is None else account.group,
            groups=() if account is None else account.groups or (),
            umask=umask,
            terminal=terminal is not None,
        )
        modules = kernel.modules(
            (*view_guest.MODULES, *(view_guest.NETWORK_MODULES if ports else ()))
        )
        steps = view_guest.steps(
            [f"/modules/{one.name}.ko" for one in modules],
            given,
            network=bool(ports),
            kept=kept,
        )
        entries = [initramfs.file(f"modules/{one.name}.ko", one.content) for one in modules]
        sockets = [_pair(stack) for _ in range(4)]
        stdout, stderr, control, stdin = (one for one, _ in sockets)
        monitor, monitored = _pair(stack)
        listening, connected = _share(stack)
        console = messages_file()
        stack.callback(os.close, console)
        null = stack.enter_context(open(os.devnull, "rb"))
        loaded = (
            _in_memory(kernel.content(), stack),
            _in_memory(boot.archive(boot.INIT, steps, entries), stack),
        )
        hardware = emulator.Hardware(
            accelerator=accelerator,
            memory=machine.memory,
            processors=int(machine.processors),
            kernel=loaded[0],
            initramfs=loaded[1],
            disk=disk_fd,
            largest_file=max(
                _room_of(disk.size_of(disk_fd, machine.disk_file or "")), machine.memory
            ),
            kept=kept,
            ports=tuple(theirs.fileno() for _, theirs in sockets),  # type: ignore[arg-type]
            monitor=monitored.fileno(),
            share_listening=listening.fileno(),
            share_connected=connected.fileno(),
            privileged=namespace.is_privileged(),
            published=tuple((port.protocol, port.view) for port in ports),
        )
        processes = view.launch(
            emulator.command(hardware),
            env={"PATH": "/usr/sbin:/usr/bin"},
            cwd="/",
            shown=argv,
            lasting=lasting,
            terminal=terminal is not None,
            pass_fds=hardware.descriptors(),
            redirected={0: null.fileno(), 1: console, 2: console},
            nested=Nested(path=emulator.ROOT, files=emulator.SHARE, links=emulator.LINKS),
        )
        for _, theirs in sockets:
            theirs.close()
        monitored.close()
        listening.close()
        connected.close()

        def started(resize: Callable[[], None]) -> None:
            # The guest has them; QEMU keeps what it maps.
            for one in loaded:
                os.ftruncate(one, 0)
            on_ready(resize)

        session = Session(stdout, stderr, control, stdin, None if log is None else log.sinks())
        callers = Callers(view.entry(), Monitor(monitor), session.tell, disk_fd)
        stack.callback(callers.close)
        interrupted = guest.relay(session, view.watched(), terminal, size, started, callers)
        if session.end is None and interrupted:
            processes.close()
            return 128 + interrupted
        if isinstance(session.end, End):
            _await(processes.init_fd)
        processes.close()
        said = os.pread(console, os.lseek(console, 0, os.SEEK_CUR), 0).decode(errors="replace")
        if session.end is None and view.root_has_ended():
            view.wait()  # raises
        if disk.has_no_room(disk_fd):
            note(
                "the host's file system with the machine's disk is full: what it wrote may be lost"
            )
        return guest.status(session.end, said, argv[0], given.cwd, note)


def _kernel(path: str | None) -> Kernel:
    if path is None:
        return Kernel(kernels.fetched(SUITE, reduce, _is_complete))
    if os.path.isdir(path):
        return Kernel(path)
    os.stat(path)
    return Kernel(os.path.dirname(os.path.dirname(os.path.abspath(path))), os.path.abspath(path))


def _is_complete(directory: str) -> bool:
    try:
        Kernel(directory).modules(_MODULES)
    except (NoKernel, NoModule):
        return False
    return True


def reduce(directory: str) -> None:
    """Keep of a package's kernel what machines need, in the form that takes the least memory in them."""
    kernel = Kernel(directory)
    kernel.keep_only(_MODULES)
    kernel.make_loadable()


def _devices(accelerator: boot.Accelerator) -> list[namespace.Device]:
    names = ("/dev/null", *(("/dev/kvm",) if accelerator == "kvm" else ()))
    return [namespace.Device(source=name, target=emulator.ROOT + name) for name in names]


def _room_of(size: int) -> int:
    """The most bytes that the file of a disk of some size takes, its tables included."""
    return size + size // 1024 + _TABLES


def _disk(machine: Machine, stack: ExitStack) -> tuple[int, bool]:
    """The open file of the disk, and whether it is kept."""
    if machine.disk_file is None:
        with tempfile.NamedTemporaryFile(dir="/var/tmp", prefix="overlaykit-") as file:
            disk.create(file.name, machine.disk or DISK, journal=False)
            opened = os.open(file.name, os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, opened)
        return opened, False
    path = machine.disk_file
    if not os.path.lexists(path):
        _make(path, machine.disk or DISK)
    opened = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    stack.callback(os.close, opened)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DiskInUse(path) from None
    found = disk.size_of(opened, path)
    if machine.disk is not None and -(-machine.disk // 65536) * 65536 != found:
        raise DiskSizeDiffers(machine.disk, path, found)
    return opened, True


def _make(path: str, size: int) -> None:
    """Make the file whole or not at all; one that another process makes first is kept."""
    directory = os.path.dirname(os.path.abspath(path))
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".overlaykit-") as file:
        disk.create(file.name, size, journal=True)
        try:
            os.link(file.name, path)
        except FileExistsError:
            return
    with staging.opened(directory) as descriptor:
        os.fsync(descriptor)


def messages_file() -> int:
    """A file in memory for what the kernel and the programs say: the first 64 KiB; a later write fails.

    A hostile guest can say more than the host's disk holds.
    """
    made = os.memfd_create("overlaykit-messages", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(made, _MESSAGES)
    fcntl.fcntl(made, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return made


def _pair(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    return stack.enter_context(ours), stack.enter_context(theirs)


def _share(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    """The socket on which virtiofsd listens, and one that is connected to it: no path is left."""
    listening = stack.enter_context(socket.socket(socket.AF_UNIX))
    connected = stack.enter_context(socket.socket(socket.AF_UNIX))
    with tempfile.TemporaryDirectory(prefix="overlaykit-") as directory:
        path = os.path.join(directory, "share")
        listening.bind(path)
        listening.listen(1)
        connected.connect(path)
    return listening, connected


def _in_memory(content: bytes, stack: ExitStack) -> int:
    descriptor = os.memfd_create("overlaykit-machine", os.MFD_CLOEXEC)
    stack.callback(os.close, descriptor)
    os.fchmod(descriptor, 0o444)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    return descriptor


def _await(descriptor: int) -> None:
    import select

    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    poller.poll(_RESULT_MILLISECONDS)
