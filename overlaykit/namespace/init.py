"""The init of a view (PID 1): set up its surroundings, start the command, reap, forward signals.

`run` lists its system calls in order. When init ends, for any reason, the kernel kills every other process of the view
(pid_namespaces(7)).
"""

from __future__ import annotations

import errno
import os
import signal
import socket
from dataclasses import dataclass
from typing import Final, NoReturn

from overlaykit import _native, signals
from overlaykit.namespace import capabilities, environment, failure, hosts, mounts, network
from overlaykit.namespace.descriptors import close_all_but, is_readable, leads_out
from overlaykit.namespace.environment import Environment
from overlaykit.namespace.failure import Step, StepFailed, step
from overlaykit.namespace.root import make_root
from overlaykit.namespace.spec import Caller, LaunchSpec

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where commands are looked up when the environment has no PATH."""

NAMESPACES: Final = (
    _native.CLONE_NEWNS | _native.CLONE_NEWUTS | _native.CLONE_NEWIPC | _native.CLONE_NEWCGROUP
)
"""The namespaces that init makes, so that they end with it; its PID namespace began with its fork."""

_MOUNTPOINT_UMASK: Final = 0o022
"""For the mountpoints that are made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecGate:
    """A pipe without data: end of file at `read_end` lets the command be executed.

    Each holder of the status pipe closes it before `write_end`, so that execve(2) of the command closes the last copy.
    """

    read_end: int
    write_end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InitDescriptors:
    """The descriptors that init inherits from the monitor."""

    root: int
    """The detached mount that becomes the root directory."""
    monitor: int
    """A pidfd."""
    status_write: int
    """The write end of the status pipe; see `failure`."""
    gate: ExecGate


def run(spec: LaunchSpec, *, caller: Caller, descriptors: InitDescriptors) -> NoReturn:
    """Be the view's init.

    Requires: a new fork of the monitor, with every signal blocked.
    """
    status, gate = descriptors.status_write, descriptors.gate
    try:
        _end_with(descriptors.monitor)
        with step(Step.NAMESPACES):
            _native.unshare(NAMESPACES)
            _native.mount(None, "/", None, _native.MS_REC | _native.MS_PRIVATE)
        if spec.network != "host":
            with step(Step.HOSTNAME, spec.hostname):
                socket.sethostname(spec.hostname)
            with step(Step.LOOPBACK):
                network.raise_loopback()
        umask = os.umask(_MOUNTPOINT_UMASK)
        prepared = mounts.prepare_mounts(spec)
        with step(Step.ROOT):
            make_root(descriptors.root, prepared.whole_proc)
        mounts.attach_mounts(spec, prepared)
        covered = None
        if spec.network != "host":
            with step(Step.HOSTS, hosts.HOSTS):
                covered = hosts.cover(spec.hostname, keep=spec.keep)
        mounts.attach_binds(prepared)
        os.umask(umask if spec.umask is None else spec.umask)
        _change_directory(spec)
        with step(Step.CAPABILITIES):
            capabilities.restrict()
        with step(Step.PROCESS):
            command = os.fork()
        if command == 0:
            os.close(gate.write_end)
            _run_command(spec, caller, status, gate.read_end)
        # Init is a fork of the parent: no process of the view may read that memory (ptrace(2)).
        _native.prctl(_native.PR_SET_DUMPABLE, 0)
        os.close(status)
        kept = covered if spec.keep else None
        close_all_but(kept.descriptors if kept else ())
        code = _reap_until(command)
        if kept:
            kept.write_back()
        os._exit(code)
    except BaseException as error:
        failure.write(status, error)
    finally:
        os._exit(1)


def _end_with(monitor: int) -> None:
    """Die when the monitor does. It may have died before the prctl(2), which its pidfd shows."""
    _native.prctl(_native.PR_SET_PDEATHSIG, signal.SIGKILL)
    if is_readable(monitor):
        os._exit(1)


def _change_directory(spec: LaunchSpec) -> None:
    try:
        os.chdir(spec.cwd)
    except OSError as error:
        if spec.cwd_required:
            raise StepFailed(Step.DIRECTORY, error.errno or errno.EIO, spec.cwd) from error
        os.chdir("/")


def _run_command(spec: LaunchSpec, caller: Caller, status: int, gate: int) -> NoReturn:
    """Execute the command in this process. execve(2) closes `status`: ready.

    The parent sees end of file before another process can see the command running, so this process waits at the gate
    until it is the only holder of `status`.
    """
    try:
        os.read(gate, 1)
        signals.as_found()
        signals.restore(set(caller.blocked))
        for standard, source in spec.redirected.items():
            os.dup2(source, standard)
        closed = caller.closed.union(filter(leads_out, (0, 1, 2))) - spec.redirected.keys()
        close_all_but({0, 1, 2, status, *spec.descriptors} - closed)
        for descriptor in spec.descriptors:
            os.set_inheritable(descriptor, True)
        _execute(spec, _with_sockets(spec.env, caller))
    except BaseException as error:
        failure.write(status, error)
    finally:
        os._exit(1)


def _with_sockets(env: Environment, caller: Caller) -> Environment:
    """The environment that passes the sockets passed to the caller on to the command (sd_listen_fds(3)).

    A program uses them only if LISTEN_PID is its own process id.
    """
    if environment.get(env, "LISTEN_PID") != str(caller.pid):
        return env
    env = environment.replace(env, "LISTEN_PIDFDID", None)
    return environment.replace(env, "LISTEN_PID", str(os.getpid()))


def _execute(spec: LaunchSpec, env: Environment) -> NoReturn:
    """execve(2) the command, looked up as execvp(3) does: entries that may not be executed are skipped."""
    name = spec.argv[0]
    arguments = [os.fsencode(argument) for argument in spec.argv]
    directories = [""] if "/" in name else (environment.get(env, "PATH") or PATH).split(":")
    if not name:
        directories = []
    found: StepFailed | None = None
    for directory in directories:
        path = os.path.join(directory, name)
        try:
            _native.execve(path, arguments, list(env))
        except (FileNotFoundError, NotADirectoryError) as error:
            if os.path.exists(path):
                raise StepFailed(Step.EXECUTE, errno.ENOENT, path) from error
        except PermissionError:
            # If it is not visible, the directory may not be searched: the same as a missing entry.
            if os.path.lexists(path):
                found = found or StepFailed(Step.EXECUTE, errno.EACCES, path)
        except OSError as error:
            raise StepFailed(Step.EXECUTE, error.errno or errno.EIO, path) from error
    raise found or StepFailed(Step.LOOKUP, errno.ENOENT, name)


def _reap_until(command: int) -> int:
    """Reap children and orphans until the command ends; its exit status, or 128 + N where signal N ended it."""
    watched = signals.FORWARDED | {signal.SIGCHLD}
    while True:
        info = signal.sigwaitinfo(watched)
        if info.si_signo != signal.SIGCHLD:
            # A sender outside the view has pid 0. The view's processes are in init's process group: a signal
            # from one of them to the group has reached the command already.
            if signals.sent_by_a_process(info) and info.si_pid == 0:
                os.kill(command, info.si_signo)
            continue
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == command:
                code = os.waitstatus_to_exitcode(ended[1])
                return code if code >= 0 else 128 - code
