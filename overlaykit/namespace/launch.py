"""Launch a command in a view: the parent's side, which leaves its own process unchanged.

    parent -- fork --> monitor -- fork --> init (PID 1 of the view) -- fork --> command
                          \\-- exec --> forwarder, where ports are published

The monitor enters the user namespace and makes the network and PID namespaces; init makes the others and the mounts.
A failure in either is reported through the status pipe (see `failure`); execve(2) of the command closes the pipe.
When the parent, the monitor, init or the forwarder is killed, the others end: the monitor watches the parent and the
forwarder through pidfds, init dies with the monitor (PR_SET_PDEATHSIG), the other processes of the view die with init,
and the forwarder ends when the monitor's end of its lifeline closes.
"""

from __future__ import annotations

import errno
import os
import signal
from contextlib import ExitStack, suppress

from overlaykit import signals, standard
from overlaykit.namespace import failure, monitor, network
from overlaykit.namespace.monitor import MonitorDescriptors
from overlaykit.namespace.processes import Handles, Processes
from overlaykit.namespace.spec import Caller, LaunchSpec, RootMount


def launch(spec: LaunchSpec, root: RootMount) -> Processes:
    """Run `spec` with `root` as its root directory; return once the command is executed.

    The descriptors of `root` stay open and may be closed afterwards. A mount can be launched into once: it becomes
    part of the view. Signals of `signals.FORWARDED` arrive until the command is executed. After that they arrive too,
    unless the caller holds them (`signals.held`) for `Processes.wait` to forward.

    Requires: SIGCHLD is not ignored, or the kernel discards exit statuses (wait(2), NOTES).
    Ensures: when it raises, no process and no descriptor is left.

    Raises:
      Error: an error that the user can mend; see `failure` and `network`.
      OSError: any other refusal of the kernel, with the step that failed.
      BaseException: the exception of a signal's handler (KeyboardInterrupt).
    """
    with ExitStack() as undo:
        with signals.held(), standard.filled():
            processes = undo.enter_context(_start(spec, root))
        undo.pop_all()
    return processes


def _start(spec: LaunchSpec, root: RootMount) -> Processes:
    with ExitStack() as ours:
        with ExitStack() as theirs:
            listeners = network.listen(spec)
            for _, listener in listeners:
                theirs.callback(listener.close)
            parent = os.pidfd_open(os.getpid())
            theirs.callback(os.close, parent)
            status_read, status_write = os.pipe()
            ours.callback(os.close, status_read)
            theirs.callback(os.close, status_write)
            reap_read, reap_write = os.pipe()
            theirs.callback(os.close, reap_read)
            ours.callback(os.close, reap_write)
            caller = Caller(
                pid=os.getpid(),
                blocked=frozenset(signals.blocked()),
                closed=standard.closed(),
            )
            # With every signal blocked, no handler of the caller runs in a child.
            theirs.enter_context(signals.all_blocked())
            child = os.fork()
            if child == 0:
                monitor.run(
                    spec,
                    caller=caller,
                    root=root,
                    listeners={listener.fileno(): port.view for port, listener in listeners},
                    descriptors=MonitorDescriptors(
                        parent=parent, status_write=status_write, reap_read=reap_read
                    ),
                )
        try:
            handles = _await_command(child, status_read, reap_write)
        except BaseException:
            os.waitpid(child, 0)
            raise
        return Processes(handles, ports=tuple(port for port, _ in listeners))


def _await_command(monitor_pid: int, status_read: int, reap_write: int) -> Handles:
    """Wait until the command is executed.

    The monitor reaps init only after a write to `reap_write`, so init's process id is not reused before its pidfd is
    open.

    Ensures: when it raises, the started processes end and the monitor is left to be reaped.
    """
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
    return Handles(monitor_fd=monitor_fd, init_pid=init_pid, init_fd=init_fd)
