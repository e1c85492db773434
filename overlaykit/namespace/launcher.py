"""Launch a command in a view: make the plan, and start the program that carries it out.

    launch:   parent -- spawn --> supervisor -- fork --> init (PID 1 of the view) -- fork --> command
    execute:  caller == exec ==>  supervisor -- fork --> init                     -- fork --> command

The supervisor enters the user namespace, makes the network and PID namespaces, and carries the published ports; init
makes the other namespaces and the mounts. Both are `_supervisor`, a program in C (native/supervisor.c).

With `launch` a failure in either is reported through the status pipe (see `failure`); execve(2) of the command closes
the pipe. When the parent, the supervisor or init is killed, the others end: the supervisor watches the parent through
a pidfd, init dies with the supervisor (PR_SET_PDEATHSIG), and the other processes of the view die with init.
"""

from __future__ import annotations

import errno
import os
import sys

import overlaykit
from overlaykit import signals, standard
from overlaykit.errors import Error
from overlaykit.namespace import seccomp
from overlaykit.namespace.descriptors import leads_out
from overlaykit.namespace.plan import TooLarge, TooManyDescriptors, check
from overlaykit.namespace.spec import Alone, Caller, End, Reporting
from overlaykit.namespace.view_plan import plan_of
from overlaykit.scope import ExitStack, contextmanager, suppress
from overlaykit.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Final, NoReturn

    from overlaykit.namespace.join import Namespaces
    from overlaykit.namespace.outbound import Program
    from overlaykit.namespace.plan import Plan
    from overlaykit.namespace.ports import Port
    from overlaykit.namespace.processes import Handles, Processes
    from overlaykit.namespace.spec import LaunchSpec, Log, RootMount

SUPERVISOR: Final = os.path.join(os.path.dirname(overlaykit.__file__), "_supervisor")
"""The program of native/supervisor.c. Its argument is the descriptor of a plan."""

_REFUSED: Final = 125
"""Its exit status if it does not understand the plan."""


class DescriptorsTooMany(Error):
    message = "{0} descriptors for the command are more than a view passes: close some of them"


class SupervisorOutdated(Error):
    message = "{0}: of another version than this package; install overlaykit again"


def launch(spec: LaunchSpec, root: RootMount, *, hold: Iterable[int] = ()) -> Processes:
    """Run `spec` with `root` as its root directory; return once the command is executed.

    The supervisor keeps the descriptors of `hold` (locks) open as long as the view has processes.
    The descriptors of `root` stay open and may be closed afterwards. A mount can be launched into once: it becomes
    part of the view. Signals of `signals.FORWARDED` arrive until the command is executed. After that they arrive too,
    unless the caller holds them (`signals.held`) for `Processes.wait` to forward.

    Requires: SIGCHLD is not ignored, or the kernel discards exit statuses (wait(2), NOTES).
    Ensures: when it raises, no process and no descriptor is left.

    Raises:
      Error: an error that the user can mend; see `failure` and `network`; SupervisorOutdated, DescriptorsTooMany.
      OSError: any other refusal of the kernel, with the step that failed.
      BaseException: the exception of a signal's handler (KeyboardInterrupt).
    """
    with ExitStack() as undo:
        with signals.held(), standard.filled():
            processes = undo.enter_context(_start(spec, root, tuple(hold)))
        undo.pop_all()
    return processes


def execute(
    spec: LaunchSpec,
    root: RootMount,
    *,
    report: Sequence[str],
    end: End,
    abort_on: Iterable[int] = (),
    hold: Iterable[int] = (),
    hold_until_started: Iterable[int] = (),
    announce: int | None = None,
    log: Log | None = None,
    input: int | None = None,  # noqa: A002  # the plan's name
    before_exec: Callable[[tuple[Port, ...]], None] = lambda _: None,
) -> NoReturn:
    """Run `spec` with `root` as its root directory, in place of this program.

    The process becomes the supervisor: it forwards signals as `Processes.wait` does, and ends with the command's
    status. If a step fails, it executes Python's module `report[0]` with the arguments `report[1:]` and those of
    `Alone.report`. It kills the view once a descriptor of `abort_on` is readable, keeps those of `hold` open, and
    carries out `end` at the end. `hold_until_started`, `announce`, `log`, `input`: see `Alone`. `before_exec` is called
    last, with the bound ports.

    Held signals that are pending arrive before `before_exec`; later ones are the supervisor's.

    Requires: no other thread.
    Ensures: when it raises, this program is as before, but for what `before_exec` did.

    Raises: as `launch`, before a step is carried out.
    """
    with signals.held(), standard.filled(), ExitStack() as stack:
        ports, listeners = _listen(spec, stack)
        supervision = _alone(
            report,
            abort_on=abort_on,
            hold=hold,
            hold_until_started=hold_until_started,
            end=end,
            announce=announce,
            log=log,
            input_end=input,
        )
        plan = _plan(spec, root, listeners, supervision, stack)
        _become(plan, spec, lambda: before_exec(ports), stack)


def execute_in(spec: LaunchSpec, namespaces: Namespaces, *, report: Sequence[str]) -> NoReturn:
    """Run `spec` in the namespaces of a running view, in place of this program, as `execute` does.

    The root directory, the network, the binds and the host name are the view's.
    """
    from overlaykit.namespace import join

    with signals.held(), standard.filled(), ExitStack() as stack:
        plan = join.plan_of(
            spec,
            namespaces,
            caller=_this_process(),
            filters=_filters(spec),
            supervision=_alone(report),
        )
        _become(plan, spec, lambda: None, stack)


def _alone(
    report: Sequence[str],
    *,
    abort_on: Iterable[int] = (),
    hold: Iterable[int] = (),
    hold_until_started: Iterable[int] = (),
    end: End | None = None,
    announce: int | None = None,
    log: Log | None = None,
    input_end: int | None = None,
) -> Alone:
    return Alone(
        report=(sys.executable, "-P", "-m", *report),
        env=tuple(b"%b=%b" % variable for variable in os.environb.items()),
        abort_on=tuple(abort_on),
        hold=tuple(hold),
        hold_until_started=tuple(hold_until_started),
        end=end or End(),
        announce=announce,
        log=log,
        input=input_end,
    )


def _become(
    plan: Plan, spec: LaunchSpec, before_exec: Callable[[], None], stack: ExitStack
) -> NoReturn:
    """Execute the supervisor in place of this program."""
    encoded = stack.enter_context(_encoded(plan, spec))
    signals.let_arrive()
    before_exec()
    for descriptor in (encoded, *plan.inherited()):
        stack.enter_context(_inheritable(descriptor))
    os.execve(SUPERVISOR, [SUPERVISOR, str(encoded)], {})


def _start(spec: LaunchSpec, root: RootMount, hold: tuple[int, ...]) -> Processes:
    from overlaykit.namespace.processes import Processes

    with ExitStack() as ours:
        with ExitStack() as theirs:
            ports, listeners = _listen(spec, theirs)
            parent = os.pidfd_open(os.getpid())
            theirs.callback(os.close, parent)
            status_read, status_write = os.pipe()
            ours.callback(os.close, status_read)
            theirs.callback(os.close, status_write)
            reap_read, reap_write = os.pipe()
            theirs.callback(os.close, reap_read)
            ours.callback(os.close, reap_write)
            supervision = Reporting(
                parent=parent, status_write=status_write, reap_read=reap_read, hold=hold
            )
            plan = _plan(spec, root, listeners, supervision, theirs)
            encoded = theirs.enter_context(_encoded(plan, spec))
            # dup2(2) onto itself clears close-on-exec in the child alone (posix_spawn(3)).
            passed = [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in (encoded, *plan.inherited())]
            child = os.posix_spawn(
                SUPERVISOR,
                [SUPERVISOR, str(encoded)],
                {},
                file_actions=passed,
                setsigmask=signal.valid_signals(),
                setsigdef=signals.NEVER_IGNORED,
            )
        try:
            handles = _await_command(child, status_read, reap_write)
        except BaseException as error:
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if isinstance(error, ChildProcessError) and status == _REFUSED:
                raise SupervisorOutdated(SUPERVISOR) from None
            raise
        return Processes(handles, ports=ports)


def _plan(
    spec: LaunchSpec,
    root: RootMount,
    listeners: Mapping[int, int],
    supervision: Alone | Reporting,
    stack: ExitStack,
) -> Plan:
    """The plan of a launch by this process. Descriptors that it names are open until the end of `stack`."""
    caller = _this_process()
    spec, helper, hint = _outward(spec)
    return plan_of(
        spec,
        root,
        caller=caller,
        listeners=listeners,
        filters=_filters(spec),
        supervision=supervision,
        helper=helper,
        hint=hint,
    )


def _this_process() -> Caller:
    """What the command inherits from this process. Requires: no standard descriptor is closed (`standard.filled`)."""
    return Caller(
        pid=os.getpid(),
        blocked=signals.mask(signals.blocked()),
        ignored=signals.mask(signals.ignored()),
        closed=standard.closed().union(filter(leads_out, (0, 1, 2))),
        umask=_umask(),
        console=_console(),
    )


def _umask() -> int:
    """The umask; umask(2) tells it only by changing it, for other threads as well."""
    with open("/proc/thread-self/status", "rb", buffering=0) as status:
        lines = status.readall().splitlines()
    return next(int(line.split()[1], 8) for line in lines if line.startswith(b"Umask:"))


def _console() -> str | None:
    """The terminal of standard input; None where that is no terminal, or one of another devpts."""
    with suppress(OSError):
        return os.ttyname(0)
    return None


def _listen(spec: LaunchSpec, stack: ExitStack) -> tuple[tuple[Port, ...], dict[int, int]]:
    """Listen on the published ports until the end of `stack`.

    Returns: the ports, with those of the host that are bound; the listening descriptors, with the ports of the view.
    """
    if not spec.ports:
        return (), {}
    from overlaykit.namespace import network

    found = network.listen(spec)
    for _, listener in found:
        stack.callback(listener.close)
    return (
        tuple(port for port, _ in found),
        {listener.fileno(): port.view for port, listener in found},
    )


def _filters(spec: LaunchSpec) -> list[bytes]:
    """The seccomp filters, as BPF instructions."""
    programs = []
    for descriptor in seccomp.open_filters(spec.confinement):
        with open(descriptor, "rb", buffering=0) as file:
            file.seek(0)  # one that was made now has its offset at the end
            programs.append(file.readall())
    return programs


def _outward(spec: LaunchSpec) -> tuple[LaunchSpec, Program | None, str]:
    """The spec with its network and its name servers, the program that connects the view; or why none does, if any."""
    program: Program | None = None
    hint = ""
    if spec.network in ("auto", "outbound"):
        from overlaykit.namespace import outbound

        first = spec.network_namespace is None
        interface = outbound.INTERFACE if first else outbound.SECOND_INTERFACE
        find = outbound.program if spec.network == "outbound" else outbound.program_on_use
        found = find(interface)
        if isinstance(found, str):
            hint = found
            spec = spec.replace(network="private")
        else:
            program = found
    if program is not None or spec.names is not None:
        from overlaykit.namespace.resolver import resolver

        spec = spec.replace(resolver=resolver(spec.names, program))
    return spec, program, hint


@contextmanager
def _encoded(plan: Plan, spec: LaunchSpec) -> Iterator[int]:
    """A descriptor of a file in memory with the bytes of the plan, which makes sense."""
    check(plan.steps)
    try:
        raw = plan.encode()
    except TooLarge:
        # As execve(2) says of the arguments and the environment.
        from overlaykit.namespace.failure import CommandNotExecutable

        raise CommandNotExecutable(spec.argv[0], os.strerror(errno.E2BIG)) from None
    except TooManyDescriptors:
        raise DescriptorsTooMany(len(spec.descriptors)) from None
    try:
        descriptor = _in_memory(raw)
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        descriptor = _in_a_pipe(raw)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _in_memory(raw: bytes) -> int:
    """A file in memory. Raises: OSError: EFBIG above RLIMIT_FSIZE."""
    descriptor = os.memfd_create("overlaykit-plan", os.MFD_CLOEXEC)
    try:
        rest = memoryview(raw)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _in_a_pipe(raw: bytes) -> int:
    """The read end of a pipe that holds all. Raises: OSError: EPERM above /proc/sys/fs/pipe-max-size."""
    import fcntl

    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, len(raw))
        written = os.write(writer, raw)
        assert written == len(raw)
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    return reader


@contextmanager
def _inheritable(descriptor: int) -> Iterator[None]:
    before = os.get_inheritable(descriptor)
    os.set_inheritable(descriptor, True)
    try:
        yield
    finally:
        os.set_inheritable(descriptor, before)


def _await_command(monitor_pid: int, status_read: int, reap_write: int) -> Handles:
    """Wait until the command is executed.

    The monitor reaps init only after a write to `reap_write`, so init's process id is not reused before its pidfd is
    open.

    Ensures: when it raises, the started processes end and the monitor is left to be reaped.
    """
    from overlaykit.namespace import failure
    from overlaykit.namespace.processes import Handles

    monitor_fd = init_pid = init_fd = -1
    rest = b""
    failed: Exception | None = None
    try:
        monitor_fd = os.pidfd_open(monitor_pid)
        while True:
            # A signal after end of file is for the command: its sender may have seen the command running.
            signals.await_readable(status_read)
            chunk = os.read(status_read, 4096)
            if not chunk:
                break
            *messages, rest = (rest + chunk).split(failure.END)
            for message in messages:
                if message.isdigit():
                    init_pid = int(message)
                    init_fd = os.pidfd_open(init_pid)
                    os.write(reap_write, b"\n")
                else:
                    failed = failure.read(message)
        if failed:
            raise failed
        if init_fd < 0:
            raise ChildProcessError(errno.ECHILD, "the monitor of the view was killed")
    except BaseException:
        if monitor_fd >= 0:
            os.close(monitor_fd)
        if init_fd < 0:
            # A child that is not reaped: its process id is not reused.
            os.kill(monitor_pid, signal.SIGKILL)
        else:
            # The monitor reaps init, and ends.
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(init_fd, signal.SIGKILL)
            os.close(init_fd)
            # The monitor may have ended.
            with suppress(BrokenPipeError):
                os.write(reap_write, b"\n")
        raise
    return Handles(
        monitor_pid=monitor_pid, monitor_fd=monitor_fd, init_pid=init_pid, init_fd=init_fd
    )
