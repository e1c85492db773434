"""The monitor: the process between the parent and the view.

It enters the namespaces that init inherits: setns(2) into a user namespace and unshare(2) of the PID namespace change
the calling process or its children for good, so the parent cannot call them. Afterwards it waits for the end of the
parent, of init or of the forwarder, and then ends the others. They end as well when the monitor is killed.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

import overlaykit
from overlaykit import _native, signals
from overlaykit.namespace import failure, init
from overlaykit.namespace.descriptors import close_all_but, poll_readable
from overlaykit.namespace.failure import Step, step
from overlaykit.namespace.init import ExecGate, InitDescriptors
from overlaykit.namespace.spec import Caller, LaunchSpec, RootMount

FORWARDER: Final = os.path.join(os.path.dirname(overlaykit.__file__), "_forwarder")
"""The program of native/forwarder.c."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorDescriptors:
    """The descriptors that connect the monitor to the parent."""

    parent: int
    """A pidfd."""
    status_write: int
    """The write end of the status pipe; see `failure`."""
    reap_read: int
    """Readable once the parent has a pidfd of init, so that init may be reaped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Forwarder:
    """The port forwarder: its pidfd, and the write end of its lifeline."""

    process: int
    lifeline_write: int


def run(
    spec: LaunchSpec,
    *,
    caller: Caller,
    root: RootMount,
    listeners: Mapping[int, int],
    descriptors: MonitorDescriptors,
) -> NoReturn:
    """Be the monitor. `listeners` maps a listening descriptor to the port in the view.

    Requires: a new fork of the parent, with every signal blocked.
    """
    parent, status = descriptors.parent, descriptors.status_write
    try:
        signals.reset_dispositions()
        own = {root.mount, parent, status, descriptors.reap_read, *listeners}
        if root.user_namespace is not None:
            own.add(root.user_namespace)
        passed_on = {*spec.descriptors, *spec.redirected.values()}
        close_all_but({0, 1, 2, *own, *passed_on})
        # The forwarder inherits none of them.
        for descriptor in own | passed_on:
            os.set_inheritable(descriptor, False)
        if root.user_namespace is not None:
            with step(Step.USER_NAMESPACE):
                _native.setns(root.user_namespace, _native.CLONE_NEWUSER)
        with step(Step.NAMESPACES):
            if spec.network != "host":
                _native.unshare(_native.CLONE_NEWNET)
        forwarder = _start_forwarder(listeners) if listeners else None
        with step(Step.NAMESPACES):
            _native.unshare(_native.CLONE_NEWPID)
        with step(Step.PROCESS):
            monitor = os.pidfd_open(os.getpid())
            gate_read, gate_write = os.pipe()
            child = os.fork()
        if child == 0:
            init.run(
                spec,
                caller=caller,
                descriptors=InitDescriptors(
                    root=root.mount,
                    monitor=monitor,
                    status_write=status,
                    gate=ExecGate(read_end=gate_read, write_end=gate_write),
                ),
            )
        view = os.pidfd_open(child)
        os.write(status, b"%d" % child + failure.END)
        os.close(status)
        kept = {parent, descriptors.reap_read, view}
        if forwarder:
            kept |= {forwarder.process, forwarder.lifeline_write}
        close_all_but(kept)
        poll_readable([descriptors.reap_read, parent])
        os._exit(_watch(parent, view, forwarder))
    except BaseException as error:
        failure.write(status, error)
    finally:
        os._exit(1)


def _start_forwarder(listeners: Mapping[int, int]) -> _Forwarder:
    """Start the forwarder in this network namespace.

    Its listening sockets belong to the host's network, the sockets it connects to the view's. It is no process of the
    view, whose PID namespace does not exist yet. All signals stay blocked in it: an interrupt from the terminal is for
    the command.
    """
    with step(Step.FORWARDER, FORWARDER):
        lifeline_read, lifeline_write = os.pipe()
        for descriptor in (lifeline_read, *listeners):
            os.set_inheritable(descriptor, True)
        pairs = [f"{descriptor}:{port}" for descriptor, port in listeners.items()]
        child = os.posix_spawn(
            FORWARDER,
            [FORWARDER, str(lifeline_read), *pairs],
            {},
            # A copy of the command's streams would keep their reader from end of file.
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, 0, 1),
            ],
        )
        return _Forwarder(process=os.pidfd_open(child), lifeline_write=lifeline_write)


def _watch(parent: int, view: int, forwarder: _Forwarder | None) -> int:
    """Wait for the view's end, or kill the view; its exit status, 137 if it was killed."""
    watched = [parent, view] + ([forwarder.process] if forwarder else [])
    if view not in poll_readable(watched):
        signal.pidfd_send_signal(view, signal.SIGKILL)
    ended = os.waitid(os.P_PIDFD, view, os.WEXITED)
    if forwarder:
        os.close(forwarder.lifeline_write)
        if forwarder.process in poll_readable([parent, forwarder.process]):
            os.waitid(os.P_PIDFD, forwarder.process, os.WEXITED)
        else:
            signal.pidfd_send_signal(forwarder.process, signal.SIGKILL)
    assert ended is not None
    return ended.si_status if ended.si_code == os.CLD_EXITED else 128 + ended.si_status
