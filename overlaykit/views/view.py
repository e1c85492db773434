"""A view: a root file system and the commands that run in it, one after another."""

from __future__ import annotations

import _thread
import os

from overlaykit import namespace, signals, standard
from overlaykit.errors import Error
from overlaykit.namespace import descriptors
from overlaykit.namespace.confinement import Confinement
from overlaykit.scope import ExitStack
from overlaykit.signals import signal
from overlaykit.views import command
from overlaykit.views.entry import About
from overlaykit.views.lasting import Lasting
from overlaykit.views.registry import now
from overlaykit.views.rootfs import RootFs
from overlaykit.views.spec import describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from typing import Any, Final, NoReturn, Self

    from overlaykit.fuse.spec import NoOpen
    from overlaykit.layers import Layer, Store
    from overlaykit.namespace import (
        Bind,
        Cgroups,
        Device,
        Identity,
        LaunchSpec,
        Limits,
        Port,
        Processes,
        Tmpfs,
        Ulimit,
    )
    from overlaykit.namespace.contents import Data, Directory, Symlink
    from overlaykit.namespace.environment import Environment
    from overlaykit.namespace.names import Names
    from overlaykit.namespace.nested import Nested
    from overlaykit.overlay.explanation import Explanation
    from overlaykit.views.kept import Kept
    from overlaykit.views.lies import Lies
    from overlaykit.views.streams import Stream

_CONFINED: Final = Confinement()

REPORTER: Final = "overlaykit.cli.failed"
"""The program that prints what fails once this one is replaced."""


class DaemonEnded(Error):
    message = "the daemon of view {0} ended before the view did, so its files were gone; {1}"


class NotStarted(Error):
    message = "the view is not started: use it as a context manager, or call start()"


class CommandRunning(Error):
    message = "a command runs in view {0}: wait for its end before the next one is launched"


class OfAnotherProcess(Error):
    message = "view {0} belongs to the process that started it: make one in this process"


class ChildrenLost(Error):
    message = (
        "a view waits for its processes, which the kernel forgets while SIGCHLD is ignored: set it to "
        "signal.SIG_DFL"
    )


class LastCommand(Error):
    message = "view {0} has had its last command: make another view, or leave last=True out"


class View:
    """One program's view of the machine, as a context manager: entering it mounts, leaving it removes every trace.

        with View(["py27", "host"], upper="changes") as view:
            view.run(["python", "setup.py", "install"], check=True)
            version = view.run(["tool", "--version"], capture_output=True, text=True).stdout

    Commands run one after another, each with processes, host name and network of its own, over the same files.
    Attributes: `spec`; `name`; `processes`, the last command (`namespace.Processes`), None before `launch`;
    `made_upper`, whether `start` made the directory `upper`; `notes`, what a user may not expect, a line each.
    """

    def __init__(
        self,
        layers: Sequence[str] = ("host",),
        *,
        upper: str | None = None,
        frozen: Sequence[Layer] = (),
        read_only: bool = False,
        originals: bool = False,
        name: str | None = None,
        network: str | Sequence[str] = "auto",
        names: Names | None = None,
        shared: Iterable[str] = (),
        userns: str = "auto",
        binds: Sequence[Bind | str] = (),
        ports: Sequence[Port | str] = (),
        driver: str | None = None,
        data_plane: bool = True,
        no_open: NoOpen = "auto",
        confinement: Confinement = _CONFINED,
        limits: Limits | None = None,
        disk: int | None = None,
        hidden: Sequence[str] = (),
        share_home: bool = False,
        writable: Sequence[str] = (),
        sockets: Sequence[str] = (),
        lies: Lies | None = None,
        store: Store | None = None,
        tmpfs: Sequence[Tmpfs] = (),
        devices: Sequence[Device] = (),
        shm_size: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """Describe a view; `start` mounts it.

        `layers`, top first: `host`, names of the store, or directories (a path with a slash, or `dir:PATH`). Changes go
        to the directory `upper`; without one they are dropped at the end, or refused with EROFS if `read_only`. With
        `originals` what texts were is kept beside the `upper`, as with --keep-originals. Between both lie the uppers
        `frozen`, newest first.
        `shared` are namespaces of the host, and `userns` says which ids its own user namespace maps, as `--share` and
        `--userns` do. `network` is a mode or the name of a shared network, or both, as for `--network`. `names` are
        what it knows of names (`namespace.Names`). `binds` and `ports` are as for `-v` and `-p`, also as texts.
        `driver` merges the layers: `fuse`, `kernel` or `auto` (see `drivers`; None: what OVERLAYKIT_DRIVER or a
        configuration file says). Without `data_plane`, Python answers each request to `fuse`. `no_open` says
        whether programs open files without a request (as the mount option). `confinement` is that of each of
        its commands, `limits` are those of all of them together, and `disk` is how many bytes the changes may
        take. Outside of the directories `writable`, if there are any, changes are refused with EROFS. `hidden`
        paths and, over the host, keys in the user's home are empty and read-only, unless `share_home`. `sockets`
        of the host's services are shared, as for `--socket`. `lies` are what the view is
        told of the machine. `labels` are shown by `overlaykit inspect`.

        Raises: TypeError, ValueError, Error.
        """
        self.spec = describe(
            layers,
            upper=upper,
            frozen=frozen,
            read_only=read_only,
            originals=originals,
            name=name,
            network=network,
            names=names,
            shared=shared,
            userns=userns,
            binds=binds,
            ports=ports,
            driver=driver,
            data_plane=data_plane,
            no_open=no_open,
            confinement=confinement,
            limits=limits,
            disk=disk,
            tmpfs=tmpfs,
            devices=devices,
            shm_size=shm_size,
            hidden=hidden,
            share_home=share_home,
            writable=writable,
            sockets=sockets,
            lies=lies,
            labels=labels or {},
        )
        self.name = name or ""
        self.processes: Processes | None = None
        self.made_upper = False
        self.notes: tuple[str, ...] = ()
        self._store = store
        self._rootfs: RootFs | None = None
        self._cgroups: Cgroups | None = None
        self._undo = ExitStack()
        self._last = False
        self._launching = _thread.allocate_lock()
        self._owner = os.getpid()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Mount.

        Signals of `signals.FORWARDED` arrive while it waits for the daemon, and at its end.
        Raises: Error for what the user can mend, OSError for the rest. Ensures: after an error nothing is left behind.
        """
        if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
            raise ChildrenLost
        self._owner = os.getpid()
        try:
            with signals.held(), standard.filled():
                rootfs = RootFs(self.spec, self._store)
                self._undo.callback(rootfs.close)
                self._rootfs = rootfs
                self.name = rootfs.entry.name
                self.made_upper = rootfs.made_upper
                self.notes = rootfs.notes
                if self.spec.limits is not None:
                    groups = self._undo.enter_context(ExitStack())
                    self._cgroups = namespace.cgroups.make(self.spec.limits, self.name, groups)
        except BaseException:
            self.close()
            raise

    def launch(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | Environment | None = None,
        cwd: str | None = None,
        pass_fds: Collection[int] = (),
        umask: int | None = None,
        redirected: Mapping[int, int] | None = None,
        confinement: Confinement | None = None,
        last: bool = False,
        nested: Nested | None = None,
        shown: Sequence[str] | None = None,
        lasting: Lasting | None = None,
        terminal: bool = False,
    ) -> Processes:
        """Run a command in the view, without waiting for it.

        `env` is its whole environment, as variables or as the entries of execve(2) (by default `os.environ`); `cwd` a
        directory in the view, which must be there (by default the caller's own, or / where the view has none such);
        `pass_fds` descriptors that the command gets under the same numbers, beside the standard ones; `redirected` the
        descriptors, from 3 on, of which it gets copies as its standard ones; `umask` its umask, by default the
        caller's; `confinement` its confinement, by default the view's. With `last` no other command follows, even if
        this one cannot be started: the mount ends with it, and all it wrote is in the upper once `wait` returns; else
        once the view is closed. `nested`: as in `namespace.LaunchSpec`; `shown`: the
        command that `overlaykit ps` names, by default this one; `lasting`: what the caller keeps of it, and `terminal`
        whether it has one, for that command as well.

        Raises: Error: exit_code 127 and 126 if the command is missing or cannot be executed; NotStarted,
        CommandRunning, LastCommand, DaemonEnded, OfAnotherProcess. OSError: EBADF if one of `pass_fds` or `redirected`
        is not open. An exception of a signal's handler. Ensures: after an exception the command has ended.
        """
        given = {} if redirected is None else redirected
        descriptors.require_open([*pass_fds, *given.values()])
        rootfs = self._require_ready(cwd)
        spec = command.launch_spec(
            self.spec,
            argv,
            hostname=self.spec.hostname(self.name),
            env=env,
            cwd=cwd,
            pass_fds=pass_fds,
            umask=umask,
            redirected=given,
            keep=rootfs.upper is not None or not last,
            confinement=confinement,
            cgroups=self._cgroups,
            connected=rootfs.network,
            nested=nested,
            # Signals of a terminal, or for the caller's process group, are not for such programs.
            new_session=nested is not None,
        )
        before = self.processes
        try:
            return self._launch(
                rootfs,
                spec,
                last=last,
                shown=spec.argv if shown is None else shown,
                lasting=lasting or Lasting(),
                terminal=terminal,
            )
        except CommandRunning:
            raise
        except BaseException:
            # A handler's exception may arrive at the end of the launch: the caller would not get what to end.
            if self.processes is not None and self.processes is not before:
                self.processes.close()
            raise

    def _launch(
        self,
        rootfs: RootFs,
        spec: LaunchSpec,
        *,
        last: bool,
        shown: Sequence[str],
        lasting: Lasting,
        terminal: bool,
    ) -> Processes:
        # The stack ends before a signal arrives: an exception of its handler leaves no descriptor of the mount open.
        with (
            signals.deferred(),
            signals.held(),
            ExitStack() as stack,
            standard.filled(),
        ):
            if not self._launching.acquire(blocking=False):  # by another thread
                raise CommandRunning(self.name)
            stack.callback(self._launching.release)
            if self.processes is not None:
                if self.processes.count():
                    raise CommandRunning(self.name)
                self.processes.close()
            user = rootfs.root.user_namespace
            root = namespace.RootMount(mount=rootfs.root.mount, user_namespace=user)
            if last:
                self._last = True
                # Not before `_publish`: if a short command has ended, the daemon ends with the last descriptor.
                stack.callback(rootfs.root.close_mount)
            else:
                from overlaykit.namespace.duplicate import duplicate

                mount, rootfs.root.mount = duplicate(root)
                stack.callback(os.close, mount)
                root = namespace.RootMount(mount=mount, user_namespace=user)
            self.processes = namespace.launch(spec, root, hold=rootfs.holds)
            self._undo.enter_context(self.processes)
            self._publish(
                rootfs,
                self.processes.init_pid,
                self.processes.ports,
                tuple(shown),
                supervisor=self.processes.monitor_pid,
                machine=0 if spec.nested is None else os.getpid(),
                detached=lasting.log is not None,
                terminal=terminal,
                kept=lasting.kept,
            )
        return self.processes

    def wait(self) -> int:
        """Wait for the command's end. Returns: its exit status, or 128 + N where signal N ended it.

        Raises: NotStarted; DaemonEnded if the mount ended first.
        """
        status = self._wait_for_command()
        self._wait_for_daemon()
        return status

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        input: bytes | str | None = None,  # noqa: A002  # subprocess's name
        capture_output: bool = False,
        text: bool = False,
        check: bool = False,
        env: Mapping[str, str] | Environment | None = None,
        cwd: str | None = None,
        pass_fds: Collection[int] = (),
        umask: int | None = None,
        confinement: Confinement | None = None,
        last: bool = False,
        on_launch: Callable[[], None] = lambda: None,
    ) -> subprocess.CompletedProcess[Any]:
        """`launch` and `wait`; a signal for the command reaches it from its first instruction on.

        `stdin`, `stdout`, `stderr`, `input`, `capture_output`, `text` and `check` are as for subprocess.run, but that
        the returncode is 128 + N where signal N ended the command. `on_launch` is called once the command runs.

        Raises: as `launch` and `wait`; subprocess.CalledProcessError; an exception of `on_launch` or of a signal's
        handler. Ensures: after an exception the command has ended.
        """
        import subprocess

        from overlaykit.views.streams import Streams

        descriptors.require_open(pass_fds)  # before one of ours gets the number
        if capture_output:
            stdout = stderr = subprocess.PIPE
        given = input.encode() if isinstance(input, str) else input
        with Streams(stdin, stdout, stderr, given) as streams, signals.held():
            processes = self.launch(
                argv,
                env=env,
                cwd=cwd,
                pass_fds=pass_fds,
                umask=umask,
                redirected=streams.redirected,
                confinement=confinement,
                last=last,
            )
            try:
                streams.release()
                on_launch()
                status = self._wait_for_command()
            except BaseException:
                processes.close()  # else its streams would be waited for
                raise
        self._wait_for_daemon()
        output, errors = (
            found.decode() if text and found is not None else found
            for found in (streams.output, streams.errors)
        )
        done = subprocess.CompletedProcess(list(argv), status, output, errors)
        if check:
            done.check_returncode()
        return done

    def execute(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | Environment | None = None,
        cwd: str | None = None,
        pass_fds: Collection[int] = (),
        umask: int | None = None,
        terminal: namespace.Terminal | None = None,
        lasting: Lasting | None = None,
        confinement: Confinement | None = None,
        identity: Identity | None = None,
        ulimits: Sequence[Ulimit] = (),
        new_session: bool = False,
        grace: int | None = None,
        json_status: int | None = None,
        time_offsets: str | None = None,
        directories: Sequence[Directory] = (),
        symlinks: Sequence[Symlink] = (),
        data: Sequence[Data] = (),
    ) -> NoReturn:
        """Run a last command in the view in place of this program; the arguments are those of `launch`.

        With `terminal` the command gets a terminal of its own, relayed to the standard streams of this program;
        with `identity` it is another user than the view's root. `lasting`: what is kept of the command.
        `new_session`, `grace`, `json_status`, `time_offsets`, `directories`, `symlinks`, `data`: as in
        `namespace.LaunchSpec`.

        The process becomes the supervisor of the view: a program in C, which forwards signals, ends with the command's
        status (128 + N where signal N ended it), and removes every trace. A step that fails is printed by
        `overlaykit.cli.failed`, as the command line prints it.

        Requires: the main thread, and no other; signals are held (`signals.held`).
        Raises: as `launch`, for what is found before this program is replaced.
        """
        descriptors.require_open(pass_fds)
        rootfs = self._require_ready(cwd)
        lasting = lasting or Lasting()
        mounts, root = rootfs.root, self.root()
        account, env = command.account_of(identity, root.enter, env)
        spec = command.launch_spec(
            self.spec,
            argv,
            hostname=self.spec.hostname(self.name),
            env=env,
            cwd=cwd,
            pass_fds=pass_fds,
            umask=umask,
            redirected=lasting.redirected,
            keep=rootfs.upper is not None,
            terminal=terminal,
            confinement=confinement,
            cgroups=self._cgroups,
            account=account,
            ulimits=tuple(ulimits),
            new_session=new_session,
            grace=grace,
            json_status=json_status,
            time_offsets=time_offsets,
            directories=tuple(directories),
            symlinks=tuple(symlinks),
            data=tuple(data),
            connected=rootfs.network,
        )
        self._last = True
        with ExitStack() as stack:
            end = mounts.end(stack)
            groups = self._cgroups.directories if self._cgroups is not None else ()
            namespace.execute(
                spec,
                root,
                report=(
                    REPORTER,
                    self.name,
                    "lasting" if lasting.new is None else str(lasting.new),
                ),
                end=end.replace(
                    status=lasting.status,
                    remove_opened=lasting.remove,
                    remove_if_empty=groups + end.remove_if_empty,
                ),
                abort_on=mounts.watched,
                hold=(*rootfs.holds, *lasting.hold),
                hold_until_started=rootfs.become_supervisor(),
                announce=lasting.announce,
                log=lasting.log,
                input=lasting.input,
                before_exec=lambda ports: self._publish(
                    rootfs,
                    os.getpid(),
                    ports,
                    spec.argv,
                    supervisor=os.getpid(),
                    detached=lasting.log is not None,
                    terminal=terminal is not None,
                    kept=lasting.kept,
                ),
            )

    def root(self) -> namespace.RootMount:
        """The mount, and the user namespace that owns it: open until `close`. Raises: NotStarted."""
        root = self._require_started().root
        return namespace.RootMount(mount=root.mount, user_namespace=root.user_namespace)

    def entry(self) -> str:
        """The directory of its entry in the registry. Raises: NotStarted."""
        return self._require_started().entry.path

    def control(self) -> str:
        """The path of the daemon's control socket; empty: the kernel merges the layers. Raises: NotStarted."""
        rootfs = self._require_started()
        return rootfs.entry.control if rootfs.root.daemon_pid else ""

    def watched(self) -> tuple[int, ...]:
        """Descriptors that are readable once the mount has ended. Raises: NotStarted."""
        return self._require_started().root.watched

    def root_has_ended(self) -> bool:
        """Whether the mount has ended. Raises: NotStarted."""
        return self._require_started().root.has_ended()

    def explain(self, path: str) -> Explanation:
        """Which layer answers for a path in the view. Raises: NotStarted, OSError (ENOENT and the like)."""
        return self._require_started().root.explain(path)

    def close(self) -> None:
        """End the command and the mount; wait until nothing is left.

        Repeatable. Does nothing in a fork of the process that started the view.
        """
        if self._owner == os.getpid():
            self._undo.close()

    def _require_started(self) -> RootFs:
        if self._rootfs is None:
            raise NotStarted
        return self._rootfs

    def _require_ready(self, cwd: str | None) -> RootFs:
        """The root file system, if a command with the working directory `cwd` can be launched. Raises: Error."""
        rootfs = self._require_started()
        if self._owner != os.getpid():
            raise OfAnotherProcess(self.name)
        if self._last:
            raise LastCommand(self.name)
        if cwd is not None and not os.path.isabs(cwd):
            raise namespace.WorkingDirectoryRelative(cwd)
        if rootfs.root.has_ended():
            raise self._daemon_ended()
        return rootfs

    def _wait_for_command(self) -> int:
        rootfs = self._require_started()
        if self.processes is None:
            raise NotStarted
        return self.processes.wait(abort_on=rootfs.root.watched)

    def _wait_for_daemon(self) -> None:
        """Wait until all changes are in the upper: the mount ends with the last command, the daemon with the mount."""
        root = self._require_started().root
        if not self._last and not root.has_ended():
            return
        if not root.wait():
            raise self._daemon_ended()

    def _daemon_ended(self) -> DaemonEnded:
        from overlaykit.fuse.daemon import describe_log
        from overlaykit.views import places

        return DaemonEnded(self.name, describe_log(places.log()))

    def _publish(
        self,
        rootfs: RootFs,
        pid: int,
        ports: Sequence[Port],
        argv: tuple[str, ...],
        *,
        supervisor: int,
        detached: bool = False,
        terminal: bool = False,
        machine: int = 0,
        kept: Kept | None = None,
    ) -> None:
        """Show the view to other commands; `pid` is the process that `overlaykit ps` names."""
        root = rootfs.root
        rootfs.entry.publish(
            About(
                name=self.name,
                pid=pid,
                daemon=root.daemon_pid,
                started=now(),
                device=root.device,
                layers=self.spec.layers,
                upper=rootfs.upper,
                command=argv,
                ports=tuple(map(str, ports)),
                driver=root.driver,
                paths=root.paths,
                changes=root.changes,
                frozen=len(self.spec.frozen),
                capabilities=tuple(sorted(self.spec.confinement.capabilities)),
                no_new_privs=self.spec.confinement.no_new_privs,
                seccomp=self.spec.confinement.seccomp,
                release=None if self.spec.lies is None else self.spec.lies.kernel,
                supervisor=supervisor,
                machine=machine,
                cgroups=self._cgroups.paths if self._cgroups is not None else (),
                network=self.spec.network,
                address=None if rootfs.network is None else rootfs.network.address,
                labels=dict(self.spec.labels),
                detached=detached,
                terminal=terminal,
                kept=kept,
            )
        )
