"""A command in a view that is running already."""

from __future__ import annotations

import os

from overlaykit import namespace
from overlaykit.errors import Error
from overlaykit.namespace import descriptors, environment
from overlaykit.scope import ExitStack
from overlaykit.views.registry import Registry
from overlaykit.views.view import REPORTER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import NoReturn

    from overlaykit.namespace.environment import Environment
    from overlaykit.views.registry import RunningView


class IsMachine(Error):
    message = "{0}: a machine, whose files 'cp' does not reach: 'exec' runs a command in it"


def machine(name: str) -> RunningView | None:
    """The view of that name, if it is a machine that runs. Raises: NotRunning."""
    found = Registry().find(name)
    return found if found.about.machine else None


def execute(
    name: str,
    argv: Sequence[str],
    *,
    env: Environment,
    cwd: str | None = None,
    pass_fds: Collection[int] = (),
    umask: int | None = None,
    terminal: namespace.Terminal | None = None,
    identity: namespace.Identity | None = None,
    ulimits: Sequence[namespace.Ulimit] = (),
) -> NoReturn:
    """Run a command in the running view `name` in place of this program; the other arguments are `View.execute`'s.

    The command ends with the view. Its own end, or that of its supervisor, leaves the view as it is.

    Requires: the main thread, and no other; signals are held (`signals.held`).
    Raises: Error: NotRunning, NotAView, NotJoinable, and as `View.execute`.
    """
    descriptors.require_open(pass_fds)
    if cwd is not None and not cwd.startswith("/"):
        raise namespace.WorkingDirectoryRelative(cwd)
    found = Registry().find_view(name)
    with (
        namespace.namespaces_of(found.about.supervisor, name) as namespaces,
        ExitStack() as groups,
    ):
        # The process id was the supervisor's if the view has not ended since.
        if not found.is_running():
            raise namespace.NotJoinable(name)
        spec = namespace.LaunchSpec(
            argv=tuple(argv),
            env=env,
            cwd=environment.current_directory() if cwd is None else cwd,
            cwd_required=cwd is not None,
            descriptors=tuple(pass_fds),
            umask=umask,
            terminal=terminal,
            ulimits=tuple(ulimits),
            confinement=namespace.Confinement(
                capabilities=frozenset(found.about.capabilities),
                no_new_privs=found.about.no_new_privs,
                seccomp=found.about.seccomp,
            ),
            cgroups=namespace.cgroups.opened(found.about.cgroups, groups)
            if found.about.cgroups
            else None,
            processors=_processors(found.about.supervisor),
            release=found.about.release,
        )
        if identity is not None:
            account = namespace.accounts.look_up(identity, namespaces.enter)
            env = account.environment(env, home=identity.home)
            spec = spec.replace(account=account, env=env)
        namespace.execute_in(spec, namespaces, report=(REPORTER, name, "lasting"))


def _processors(supervisor: int) -> frozenset[int]:
    """The processors of a view; none where they are those of this process."""
    found = os.sched_getaffinity(supervisor)
    return frozenset() if found == os.sched_getaffinity(0) else frozenset(found)
