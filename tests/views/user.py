"""Somebody who uses overlaykit: root, or an ordinary user, with a home, and at the end nothing left behind.

Used by the tests of whole views, of the command line and of programs in a view; `fixtures` has the fixture.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import pytest

from overlaykit import _native, mountinfo
from overlaykit.procfs import descendants

ORDINARY = 1000
"""Who "an ordinary user" is when the tests run as root."""

DEADLINE_SECONDS = 60
"""No test lasts this long; one that does hangs, and is told so."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

AS_ORDINARY = ("setpriv", f"--reuid={ORDINARY}", f"--regid={ORDINARY}", "--clear-groups")
"""Before a command: root's test runs it as the ordinary user."""

CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))


_ABORTED = "fuse_reply_* failed with No such file or directory"
"""pyfuse3's, of a request in flight when the last process of a view, and with it the mount, went."""


class Hung(BaseException):
    """The test did not end in time. No Exception: nobody but the harness is to catch it."""


def command() -> str:
    """The installed `overlaykit`, that of the interpreter that runs the tests."""
    found = shutil.which("overlaykit", path=os.path.dirname(sys.executable))
    if found is None:
        pytest.fail(f"there is no overlaykit beside {sys.executable}: run 'make setup-tests'")
    return found


def entire(descriptor: int) -> bytes:
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
    """A directory of theirs on a disk, gone after the test; a view over `host` shows it at the same path."""
    warned: bool = False
    """Whether the test wants the daemon's log to have said something; otherwise that fails it."""
    _found: set[tuple[str, str]] = field(default_factory=set)
    """The mounts at the beginning. Some of them others may take away meanwhile."""
    _before: dict[str, object] = field(default_factory=dict)

    @property
    def home(self) -> str:
        return self.path("home")

    def path(self, *names: str) -> str:
        return os.path.join(self.scratch, *names)

    def directory(self, *names: str, **files: str | bytes) -> str:
        """A new directory, with files of the given contents in it."""
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
        """Run the command to its end, with nothing to read."""
        settings: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "capture_output": True,
            "text": True,
            "errors": "surrogateescape",
        }
        settings |= options
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [command(), *arguments], check=False, **settings
        )
        return done

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start the command, its standard input and output piped."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, **options}
        return subprocess.Popen([command(), *arguments], **pipes)

    def succeeds(self, *arguments: str, **options: Any) -> str:
        """Run the command; what it prints. Anything on standard error fails the test."""
        done = self.overlaykit(*arguments, **options)
        assert (done.returncode, done.stderr) == (0, ""), done
        return str(done.stdout)

    def changed_machine(
        self, arrange: str, *arguments: str, then: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run the command on a machine that a shell command, run as its root, has changed; `then` another one.

        The machine is a namespace of our own; its ordinary user has the powers of its root only while arranging. The
        shell function `cover DIRECTORY [ro]` puts an empty file system there, in which overlaykit itself stays.
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
        """Run any program that succeeds, outside of all views; what it prints."""
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
        """Run the command; the one line with which it fails."""
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
        """Where the running views are noted down."""
        return "/run/overlaykit" if self.is_root else self.path("run", "overlaykit")

    @property
    def dropped(self) -> str:
        """Where the uppers are that nobody keeps."""
        return os.path.join(self.home, ".cache", "overlaykit")

    @property
    def store(self) -> str:
        return os.path.join(self.home, ".local", "share", "overlaykit", "layers")

    @property
    def log(self) -> str:
        return os.path.join(self.home, ".local", "state", "overlaykit", "daemon.log")

    def left(self) -> dict[str, object]:
        """What a view can leave behind, as it is now. Namespaces go with processes, descriptors and mounts."""
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass  # orphans are ours to reap
        return {
            "processes": [(process, command_line(process)) for process in descendants(os.getpid())],
            "mounts": sorted(_mounts() - self._found),
            "descriptors": sorted(os.listdir("/proc/self/fd")),
            "noted down": _names(self.runtime),
            "dropped": _names(self.dropped),
            "half-made layers": [name for name in _names(self.store) if name.startswith(".")],
            "temporary": _names(self.path("tmp")),
        }

    def await_the_end(self) -> None:
        """Wait until every process below this one has ended."""
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)

    def enter(self) -> None:
        """In the test's process: become that somebody."""
        signal.signal(signal.SIGALRM, _hung)
        # Again and again: whoever tidies up on the way out may hang too.
        signal.setitimer(signal.ITIMER_REAL, DEADLINE_SECONDS, 5)
        _native.prctl(_native.PR_SET_CHILD_SUBREAPER, 1)
        if os.geteuid() == 0:
            _native.unshare(_native.CLONE_NEWNS)
            _native.mount(None, "/", None, _native.MS_REC | _native.MS_PRIVATE)
            _native.mount(
                "run", "/run", "tmpfs", 0, "mode=0755"
            )  # this machine's own stays as it is
            if not self.is_root:
                _let_others_reach({os.path.realpath(sys.base_prefix), sys.prefix, CHECKOUT})
                os.setgroups([])
                os.setresgid(ORDINARY, ORDINARY, ORDINARY)
                os.setresuid(ORDINARY, ORDINARY, ORDINARY)
                _native.prctl(_native.PR_SET_DUMPABLE, 1)  # as after an ordinary login
        for name in [name for name in os.environ if name.startswith("XDG_")]:
            del os.environ[name]
        os.environ.update(HOME=self.home, LC_ALL="C.UTF-8", PATH=PATH, TMPDIR=self.path("tmp"))
        os.umask(0o022)
        os.mkdir(self.home)
        os.mkdir(self.path("tmp"))
        os.chdir(self.home)
        if not self.is_root:
            os.mkdir(self.path("run"), 0o700)
            os.environ["XDG_RUNTIME_DIR"] = self.path("run")
        if subprocess.run(
            [sys.executable, "-c", "import overlaykit._native"], check=False
        ).returncode:
            pytest.fail(
                f"{sys.executable} is of no use to uid {os.geteuid()}: make .venv with /usr/bin/python3"
            )
        self._found = _mounts()
        self._before = self.left()

    def allow(self, seconds: int) -> None:
        """In the test's process: hang only after so long, for a test that fetches much."""
        signal.setitimer(signal.ITIMER_REAL, seconds, 5)

    def leave(self) -> None:
        """In the test's process, at its end: nothing may be left."""
        for what, now in self.left().items():
            assert now == self._before[what], f"{what} left: {now}, before: {self._before[what]}"
        complaints = [] if self.warned else self.complaints()
        assert not complaints, f"the daemon's log says: {complaints}"

    def complaints(self) -> list[str]:
        """What daemons wrote to their log."""
        with contextlib.suppress(FileNotFoundError), open(self.log) as log:
            return [line for line in log if _ABORTED not in line]
        return []

    def abandon(self) -> None:
        """In the test's process, however it ended: end what still runs."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0)
        while family := descendants(os.getpid()):
            for process in family:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-1, 0)


def _cover() -> str:
    """The shell function of `TestUser.changed_machine`. mount(8) is to take a descriptor for what it is, hence -c."""
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
    """Its arguments, separated by spaces; nothing of one that has ended."""
    with contextlib.suppress(OSError), open(f"/proc/{process}/cmdline") as arguments:
        return arguments.read().replace("\0", " ")
    return ""


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
    """For root's test: a mount namespace in which an ordinary user reaches this interpreter and checkout."""
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
    """Uncover directories that lie in somebody's closed home, in this mount namespace only.

    An interpreter below /root is of no use to another user. The closed directory is covered by an empty file system, on
    which what is needed of it is attached again in its place.
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
    """The outermost directory on the way to `path` that others cannot search."""
    parents = [path[:i] for i, letter in enumerate(path) if letter == "/" and i]
    return next((parent for parent in parents if not os.stat(parent).st_mode & 0o001), None)
