"""A user of overlaykit, root or ordinary, with a home directory; leftovers at the end of a test fail it.

Used by the tests of whole views, of the command line and of programs in a view. The fixture is in `fixtures`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import pytest

from overlaykit import _native, mountinfo
from overlaykit.fuse import server_client
from overlaykit.layers.host import host
from overlaykit.procfs import descendants, parent
from overlaykit.views.kernel_abilities import ABILITIES
from overlaykit.views.kernel_driver import HostOfSeveralFileSystems, require_one_file_system

from .. import forked
from ..patience import patience
from ..posix import syscalls

ORDINARY = 1000
"""The uid of "an ordinary user" when the tests run as root."""

DEADLINE_SECONDS = patience(60)
"""A test that runs longer hangs, and fails."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

AS_ORDINARY = ("setpriv", f"--reuid={ORDINARY}", f"--regid={ORDINARY}", "--clear-groups")
"""A prefix for commands: a test of root runs them as the ordinary user."""

CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

_INTERPRETER_FILES = (sys.executable, os.__file__, _native.__file__)
"""One file of each directory that a process of overlaykit needs."""

_OF_SERVER = ".server"
"""The directory of the user's server among the records."""

_ENDS_WITHIN_SECONDS = patience(20)
"""A daemon that runs longer after its view is left over."""

_ABORTED = "fuse_reply_* failed with No such file or directory"
"""pyfuse3 logs it for a request in flight when the last process of a view ends, and with it the mount."""


_WALL = 0x40000000
"""__WALL of waitid(2): children of every kind."""


class Hung(BaseException):
    """The test did not end in time. A BaseException, so that the code under test does not catch it."""


@dataclass(frozen=True)
class Variant:
    """How a view gets its root file system: by which driver, and whether a server forks the daemons."""

    driver: str
    server: bool = False

    def __str__(self) -> str:
        """The end of a test's name."""
        return f"{'-kernel' if self.driver == 'kernel' else ''}{'-server' if self.server else ''}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables of users that choose it."""
        seconds = str(DEADLINE_SECONDS * 10)
        return {
            "OVERLAYKIT_DRIVER": self.driver,
            "OVERLAYKIT_SERVER": seconds if self.server else "off",
        }


def command() -> str:
    """The path of the `overlaykit` installed beside the interpreter that runs the tests."""
    found = shutil.which("overlaykit", path=os.path.dirname(sys.executable))
    if found is None:
        pytest.fail(f"no overlaykit beside {sys.executable}: run 'make setup-tests'")
    return found


@functools.cache
def kernel_shows_host() -> bool:
    """Whether the kernel's overlayfs shows root the layer `host`: this machine's root is one file system."""
    try:
        require_one_file_system(host())
    except HostOfSeveralFileSystems:
        return False
    return True


def read_to_end(descriptor: int) -> bytes:
    """Everything until end of file."""
    return b"".join(iter(lambda: os.read(descriptor, 65536), b""))


@dataclass
class TestUser:
    """The identity a test runs as: root or an ordinary user.

    Each test has a process of its own, and under root a mount namespace of its own.
    """

    __test__ = False  # no class of tests, though pytest would take its name for one

    is_root: bool
    scratch: str
    """The user's directory on a disk, removed after the test; a view over `host` shows it at the same path."""
    variant: Variant = Variant("fuse")
    forks: bool = False
    """Whether commands and daemons are forks of the test's process; otherwise they are as installed (`forked`)."""
    expects_log: bool = False
    """Whether the test expects entries in the daemon's log; otherwise an entry fails the test."""
    _found: set[tuple[str, str]] = field(default_factory=set)
    """The mounts at the beginning. Other processes of the machine may unmount some of them."""
    _before: dict[str, object] = field(default_factory=dict)

    @property
    def driver(self) -> str:
        """The driver of the user's views."""
        return self.variant.driver

    @property
    def home(self) -> str:
        return self.path("home")

    def path(self, *names: str) -> str:
        return os.path.join(self.scratch, *names)

    def directory(self, *names: str, **files: str | bytes) -> str:
        """Make a directory and files with the given contents in it."""
        path = self.path(*names)
        os.makedirs(path)
        for name, contents in files.items():
            self.write(os.path.join(path, name), contents)
        return path

    def write(self, path: str, contents: str | bytes) -> str:
        with open(path, "wb") as file:
            file.write(contents.encode() if isinstance(contents, str) else contents)
        return path

    def overlaykit(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the command to its end, with an empty standard input."""
        settings: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "capture_output": True,
            "text": True,
            "errors": "surrogateescape",
        }
        whole, settings = self._prepared(arguments, settings | options)
        done: subprocess.CompletedProcess[str] = subprocess.run(whole, check=False, **settings)
        return done

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start the command with pipes as standard input and output."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, **options}
        whole, settings = self._prepared(arguments, pipes)
        return subprocess.Popen(whole, **settings)

    def _prepared(
        self, arguments: tuple[str, ...], options: dict[str, Any]
    ) -> tuple[list[str], dict[str, Any]]:
        """The whole command, and the options of subprocess.Popen that start it."""
        whole = [command(), *self._with_layers(arguments)]
        if not self.forks:
            return whole, options
        return whole, forked.command_options(whole, options)

    def _with_layers(self, arguments: tuple[str, ...]) -> tuple[str, ...]:
        """Arguments of `run` with the user's own layer, where the driver has no layer `host` for an ordinary user."""
        if arguments[0] != "run" or "-l" in arguments or self.has_host:
            return arguments
        return ("run", "-l", self.small_system(), "-v", "/usr:/usr:ro", *arguments[1:])

    @property
    def has_host(self) -> bool:
        """Whether the driver shows this user the layer `host`."""
        return self.variant.driver != "kernel" or (self.is_root and kernel_shows_host())

    def small_system(self) -> str:
        """A directory of the user's that is a system together with the host's /usr."""
        system = self.path("small-system")
        if not os.path.exists(system):
            for name in "etc", "usr", "tmp", "home", "proc", "sys", "dev", "run":
                os.makedirs(os.path.join(system, name))
            for name in "bin", "sbin", "lib", "lib64":
                os.symlink(f"usr/{name}", os.path.join(system, name))
            for name in "passwd", "group", "hosts", "ld.so.cache":
                shutil.copy(f"/etc/{name}", os.path.join(system, "etc", name))
        return system

    def succeeds(self, *arguments: str, **options: Any) -> str:
        """Run the command and return its output. Output on standard error fails the test."""
        done = self.overlaykit(*arguments, **options)
        assert (done.returncode, done.stderr) == (0, ""), done
        return str(done.stdout)

    def kernel_has(self, ability: str) -> bool:
        """Whether the running kernel has an ability that `overlaykit doctor` names."""
        (found,) = (one for one in ABILITIES if one.name == ability)
        stage = self.directory("stage-of-a-probe")
        has = found.is_here(stage)
        os.rmdir(stage)
        assert has is not None
        return has

    def changed_machine(
        self, arrange: str, *arguments: str, then: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run the command in new namespaces that the shell command `arrange` changes first, as their root.

        `then`: a shell command that runs afterwards. The ordinary user has root's capabilities for both, not for the
        command itself. The shell function `cover DIRECTORY [ro]` mounts an empty file system at a directory and keeps
        overlaykit's own files in it.
        """
        become: list[str] = []
        resume: list[str] = []
        if not self.is_root:
            become = [
                "--user",
                f"--map-user={os.getuid()}",
                f"--map-group={os.getgid()}",
                "--keep-caps",
            ]
            resume = ["setpriv", "--ambient-caps=-all", "--inh-caps=-all"]
        script = f'{_cover()}{arrange}\n"$@" || exit $?\n{then}'
        return subprocess.run(
            [
                "unshare",
                "--mount",
                *become,
                "sh",
                "-euc",
                script,
                "sh",
                *resume,
                command(),
                *arguments,
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def program(self, arguments: list[str], **options: Any) -> str:
        """Run a program that succeeds, outside all views, and return its output."""
        settings: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "capture_output": True,
            "text": True,
            "errors": "surrogateescape",
        }
        settings |= options
        done = subprocess.run(arguments, check=False, **settings)
        assert done.returncode == 0, done
        return str(done.stdout)

    def refused(self, *arguments: str, status: int = 125, **options: Any) -> str:
        """Run the command and return the one line with which it fails."""
        done = self.overlaykit(*arguments, **options)
        assert done.returncode == status, done
        assert done.stdout == "", done
        assert done.stderr.startswith("overlaykit: "), done
        assert done.stderr.endswith("\n"), done
        assert done.stderr.count("\n") == 1, done
        line: str = done.stderr.removeprefix("overlaykit: ").removesuffix("\n")
        return line

    @property
    def runtime(self) -> str:
        """The directory of the records of running views."""
        return "/run/overlaykit" if self.is_root else self.path("run", "overlaykit")

    @property
    def temporary_uppers(self) -> str:
        """The directory of uppers that end with their view."""
        return os.path.join(self.home, ".cache", "overlaykit")

    @property
    def store(self) -> str:
        return os.path.join(self.home, ".local", "share", "overlaykit", "layers")

    @property
    def named_views(self) -> str:
        return os.path.join(self.home, ".local", "share", "overlaykit", "views")

    @property
    def log(self) -> str:
        return os.path.join(self.home, ".local", "state", "overlaykit", "daemon.log")

    def leftovers(self) -> dict[str, object]:
        """What a view can leave behind, once its daemon has ended. Namespaces end with processes, descriptors, mounts.

        The user's server is none, which serves the next view.
        """
        from overlaykit.views import Registry

        used = {
            pid
            for view in Registry().running()
            if os.path.exists(f"/proc/{view.about.pid}")
            for pid in view.about.daemons
        }
        return {
            "processes": self._processes_left(used),
            "mounts": sorted(_mounts() - self._found),
            "descriptors": sorted(os.listdir("/proc/self/fd")),
            "records": self.records(),
            "temporary uppers": _names(self.temporary_uppers),
            "half-made layers": [name for name in _names(self.store) if name.startswith(".")],
            "named views": _names(self.named_views),
            "temporary": _names(self.path("tmp")),
        }

    def _processes_left(self, used: set[int]) -> list[tuple[int, str]]:
        """The descendants without the server and the daemons `used`, once other daemons have ended."""
        while True:
            self._wait_for(
                lambda process: (is_daemon(process) or _is_orphan(process)) and process not in used,
                within_seconds=_ENDS_WITHIN_SECONDS,
            )
            family = {process: state(process) for process in _family()}
            server = self.server()
            left = [
                (process, command_line(process))
                for process, state in family.items()
                if process != server and state != ("Z", server)
            ]
            # Just before its end a process has no command line.
            if all(line or family[process][0] == "Z" for process, line in left):
                return left

    def records(self) -> list[str]:
        """The names of the records of views."""
        server = [] if self.server() is None else [_OF_SERVER]
        return [name for name in _names(self.runtime) if name not in server]

    def server(self) -> int | None:
        """The process id of the user's server, also of one that is stopped (SIGSTOP) or still loads.

        Returns: None if there is none.
        """
        connection = server_client.connect(self._server_directory)
        if connection is None:
            return self._loading_server()
        with connection:
            return server_client.peer(connection)[0]

    def _loading_server(self) -> int | None:
        """The server that does not listen yet: a grandchild of its launcher that has the server's directory open."""
        try:
            directory = os.stat(self._server_directory)
        except FileNotFoundError:
            return None
        # Its parent, which leads their session, ends a moment after its birth.
        for process in descendants(os.getpid()):
            with contextlib.suppress(OSError):
                # A launcher that starts a server is of this session, or leads its own.
                if os.getsid(process) not in (process, os.getsid(0)) and _has_open(
                    process, directory
                ):
                    return process
        return None

    @property
    def _server_directory(self) -> str:
        return os.path.join(self.runtime, _OF_SERVER)

    def end_server(self) -> None:
        """End the user's server, if there is one, and wait for its end."""
        server = self.server()
        if server is None:
            return
        os.kill(server, signal.SIGCONT)
        ended = os.pidfd_open(server)
        # A signal that ends it while it loads would leave its directory.
        while self._loading_server() is not None and not os.path.exists(
            os.path.join(self._server_directory, server_client.SOCKET)
        ):
            select.select([ended], [], [], 0.01)
        os.close(ended)
        os.kill(server, signal.SIGTERM)
        os.waitpid(server, 0)

    def wait_for_descendants(self) -> None:
        """Wait until all descendants of this process but the server have ended."""
        # The server is asked for last: it may be born during the search.
        while set(_family()) - {self.server()}:
            self._wait_for(lambda _process: True)

    def _wait_for(
        self, is_awaited: Callable[[int], bool], *, within_seconds: float | None = None
    ) -> None:
        """Wait until the descendants of a kind, except the server, have ended, and reap orphans."""
        family = _family()
        server = self.server()
        for process in family:
            # Just before its end a process has no command line.
            if process != server and (is_awaited(process) or not command_line(process)):
                with contextlib.suppress(ProcessLookupError):
                    ended = os.pidfd_open(process)
                    select.select([ended], [], [], within_seconds)
                    os.close(ended)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    def become(self) -> None:
        """Become the user, in the test's process."""
        signal.signal(signal.SIGALRM, _hung)
        # Repeated: the clean-up after the first signal may hang too.
        signal.setitimer(signal.ITIMER_REAL, DEADLINE_SECONDS, 5)
        _native.prctl(_native.PR_SET_CHILD_SUBREAPER, 1)
        if os.geteuid() == 0:
            _native.unshare(_native.CLONE_NEWNS)
            _native.mount(None, "/", None, _native.MS_REC | _native.MS_PRIVATE)
            # This machine's own /run stays as it is.
            _native.mount("run", "/run", "tmpfs", 0, "mode=0755")
            if not self.is_root:
                _let_others_reach({os.path.realpath(sys.base_prefix), sys.prefix, CHECKOUT})
                os.setgroups([])
                os.setresgid(ORDINARY, ORDINARY, ORDINARY)
                os.setresuid(ORDINARY, ORDINARY, ORDINARY)
                syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)  # as after an ordinary login
        for name in [name for name in os.environ if name.startswith("XDG_")]:
            del os.environ[name]
        os.environ.update(self.variant.environment)
        os.environ.update(HOME=self.home, LC_ALL="C.UTF-8", PATH=PATH, TMPDIR=self.path("tmp"))
        os.umask(0o022)
        os.mkdir(self.home)
        os.mkdir(self.path("tmp"))
        os.chdir(self.home)
        if not self.is_root:
            os.mkdir(self.path("run"), 0o700)
            os.environ["XDG_RUNTIME_DIR"] = self.path("run")
        unreadable = [path for path in _INTERPRETER_FILES if not os.access(path, os.R_OK)]
        if unreadable:
            pytest.fail(
                f"uid {os.geteuid()} cannot read {unreadable}: make .venv with /usr/bin/python3"
            )
        if self.forks:
            forked.fork_daemons()
        self._found = _mounts()
        self._before = self.leftovers()

    def set_deadline(self, seconds: int) -> None:
        """Give the test in this process that many seconds, for one that downloads."""
        signal.setitimer(signal.ITIMER_REAL, seconds, 5)

    def check_leftovers(self) -> None:
        """Check that nothing is left, in the test's process at its end."""
        self.end_server()
        for what, now in self.leftovers().items():
            assert now == self._before[what], f"{what} left: {now}, before: {self._before[what]}"
        complaints = [] if self.expects_log else self.log_lines()
        assert not complaints, f"the daemon's log says: {complaints}"

    def log_lines(self) -> list[str]:
        """The lines of the daemons' log."""
        with contextlib.suppress(FileNotFoundError), open(self.log) as log:
            return [line for line in log if _ABORTED not in line]
        return []

    def kill_descendants(self) -> None:
        """Kill the descendants of the test's process, however the test ended."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0)
        while family := _family():
            for process in family:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-1, 0)


def _cover() -> str:
    """The shell function of `TestUser.changed_machine`. mount -c leaves /proc/self/fd paths as they are."""
    kept = sorted({CHECKOUT, sys.prefix, os.path.realpath(sys.base_prefix)})
    numbered = list(enumerate(map(shlex.quote, kept), 5))
    again = " ".join(
        f'case {path}/ in "$1"/*) mkdir -p {path}; mount -c --rbind /proc/self/fd/{number} {path};; esac;'
        for number, path in numbered
    )
    return (
        f"cover() {{ exec {' '.join(f'{number}<{path}' for number, path in numbered)}; "
        f'mount -t tmpfs t "$1"; {again} [ "${{2-}}" != ro ] || mount -o remount,ro "$1"; '
        f"exec {' '.join(f'{number}<&-' for number, _ in numbered)}; }}\n"
    )


def command_line(process: int) -> str:
    """The process's arguments, separated by spaces; empty once it has ended."""
    with contextlib.suppress(OSError), open(f"/proc/{process}/cmdline") as arguments:
        return arguments.read().replace("\0", " ")
    return ""


def state(process: int) -> tuple[str, int]:
    """Its state (proc_pid_stat(5)) and its parent."""
    with contextlib.suppress(OSError), open(f"/proc/{process}/stat") as stat:
        state, parent = stat.read().rpartition(")")[2].split()[:2]
        return state, int(parent)
    return "", 0


def _family() -> list[int]:
    """The descendants of the test's process, which is their subreaper: without a child it has none.

    To read all of /proc takes longer than most of what a test does.
    """
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT | _WALL)
        return descendants(os.getpid())
    return []


def _is_orphan(process: int) -> bool:
    """Whether its launcher has ended: a process that leaves its session, and has not become a daemon or the server."""
    with contextlib.suppress(OSError):
        return os.getsid(process) == process and parent(process) == os.getpid()
    return False


def _has_open(process: int, directory: os.stat_result) -> bool:
    """Whether a process has a descriptor of a directory. Raises: OSError."""
    at = f"/proc/{process}/fd"
    for name in os.listdir(at):
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(f"{at}/{name}"), directory):
                return True
    return False


def is_daemon(process: int) -> bool:
    """Whether it is a daemon, or the server."""
    line = command_line(process)
    return any(module in line for module in ("overlaykit.fuse.daemon", "overlaykit.views.server"))


def _mounts() -> set[tuple[str, str]]:
    return {(mount.mountpoint, mount.fstype) for mount in mountinfo.current()}


def _names(directory: str) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return sorted(os.listdir(directory))
    return []


def _hung(_number: int, _frame: object) -> NoReturn:
    raise Hung(f"still running after {DEADLINE_SECONDS} seconds")


@contextlib.contextmanager
def reachable_by_others() -> Iterator[None]:
    """For a test of root: a mount namespace in which an ordinary user reaches this interpreter and checkout."""
    origin = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    _native.unshare(_native.CLONE_NEWNS)
    here = os.getcwd()
    try:
        _native.mount(None, "/", None, _native.MS_REC | _native.MS_PRIVATE)
        _let_others_reach({os.path.realpath(sys.base_prefix), sys.prefix, CHECKOUT})
        yield
    finally:
        _native.setns(origin, _native.CLONE_NEWNS)
        os.close(origin)
        os.chdir(here)


def _let_others_reach(paths: set[str]) -> None:
    """Let other users reach directories in a closed home, in this mount namespace only.

    Another user cannot run an interpreter below /root. An empty file system covers the closed directory, and the needed
    paths below it are attached at their places again.
    """
    clone = _native.OPEN_TREE_CLONE | _native.OPEN_TREE_CLOEXEC | _native.AT_RECURSIVE
    shut = {path: closed for path in sorted(paths) if (closed := _closed_parent(path))}
    trees = {path: _native.open_tree(_native.AT_FDCWD, path, clone) for path in shut}
    for closed in set(shut.values()):
        _native.mount("cover", closed, "tmpfs", 0, "mode=0755")
    for path, tree in trees.items():
        os.makedirs(path, exist_ok=True)
        _native.move_mount(tree, "", _native.AT_FDCWD, path, _native.MOVE_MOUNT_F_EMPTY_PATH)
        os.close(tree)


def _closed_parent(path: str) -> str | None:
    """The outermost parent directory of `path` that others cannot search."""
    parents = [path[:i] for i, letter in enumerate(path) if letter == "/" and i]
    return next((parent for parent in parents if not os.stat(parent).st_mode & 0o001), None)
