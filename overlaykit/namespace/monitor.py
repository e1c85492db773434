"""The process between the launcher and the view: enters what init is to inherit, and ends what must not outlive.

setns(2) into a user namespace and unshare(2) of the PID namespace change the calling process or its children for good,
so they happen here and not in the caller. Afterwards it only waits, for whichever ends first: the launcher, init or the
forwarder; the others then end too, as they do when it is killed itself.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from overlaykit import _native, signals
from overlaykit.namespace import descriptors, failure, init
from overlaykit.namespace.failure import Step, step
from overlaykit.namespace.spec import Caller, LaunchSpec


def run(
    spec: LaunchSpec,
    *,
    caller: Caller,
    root: int,
    user_namespace: int | None,
    listeners: dict[int, int],
    launcher: int,
    status: int,
    release: int,
) -> NoReturn:
    """Be the monitor, in a fresh fork of the launcher with every signal blocked.

    `listeners` maps a listening descriptor to the port inside; `launcher` is a pidfd; init's process
    id goes into `status`, and init is not reaped before `release` is written to.
    """
    try:
        signals.reset_dispositions()
        owned = {root, launcher, status, release, *listeners}
        if user_namespace is not None:
            owned.add(user_namespace)
        handed_on = {*spec.descriptors, *spec.redirected.values()}
        descriptors.close_all_but({0, 1, 2, *owned, *handed_on})
        for descriptor in owned | handed_on:  # the forwarder is to inherit none of them
            os.set_inheritable(descriptor, False)
        if user_namespace is not None:
            with step(Step.USER_NAMESPACE):
                _native.setns(user_namespace, _native.CLONE_NEWUSER)
        with step(Step.NAMESPACES):
            if spec.network != "host":
                _native.unshare(_native.CLONE_NEWNET)
        forwarder = _start_forwarder(listeners) if listeners else None
        with step(Step.NAMESPACES):
            _native.unshare(_native.CLONE_NEWPID)
        with step(Step.PROCESS):
            myself = os.pidfd_open(os.getpid())
            alone, with_others = os.pipe()
            child = os.fork()
        if child == 0:
            init.run(
                spec,
                caller=caller,
                root=root,
                monitor=myself,
                status=status,
                alone=alone,
                with_others=with_others,
            )
        view = os.pidfd_open(child)
        os.write(status, b"%d" % child + failure.END)
        os.close(status)
        descriptors.close_all_but({launcher, release, view, *(forwarder or ())})
        descriptors.poll_readable([release, launcher])
        os._exit(_watch(launcher, view, forwarder))
    except BaseException as error:
        failure.write(status, error)
    finally:
        os._exit(1)


def _start_forwarder(listeners: dict[int, int]) -> tuple[int, int]:
    """Start `overlaykit.namespace.forwarder` in this network namespace; its pidfd, and its lifeline's end.

    It listens on sockets of the host's and connects with sockets of the view's, because it was born here; it is
    no process of the view's, because that PID namespace does not exist yet. All signals stay blocked in it:
    a terminal's interrupt is for the command.
    """
    with step(Step.FORWARDER, sys.executable):
        lifeline, held = os.pipe()
        for descriptor in (lifeline, *listeners):
            os.set_inheritable(descriptor, True)
        pairs = [f"{descriptor}:{port}" for descriptor, port in listeners.items()]
        child = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-m", "overlaykit.namespace.forwarder", str(lifeline), *pairs],
            os.environ,
            # The command's streams are its own: who reads them is to see their end.
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, 0, 1),
            ],
        )
        return os.pidfd_open(child), held


def _watch(launcher: int, view: int, forwarder: tuple[int, int] | None) -> int:
    """Wait until the view ends, or must; its exit status, 137 where it was killed."""
    watched = [launcher, view] + ([forwarder[0]] if forwarder else [])
    if view not in descriptors.poll_readable(watched):
        signal.pidfd_send_signal(view, signal.SIGKILL)
    ended = os.waitid(os.P_PIDFD, view, os.WEXITED)
    if forwarder:
        process, lifeline = forwarder
        os.close(lifeline)
        if process in descriptors.poll_readable([launcher, process]):
            os.waitid(os.P_PIDFD, process, os.WEXITED)
        else:
            signal.pidfd_send_signal(process, signal.SIGKILL)
    assert ended is not None
    return ended.si_status if ended.si_code == os.CLD_EXITED else 128 + ended.si_status
