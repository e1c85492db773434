"""The launch of a command in a view: what the caller of `View.launch` asks for, as the launcher's spec."""

from __future__ import annotations

import os

from overlaykit import namespace
from overlaykit.layers.host import NAME as HOST
from overlaykit.namespace import environment
from overlaykit.views import keys, shared_sockets
from overlaykit.views.spec import require_list

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from overlaykit.namespace.accounts import Account
    from overlaykit.namespace.binds import Bind
    from overlaykit.namespace.confinement import Confinement
    from overlaykit.namespace.contents import Data, Directory, Symlink
    from overlaykit.namespace.environment import Environment
    from overlaykit.namespace.nested import Nested
    from overlaykit.views.networks import Membership
    from overlaykit.views.spec import ViewSpec


def launch_spec(
    view: ViewSpec,
    argv: Sequence[str],
    *,
    hostname: str,
    env: Mapping[str, str] | Environment | None,
    cwd: str | None,
    pass_fds: Collection[int],
    umask: int | None,
    redirected: Mapping[int, int],
    keep: bool,
    confinement: Confinement | None = None,
    terminal: namespace.Terminal | None = None,
    cgroups: namespace.Cgroups | None = None,
    account: Account | None = None,
    ulimits: tuple[namespace.Ulimit, ...] = (),
    new_session: bool = False,
    grace: int | None = None,
    json_status: int | None = None,
    time_offsets: str | None = None,
    directories: tuple[Directory, ...] = (),
    symlinks: tuple[Symlink, ...] = (),
    data: tuple[Data, ...] = (),
    connected: Membership | None = None,
    nested: Nested | None = None,
) -> namespace.LaunchSpec:
    """The launch of `argv` in a view. Raises: TypeError or ValueError for what execve(2) cannot take."""
    require_list("argv", argv)
    processors = frozenset() if view.lies is None else view.lies.processors()
    variables = environment.entries(os.environ) if env is None else env
    if not isinstance(variables, tuple):
        variables = environment.entries(variables)
    elif env is None:
        variables = shared_sockets.without_variables(variables, view.sockets)
    return namespace.LaunchSpec(
        argv=tuple(map(os.fsdecode, argv)),
        env=variables,
        cwd=environment.current_directory() if cwd is None else cwd,
        cwd_required=cwd is not None,
        hostname=hostname,
        network=view.network if connected is None else connected.outward,
        network_namespace=None if connected is None else connected.view,
        binds=(
            *view.binds,
            *_sockets(view, variables),
            *_hosts(view, connected),
            *(() if view.lies is None else view.lies.binds()),
        ),
        names=view.names,
        ports=view.ports,
        descriptors=tuple(pass_fds),
        umask=umask,
        redirected=redirected,
        keep=keep,
        terminal=terminal,
        account=account,
        ulimits=ulimits,
        new_session=new_session,
        grace=grace,
        json_status=json_status,
        shared=view.shared,
        time_offsets=time_offsets or (None if view.lies is None else view.lies.offsets()),
        directories=directories,
        symlinks=symlinks,
        data=data,
        covers=() if view.lies is None else view.lies.covers(processors),
        processors=processors,
        release=None if view.lies is None else view.lies.kernel,
        nested=nested,
        tmpfs=view.tmpfs,
        devices=view.devices,
        shm_size=view.shm_size,
        confinement=view.confinement if confinement is None else confinement,
        cgroups=cgroups,
        hidden=(*view.hidden, *_keys(view)),
        writable=() if "/" in view.writable else view.writable,
        abstract_sockets=shared_sockets.ABSTRACT in view.sockets,
    )


def account_of(
    identity: namespace.Identity | None,
    enter: Callable[[], int],
    env: Mapping[str, str] | Environment | None,
) -> tuple[Account | None, Mapping[str, str] | Environment | None]:
    """The account of a command, and its environment. Raises: as `accounts.look_up`."""
    if identity is None:
        return None, env
    from overlaykit.namespace import accounts

    account = accounts.look_up(identity, enter)
    variables = os.environ if env is None else env
    entries = variables if isinstance(variables, tuple) else environment.entries(variables)
    return account, account.environment(entries, home=identity.home)


def _keys(view: ViewSpec) -> list[str]:
    """The keys of the user's home, for root of all homes, where the view is one over the host without `share_home`."""
    return [] if view.share_home or HOST not in view.layers else keys.of_homes()


def _hosts(view: ViewSpec, connected: Membership | None) -> list[Bind]:
    """The names of the members of a shared network, unless the user shares a file in their place."""
    if connected is None:
        return []
    from overlaykit.namespace.binds import Bind
    from overlaykit.views.network_hosts import TARGET

    if any(os.path.normpath(bind.target) == TARGET for bind in view.binds):
        return []
    return [Bind(source=connected.hosts, target=TARGET, read_only=view.read_only)]


def _sockets(view: ViewSpec, env: Environment) -> list[Bind]:
    if not view.sockets:
        return []
    from overlaykit.namespace.binds import Bind

    return [Bind(source=path, target=path) for path in shared_sockets.paths(view.sockets, env)]
