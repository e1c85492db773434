"""A view: layers + a mount + a launch."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import signal
import stat
import subprocess
import threading
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from overlaykit import namespace, signals, standard
from overlaykit.errors import Error
from overlaykit.fuse import control, daemon, daemon_log, directories
from overlaykit.fuse.spec import LayerSpec, MountFlags, MountOptions, MountSpec
from overlaykit.layers import Store, resolve
from overlaykit.namespace import descriptors, environment
from overlaykit.rmtree import rmtree_path
from overlaykit.views import places
from overlaykit.views.registry import About, Registry, now
from overlaykit.views.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from overlaykit.layers import Hold
    from overlaykit.namespace import Bind, Port, Processes
    from overlaykit.namespace.environment import Environment
    from overlaykit.views.registry import Entry
    from overlaykit.views.streams import Stream


class DaemonEnded(Error):
    message = "the daemon of view {0} ended before the view did, so its files were gone; {1}"


class MountsNotIsolated(Error):
    message = (
        "a view needs mounts of its own, which this root may not have: run it outside of a "
        "chroot, with CAP_SYS_ADMIN"
    )


class UpperMissing(Error):
    message = "--upper {0}: there is no directory to make it in: create its parent first"


class UpperOnMountpoint(Error):
    message = (
        "--upper {0}: a file system is mounted just there, and there has to be room beside an "
        "upper on the same one: name a directory in it"
    )


class WorkUnusable(Error):
    message = (
        "--upper {0}: {1} beside it, for work in progress, cannot be used ({2}): name a directory "
        "whose parent you may write to"
    )


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


Network = Literal["private", "host", "none"]


class View:
    """One program's view of the machine, as a context manager: mounted when entered, gone without a trace when left.

        with View(["py27", "host"], upper="changes") as view:
            view.run(["python", "setup.py", "install"], check=True)
            version = view.run(["tool", "--version"], capture_output=True, text=True).stdout

    Commands run one after another, each with processes, host name and network of its own, over the same files.
    Attributes: `name`; `processes`, the last command (`namespace.Processes`), None before `launch`; `made_upper`,
    whether there was no directory `upper` before; `notes`, once started, what its user may not expect, a line each.
    """

    def __init__(
        self,
        layers: Sequence[str] = ("host",),
        *,
        upper: str | None = None,
        read_only: bool = False,
        name: str | None = None,
        network: Network = "private",
        binds: Sequence[Bind | str] = (),
        ports: Sequence[Port | str] = (),
        store: Store | None = None,
    ) -> None:
        """Nothing happens yet.

        `layers`, top first: `host`, names of the store, or directories (a path with a slash, or `dir:PATH`). Changes
        go to the directory `upper`; without one they are dropped at the end, or refused with EROFS if `read_only`.
        `binds` and `ports` are as for `-v` and `-p`, also as texts.
        """
        if upper is not None and read_only:
            raise ValueError("a read-only view has no upper")
        for what, given in {"layers": layers, "binds": binds, "ports": ports}.items():
            _check_list(what, given)
        if not layers:
            raise ValueError("layers: name one at least")
        if network not in get_args(Network):
            raise ValueError(f"network: {network!r} is none of {', '.join(get_args(Network))}")
        if upper == "":  # and not the working directory
            raise directories.UpperUnusable(upper, os.strerror(errno.ENOENT))
        self.name = name or ""
        self._wanted_name = name
        self.processes: Processes | None = None
        self._layers = tuple(layers)
        self._upper = None if upper is None else os.path.abspath(upper)
        self._read_only = read_only
        self._network = network
        self._binds = tuple(
            namespace.parse_bind(bind) if isinstance(bind, str) else bind for bind in binds
        )
        namespace.binds.check(self._binds)
        self._ports = tuple(
            namespace.parse_port(port) if isinstance(port, str) else port for port in ports
        )
        self._store = store
        self._undo = contextlib.ExitStack()
        self._entry: Entry | None = None
        self._daemon: daemon.Daemon | None = None
        self._last = False
        self._launching = threading.Lock()
        self._owner = os.getpid()
        self.made_upper = False
        self.notes: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Mount. Raises Error for what the user can mend, OSError for the rest; nothing is left behind.

        Signals of `signals.FORWARDED` arrive while it waits for the daemon, and at its end.
        """
        if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
            raise ChildrenLost
        self._owner = os.getpid()
        try:
            with signals.held(), standard.filled():
                self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as undo_upper:
            served = _start_daemon()
            undo.callback(served.abandon)
            if self._network != "host":
                namespace.preload()  # costs no time here: the daemon takes longer to load
            registry = Registry()
            undo.callback(registry.leave)
            entry = undo.enter_context(contextlib.closing(registry.enter(self._wanted_name)))
            self.name = entry.name
            served.set_cleanup_paths(*entry.remains)
            upper, work = self._prepare_upper(entry, undo_upper)
            served.set_cleanup_paths(*entry.remains)  # the scratch is among them now
            store = self._store or Store()
            hidden = [*filter(None, (upper, work)), *places.hidden()]
            layers = [resolve(text, store, hidden=hidden) for text in self._layers]
            holds = [undo.enter_context(layer.hold()) for layer in layers]
            lowers = [
                layer.path if layer.recursive else served.hand_over(layer.path, hold.fileno())
                for layer, hold in zip(layers, holds, strict=True)
            ]
            if upper is not None and work is not None:
                upper = _hand_over(served, upper, holds[0])
                work = _hand_over(served, work)
            spec = MountSpec(
                source=entry.name,
                layers=tuple(
                    LayerSpec(path=path, recursive=layer.recursive, masks=layer.masks)
                    for path, layer in zip(lowers, layers, strict=True)
                ),
                upper=upper,
                work=work,
                stage=entry.stage,
                options=MountOptions(volatile=self._upper is None),
                # A view has a /dev of its own: a device node in a layer must not open one of the machine's.
                flags=MountFlags(nodev=True),
                squash_unmapped=not namespace.is_privileged(),
                cleanup_paths=entry.remains,
                log_path=places.log(),
            )
            with entry.listen() as listener:
                locks = [entry.lock, *(hold.fileno() for hold in holds)]
                try:
                    served.serve(spec, listener, keep=locks)
                except daemon.UpperLocked as held:
                    from overlaykit.views.unmounting import upper_held

                    raise upper_held(upper or "", held.pid) from held
            self._daemon = served
            self.notes = served.notes
            undo.callback(self._end_daemon)
            self._entry = entry
            self._undo = undo.pop_all()
            undo_upper.pop_all()

    def launch(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | Environment | None = None,
        cwd: str | None = None,
        pass_fds: Collection[int] = (),
        umask: int | None = None,
        redirected: Mapping[int, int] | None = None,
        last: bool = False,
    ) -> Processes:
        """Run a command in the view, without waiting for it.

        `env` is its whole environment, as variables or as the entries of execve(2) (by default `os.environ`); `cwd` a
        directory in the view, which must be there (by default the caller's own, or / where the view has none such);
        `pass_fds` descriptors that the command gets under the same numbers, beside the standard ones; `redirected` the
        descriptors, from 3 on, of which it gets copies as its standard ones; `umask` its umask, by default the
        caller's. With `last` no other command follows, even if this one cannot be started: the mount ends with it, and
        all it wrote is in the upper once `wait` returns; else once the view is closed.

        Raises Error: exit_code 127 and 126 if the command is missing or cannot be executed; NotStarted, CommandRunning,
        LastCommand, DaemonEnded, OfAnotherProcess. Raises OSError: EBADF if one of `pass_fds` or `redirected` is not
        open.
        """
        given = {} if redirected is None else redirected
        descriptors.require_open([*pass_fds, *given.values()])
        if self._daemon is None:
            raise NotStarted
        if self._owner != os.getpid():
            raise OfAnotherProcess(self.name)
        if self._last:
            raise LastCommand(self.name)
        if cwd is not None and not os.path.isabs(cwd):
            raise namespace.WorkingDirectoryRelative(cwd)
        if self._daemon.process.poll() is not None:
            raise self._daemon_ended()
        command = _command(argv)
        variables = os.environ if env is None else env
        spec = namespace.LaunchSpec(
            argv=command,
            env=variables if isinstance(variables, tuple) else environment.entries(variables),
            cwd=environment.current_directory() if cwd is None else cwd,
            cwd_required=cwd is not None,
            hostname=self.name,
            network=self._network,
            binds=self._binds,
            ports=self._ports,
            descriptors=tuple(pass_fds),
            umask=umask,
            redirected=given,
            keep=self._upper is not None or not last,
        )
        # The stack ends before a signal arrives: what a handler raises leaves no descriptor of the mount behind.
        with (
            signals.deferred(),
            signals.held(),
            contextlib.ExitStack() as stack,
            standard.filled(),
        ):
            if not self._launching.acquire(blocking=False):  # by another thread
                raise CommandRunning(self.name)
            stack.callback(self._launching.release)
            if self.processes is not None:
                if self.processes.count():
                    raise CommandRunning(self.name)
                self.processes.close()
            user = None
            if not namespace.is_privileged():
                user = os.pidfd_open(self._daemon.process.pid)
                stack.callback(os.close, user)
            root = self._daemon.mount
            if last:
                self._last = True
                # Not before the end: a short command may have ended, then all of it goes.
                stack.callback(self._daemon.close_mount)
            else:
                from overlaykit.namespace.duplicate import duplicate

                root, self._daemon.mount = duplicate(root, user_namespace=user)
                stack.callback(os.close, root)
            self.processes = namespace.launch(spec, root=root, user_namespace=user)
            self._undo.enter_context(self.processes)
            self._publish(command)
        return self.processes

    def wait(self) -> int:
        """Wait for the command's end: its exit status, or 128 + N where signal N ended it.

        Raises Error (DaemonEnded) if the files went away first.
        """
        status = self._await_command()
        self._await_daemon()
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
        last: bool = False,
        on_launch: Callable[[], None] = lambda: None,
    ) -> subprocess.CompletedProcess[Any]:
        """`launch` and `wait`; a signal for the command reaches it from its first instruction on.

        `stdin`, `stdout`, `stderr`, `input`, `capture_output`, `text` and `check` are as for subprocess.run, but that
        the returncode is 128 + N where signal N ended the command. `on_launch` is called once the command runs. Raises
        besides what `launch` and `wait` raise subprocess.CalledProcessError. Whatever is raised, by `on_launch` or a
        signal's handler too, the command has ended then.
        """
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
                last=last,
            )
            try:
                streams.release()
                on_launch()
                status = self._await_command()
            except BaseException:
                processes.close()  # else its streams would be waited for
                raise
        self._await_daemon()
        output, errors = (
            found.decode() if text and found is not None else found
            for found in (streams.output, streams.errors)
        )
        done = subprocess.CompletedProcess(list(argv), status, output, errors)
        if check:
            done.check_returncode()
        return done

    def explain(self, path: str) -> control.Explained:
        """Which layer answers for a path in the view. Raises OSError (ENOENT and the like)."""
        assert self._entry is not None
        reply = control.ask(self._entry.control, control.Explain(path))
        assert isinstance(reply, control.Explained)
        return reply

    def close(self) -> None:
        """End the command and the mount; wait until nothing is left. Again, or in a fork of its process, do nothing."""
        if self._owner == os.getpid():
            self._undo.close()

    def _await_command(self) -> int:
        if self._daemon is None or self.processes is None:
            raise NotStarted
        ended = os.pidfd_open(self._daemon.process.pid)
        try:
            return self.processes.wait(abort_on=[ended])
        finally:
            os.close(ended)

    def _await_daemon(self) -> None:
        """Wait until all is in the upper: the mount is gone with the last command, and the daemon with the mount."""
        assert self._daemon is not None
        if not self._last and self._daemon.process.poll() is None:
            return
        if self._daemon.process.wait() != 0:
            raise self._daemon_ended()

    def _daemon_ended(self) -> DaemonEnded:
        return DaemonEnded(self.name, daemon_log.describe(places.log()))

    def _prepare_upper(
        self, entry: Entry, undo: contextlib.ExitStack
    ) -> tuple[str | None, str | None]:
        """The directories for changes and for work in progress, made where there are none; none if read-only."""
        if self._read_only:
            return None, None
        if self._upper is None:
            scratch = entry.make_scratch()
            upper, work = os.path.join(scratch, "upper"), os.path.join(scratch, "work")
        else:
            upper = self._upper = directories.lasting_path(self._upper)
            parent, name = os.path.split(upper)
            if not os.path.isdir(parent):
                raise UpperMissing(upper)
            if os.path.ismount(upper):
                raise UpperOnMountpoint(upper)
            work = os.path.join(parent, f".{name}.overlaykit")
        for path in (upper, work):
            try:
                if not os.path.isdir(path):
                    os.mkdir(path, 0o700)
                    if self._upper is not None:  # else it goes with the entry
                        undo.callback(rmtree_path, path)
                        self.made_upper = self.made_upper or path == upper
            except OSError as error:
                number = errno.ENOTDIR if error.errno == errno.EEXIST else error.errno
                reason = os.strerror(number or errno.EIO)
                if path == work:
                    raise WorkUnusable(upper, os.path.basename(work), reason) from None
                raise directories.UpperUnusable(path, reason) from None
        return upper, work

    def _publish(self, command: tuple[str, ...]) -> None:
        assert self._entry is not None
        assert self._daemon is not None
        assert self.processes is not None
        self._entry.publish(
            About(
                name=self.name,
                pid=self.processes.init_pid,
                daemon=self._daemon.process.pid,
                started=now(),
                device=self._daemon.device,
                layers=self._layers,
                upper=self._upper,
                command=command,
                ports=tuple(f"{p.address}:{p.host}:{p.view}" for p in self.processes.ports),
            )
        )

    def _end_daemon(self) -> None:
        assert self._daemon is not None
        self._daemon.close_mount()
        self._daemon.process.wait()


def _check_list(what: str, given: object) -> None:
    if isinstance(given, str | bytes):
        raise TypeError(f"{what}: give a list, [{given!r}], not one text")


def _command(argv: Sequence[str]) -> tuple[str, ...]:
    """The command as execve(2) can take it. Raises TypeError or ValueError for what is none."""
    _check_list("argv", argv)
    command = tuple(map(os.fsdecode, argv))
    if not command:
        raise ValueError("argv: no command given")
    for word in command:
        if "\0" in word:
            raise ValueError(f"argv: {word!r} holds a zero byte")
    return command


def _start_daemon() -> daemon.Daemon:
    """A daemon in a mount namespace of its own, in a user namespace too for all but a full root."""
    privileged = namespace.is_privileged()
    prepare = (
        namespace.isolate_mounts
        if privileged
        else functools.partial(namespace.enter, namespace.available())
    )
    try:
        return daemon.Daemon(prepare=prepare)
    except subprocess.SubprocessError:  # what `prepare` raised is lost
        if privileged:
            raise MountsNotIsolated from None
        refused = namespace.diagnose()
        if refused is None:
            raise
        raise refused from None


def _hand_over(served: daemon.Daemon, path: str, lower: Hold | None = None) -> str:
    """Open a directory and give it to the daemon; the path that stands for it.

    A new upper gets the mode of the `lower` that it covers: the view's root shows it.
    """
    fd = directories.open_directory(path)
    try:
        if lower is not None and not os.listdir(f"/proc/self/fd/{fd}"):
            os.chmod(f"/proc/self/fd/{fd}", stat.S_IMODE(os.fstat(lower.fileno()).st_mode))
        return served.hand_over(path, fd)
    finally:
        os.close(fd)
