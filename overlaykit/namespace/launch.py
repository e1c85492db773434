"""Start a command in a view: the caller's side, which leaves its own process as it was.

    launcher -- fork --> monitor -- fork --> init (PID 1 of the view) -- fork --> command
                            \\-- exec --> forwarder, where ports are published

A monitor enters the user namespace and makes those of network and processes; an init builds the rest around itself.
What fails in either comes back through the status pipe, and only the command's execution closes it silently.
When launcher, monitor, init or forwarder is killed, the others end: the launcher and the forwarder are watched by
the monitor through pidfds, init dies with the monitor (PR_SET_PDEATHSIG), the rest of the view with init, and the
forwarder when the monitor's end of its lifeline closes.
"""

from __future__ import annotations

import errno
import os
import signal
from contextlib import ExitStack, suppress

from overlaykit import signals, standard
from overlaykit.namespace import failure, monitor, network
from overlaykit.namespace.processes import Processes
from overlaykit.namespace.spec import Caller, LaunchSpec


def launch(spec: LaunchSpec, *, root: int, user_namespace: int | None) -> Processes:
    """Run `spec` with the detached mount `root` as its root directory; returns once the command is executed.

    `user_namespace` is a descriptor of the one the mount was made in, where an ordinary user is root, or the pidfd of
    a process in it (setns(2) takes either); None when the caller has the capabilities itself. Both descriptors stay
    the caller's, who may close them afterwards; the mount is the view's, and cannot be launched into a second time. The
    caller must not ignore SIGCHLD: the kernel then throws exit statuses away (wait(2), NOTES).

    Signals of `signals.FORWARDED` arrive until the command is executed, and after that unless the caller holds them
    (`signals.held`): then they wait, for `Processes.wait` to pass them on.

    Raises:
      Error: what a user can mend: see `failure` and `network`. Nothing is left behind.
      OSError: what else the kernel refused, saying at which step. Nothing is left behind.
      BaseException: what the handler of a signal raised (KeyboardInterrupt). Nothing is left behind.
    """
    with ExitStack() as undo:
        with signals.held(), standard.filled():
            running = undo.enter_context(_start(spec, root, user_namespace))
        undo.pop_all()
    return running


def _start(spec: LaunchSpec, root: int, user_namespace: int | None) -> Processes:
    with ExitStack() as ours:
        with ExitStack() as theirs:
            listeners = network.listen(spec)
            for _, listener in listeners:
                theirs.callback(listener.close)
            launcher = os.pidfd_open(os.getpid())
            theirs.callback(os.close, launcher)
            failures, status = os.pipe()
            ours.callback(os.close, failures)
            theirs.callback(os.close, status)
            release, released = os.pipe()
            theirs.callback(os.close, release)
            ours.callback(os.close, released)
            caller = Caller(
                pid=os.getpid(),
                blocked=frozenset(signals.blocked()),
                closed=standard.closed(),
            )
            # With every signal blocked, no handler of the caller's runs in a child.
            theirs.callback(signals.restore, signals.block_all())
            child = os.fork()
            if child == 0:
                monitor.run(
                    spec,
                    caller=caller,
                    root=root,
                    user_namespace=user_namespace,
                    listeners={listener.fileno(): port.view for port, listener in listeners},
                    launcher=launcher,
                    status=status,
                    release=release,
                )
        try:
            monitor_fd, init_pid, init_fd = _await_command(child, failures, released)
        except BaseException:
            os.waitpid(child, 0)
            raise
        return Processes(
            monitor=monitor_fd,
            init_pid=init_pid,
            init_fd=init_fd,
            ports=tuple(port for port, _ in listeners),
        )


def _await_command(monitor: int, failures: int, released: int) -> tuple[int, int, int]:
    """Wait until the command is executed; the monitor's pidfd, init's process id and pidfd.

    Where that fails, what was started ends, and only the monitor is left to be reaped.

    The monitor leaves a dead init unreaped until `released` is written to, so that the number is still init's when
    its pidfd is opened.
    """
    monitor_fd = init_pid = init_fd = -1
    told = b""
    failed: Exception | None = None
    try:
        monitor_fd = os.pidfd_open(monitor)
        while True:
            # A signal that comes after the end is not for us: who sent it may have seen the command running.
            signals.await_readable(failures)
            chunk = os.read(failures, 4096)
            if not chunk:
                break
            *messages, told = (told + chunk).split(failure.END)
            for message in messages:
                if message.isdigit():
                    init_pid = int(message)
                    init_fd = os.pidfd_open(init_pid)
                    os.write(released, b"\n")
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
            os.kill(monitor, signal.SIGKILL)  # our child and not reaped: this is nobody else
        else:  # the monitor reaps it, and ends
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(init_fd, signal.SIGKILL)
            os.close(init_fd)
            with suppress(BrokenPipeError):  # it has ended already
                os.write(released, b"\n")
        raise
    return monitor_fd, init_pid, init_fd
