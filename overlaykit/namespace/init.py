"""The first process of a view: builds its surroundings, starts the command, reaps, passes signals on.

`run` is the list of its system calls, in order. It is PID 1 in there: when it ends, for any reason, the kernel ends
everything else in the view (pid_namespaces(7)).
"""

from __future__ import annotations

import errno
import os
import signal
import socket
from typing import Final, NoReturn

from overlaykit import _native, signals
from overlaykit.namespace import (
    capabilities,
    descriptors,
    environment,
    failure,
    mounts,
    names,
    network,
)
from overlaykit.namespace.environment import Environment
from overlaykit.namespace.failure import Step, StepFailed, step
from overlaykit.namespace.spec import Caller, LaunchSpec

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where commands are looked up when the environment has no PATH."""

NAMESPACES: Final = (
    _native.CLONE_NEWNS | _native.CLONE_NEWUTS | _native.CLONE_NEWIPC | _native.CLONE_NEWCGROUP
)
"""Made by init for itself, so that they end with it; the PID namespace began with its fork."""

_UMASK: Final = 0o022


def run(
    spec: LaunchSpec,
    *,
    caller: Caller,
    root: int,
    monitor: int,
    status: int,
    alone: int,
    with_others: int,
) -> NoReturn:
    """Be the view's init, in a fresh fork of the monitor with every signal blocked.

    `root` is the detached mount, `monitor` a pidfd of the parent, `status` the pipe that failures go to. Who has let
    go of `status` lets go of `with_others`, the other end of `alone`.
    """
    try:
        _end_with(monitor)
        with step(Step.NAMESPACES):
            _native.unshare(NAMESPACES)
            _native.mount(None, "/", None, _native.MS_REC | _native.MS_PRIVATE)
        if spec.network != "host":
            with step(Step.HOSTNAME, spec.hostname):
                socket.sethostname(spec.hostname)
            with step(Step.LOOPBACK):
                network.raise_loopback()
        umask = os.umask(_UMASK)  # of the mountpoints that are made
        prepared = mounts.prepare_mounts(spec)
        with step(Step.ROOT):
            mounts.make_root(root, prepared.whole_proc)
        mounts.attach(spec, prepared)
        hosts = None
        if spec.network != "host":
            with step(Step.HOSTS, names.HOSTS):
                hosts = names.show(spec.hostname, keep=spec.keep)
        mounts.attach_binds(prepared)
        os.umask(umask if spec.umask is None else spec.umask)
        _change_directory(spec)
        with step(Step.CAPABILITIES):
            capabilities.restrict()
        with step(Step.PROCESS):
            command = os.fork()
        if command == 0:
            os.close(with_others)
            _become(spec, caller, status, alone)
        # It is a fork of the launcher: nobody in the view is to read that one's memory in it (ptrace(2)).
        _native.prctl(_native.PR_SET_DUMPABLE, 0)
        os.close(status)
        kept = hosts if spec.keep else None
        descriptors.close_all_but(kept.descriptors if kept else ())
        code = _reap_until(command)
        if kept:
            kept.write_back()
        os._exit(code)
    except BaseException as error:
        failure.write(status, error)
    finally:
        os._exit(1)


def _end_with(monitor: int) -> None:
    """Die when the monitor does. It may have died before we asked, which only its pidfd still tells."""
    _native.prctl(_native.PR_SET_PDEATHSIG, signal.SIGKILL)
    if descriptors.is_readable(monitor):
        os._exit(1)


def _change_directory(spec: LaunchSpec) -> None:
    try:
        os.chdir(spec.cwd)
    except OSError as error:
        if spec.cwd_required:
            raise StepFailed(Step.DIRECTORY, error.errno or errno.EIO, spec.cwd) from error
        os.chdir("/")


def _become(spec: LaunchSpec, caller: Caller, status: int, alone: int) -> NoReturn:
    """Execute the command in this process; `status` closes with that, which is how the launcher knows.

    It must know before anybody can see the command running, so nobody else may hold `status` by then.
    """
    try:
        os.read(alone, 1)
        signals.as_found()
        signals.restore(set(caller.blocked))
        for standard, source in spec.redirected.items():
            os.dup2(source, standard)
        closed = (
            caller.closed.union(filter(descriptors.leads_out, (0, 1, 2))) - spec.redirected.keys()
        )
        descriptors.close_all_but({0, 1, 2, status, *spec.descriptors} - closed)
        for descriptor in spec.descriptors:
            os.set_inheritable(descriptor, True)
        _execute(spec, _activated(spec.env, caller))
    except BaseException as error:
        failure.write(status, error)
    finally:
        os._exit(1)


def _activated(env: Environment, caller: Caller) -> Environment:
    """The environment, in which sockets passed to the launcher are passed to the command (sd_listen_fds(3)).

    LISTEN_PID tells a program that they are meant for it and not for another one that has inherited them.
    """
    if environment.get(env, "LISTEN_PID") != str(caller.pid):
        return env
    env = environment.replace(env, "LISTEN_PIDFDID", None)  # of that process as well
    return environment.replace(env, "LISTEN_PID", str(os.getpid()))


def _execute(spec: LaunchSpec, env: Environment) -> NoReturn:
    """execve(2) the command, looked up as execvp(3) does; an entry that may not be executed is passed over."""
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
            if os.path.lexists(
                path
            ):  # else it is the directory that may not be searched: as good as not there
                found = found or StepFailed(Step.EXECUTE, errno.EACCES, path)
        except OSError as error:
            raise StepFailed(Step.EXECUTE, error.errno or errno.EIO, path) from error
    raise found or StepFailed(Step.LOOKUP, errno.ENOENT, name)


def _reap_until(command: int) -> int:
    """Reap every child, orphans too, until the command ends; its exit status, or 128 + the signal's number."""
    watched = signals.FORWARDED | {signal.SIGCHLD}
    while True:
        info = signal.sigwaitinfo(watched)
        if info.si_signo != signal.SIGCHLD:
            # A sender of pid 0 is outside. What the view's processes send to their own group, which is
            # init's too, they have got already.
            if signals.sent_by_a_process(info) and info.si_pid == 0:
                os.kill(command, info.si_signo)
            continue
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == command:
                code = os.waitstatus_to_exitcode(ended[1])
                return code if code >= 0 else 128 - code
