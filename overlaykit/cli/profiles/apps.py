"""The life of the apps of a profile: each runs in a named view, which labels say to be the app's."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Final

from overlaykit.cli import launch_options, run, umask
from overlaykit.errors import Error
from overlaykit.record import Record
from overlaykit.views import ending, listing, named, readiness
from overlaykit.views.registry import NotRunning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from overlaykit.cli.profiles.profile import App, Profile
    from overlaykit.views.listing import Listed
    from overlaykit.views.named import Definition

    Report = Callable[["State"], None]

LABEL_OF_FILE: Final = "overlaykit.file"
LABEL_OF_APP: Final = "overlaykit.app"

ABSENT: Final = "absent"

_STOP_SECONDS: Final = 10.0
"""For an app to end where `up` fails, as with `overlaykit stop`."""
_PROBE_SECONDS: Final = 5.0
"""For a command that tells whether an app is ready, where its state is listed."""


class NotTheApps(Error):
    message = (
        "{0}: there is a view of that name that is not the app of {1}: 'overlaykit rm {0}' removes it, and a key 'name'"
        " gives the app's view another name"
    )


class NotStarted(Error):
    message = "{0}: not started: {1}"

    def __init__(self, app: str, why: str, status: int) -> None:
        super().__init__(app, why)
        self.exit_code = status  # type: ignore[misc]  # that of the start


class State(Record, kw_only=True):
    """An app and what has become of it, for people and for programs."""

    app: str
    view: str
    state: str
    """That of `overlaykit ps -a`, or `absent`; in a report of `up` and `down` what was done."""
    status: int | None = None
    """How its command ended."""
    ready: bool | None = None
    """None: it does not run, or no readiness is defined: then it is ready once it runs."""
    pid: int | None = None
    started: int | None = None
    """Nanoseconds since the epoch."""
    ports: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    command: tuple[str, ...] = ()


@contextlib.contextmanager
def locked(profile: Profile) -> Iterator[None]:
    """A block that one process at a time executes for a profile; its working directory is the profile's."""
    with open(profile.path, "rb") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.chdir(profile.directory):
            yield


def up(profile: Profile, names: Iterable[str], report: Report) -> None:
    """Start apps that do not run, and again those that are defined otherwise by now, after what they depend on.

    Requires: `locked`; no other thread. Raises: Error. Ensures: after an exception those that it has started are
    stopped.
    """
    apps = profile.ordered(names)
    for app in apps:
        profile.require_startable(app)
        _view_of(profile, app)
    ready: set[str] = set()

    def await_ready(waited: Iterable[str]) -> None:
        for name in waited:
            app = profile.apps[name]
            if name not in ready and app.ready is not None:
                view = named.NamedView(app.view)
                readiness.wait(app.view, app.ready, _environment(view.definition()))
            ready.add(name)

    with contextlib.ExitStack() as undo:
        for app in apps:
            await_ready(app.depends_on)
            done = _start(profile, app, undo)
            report(State(app=app.name, view=app.view, state=done))
        await_ready(app.name for app in apps)
        undo.pop_all()


def down(
    profile: Profile, names: Iterable[str], seconds: float, *, remove: bool, report: Report
) -> None:
    """Stop apps, those first that depend on others; without names also those that the profile no longer has.

    Each has so many seconds to end. With `remove` their views are removed with what was written in them.
    Requires: `locked`. Raises: NoSuchApp, Error.
    """
    wanted = [profile.find(name).name for name in names]
    views = {
        view.labels.get(LABEL_OF_APP, ""): view.name
        for view in listing.everything()
        if view.labels.get(LABEL_OF_FILE) == profile.path
    }
    order = [app.name for app in reversed(profile.ordered())]
    lost = [name for name in views if name not in order]
    for name in [*lost, *order]:
        if name in views and (name in wanted or not wanted):
            done = _stop(views[name], seconds, remove=remove)
            if done:
                report(State(app=name, view=views[name], state=done))


def states(profile: Profile) -> list[State]:
    """What has become of each app, in the order of the profile. Requires: no other thread."""
    views = {
        view.name: view
        for view in listing.everything()
        if view.labels.get(LABEL_OF_FILE) == profile.path
    }
    return [_state(app, views.get(app.view)) for app in profile.apps.values()]


def _state(app: App, view: Listed | None) -> State:
    plain = State(
        app=app.name, view=app.view, state=ABSENT, depends_on=app.depends_on, command=app.command
    )
    if view is None:
        return plain
    status = None if view.ended is None else view.ended.status
    if view.about is None:
        return plain.replace(state=view.state, status=status)
    ready = None
    if app.ready is not None and view.definition is not None:
        env = _environment(view.definition)
        ready = readiness.is_ready(view.name, app.ready, env, _PROBE_SECONDS)
    about = view.about
    return plain.replace(
        state=view.state, ready=ready, pid=about.pid, started=about.started, ports=about.ports
    )


def _view_of(profile: Profile, app: App) -> named.NamedView | None:
    """The view of an app, if it exists. Raises: NotTheApps."""
    try:
        view = named.NamedView(app.view)
        labels = view.definition().labels
    except named.NoSuchView:
        return None
    if (labels.get(LABEL_OF_FILE), labels.get(LABEL_OF_APP)) != (profile.path, app.name):
        raise NotTheApps(app.view, profile.path)
    return view


def _definition(profile: Profile, app: App) -> Definition:
    """That of the view of an app, as if `overlaykit run` had been asked for it."""
    arguments = [
        *app.options,
        f"--label={LABEL_OF_FILE}={profile.path}",
        f"--label={LABEL_OF_APP}={app.name}",
        f"--name={app.view}",
        "--",
        *app.command,
    ]
    args, _ = run.parse(arguments)
    env = launch_options.environment("up", args)
    return named.define(
        arguments, env, temporary=args.rm, restart=args.restart, **launch_options.labels(args)
    )


def _environment(definition: Definition) -> tuple[bytes, ...]:
    return tuple(map(os.fsencode, definition.environment))


def _start(profile: Profile, app: App, undo: contextlib.ExitStack) -> str:
    """Start an app, if it does not run as defined; `undo` stops it again. Returns: what was done."""
    view = _view_of(profile, app)
    definition = _definition(profile, app)
    done = "started"
    if view is not None and view.is_running():
        if view.definition().arguments == definition.arguments:
            return "running"
        _stop(app.view, _STOP_SECONDS)
        view = _view_of(profile, app)  # a temporary one is gone
        done = "started again"
    if view is None:
        args, _ = run.parse(list(definition.arguments))
        view = named.create(
            app.view,
            definition.arguments,
            _environment(definition),
            temporary=definition.temporary,
            restart=definition.restart,
            **launch_options.labels(args),
        )
        undo_start = undo.enter_context(contextlib.ExitStack())
        undo_start.callback(_remove, app.view)
    else:
        view.redefine(definition)
        undo_start = contextlib.ExitStack()
    undo.callback(_stop, app.view, _STOP_SECONDS)
    _run_start(app)
    undo_start.pop_all()  # what it has printed is kept
    return done


def _run_start(app: App) -> None:
    """Run `overlaykit start` for the view of an app. Raises: NotStarted."""
    with tempfile.TemporaryFile() as errors:
        program = [sys.executable, "-P", "-m", "overlaykit", "start", app.view]
        done = subprocess.run(
            program,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            umask=-1 if (mask := umask.of_caller()) is None else mask,
            check=False,
        )
        errors.seek(0)
        said = errors.read().decode(errors="surrogateescape")
    if done.returncode:
        last = said.rstrip("\n").rpartition("\n")[2]
        why = last.removeprefix("overlaykit: ") or f"it ended with {done.returncode}"
        status = done.returncode if done.returncode > 0 else 128 - done.returncode
        raise NotStarted(app.name, why, status)
    sys.stderr.write(said)


def _stop(name: str, seconds: float, *, remove: bool = False) -> str:
    """Stop a view, if it runs, and remove it. Returns: what was done, or nothing."""
    done = ""
    with contextlib.suppress(named.NoSuchView):
        view = named.NamedView(name)
        done = "stopped" if view.is_running() else ""
        with contextlib.suppress(NotRunning):
            ending.stop(view, seconds)  # also one that is to be started again by itself
        if done:
            view.wait()
        if remove:
            done = "removed"
            view.remove()
    return done


def _remove(name: str) -> None:
    with contextlib.suppress(Error):
        named.NamedView(name).remove()
