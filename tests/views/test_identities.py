"""An ordinary user with subordinate ids (subuid(5)) finds them in its views, as in rootless containers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from overlaykit import _native
from overlaykit.procfs import descendants
from overlaykit.views import server

from ..posix.syscalls import MS_BIND
from .fixtures import only_as, only_with
from .user import AS_ORDINARY, ORDINARY, TestUser, command, reachable_by_others

# Tests of root run views of the ordinary user, whose server is another one.
pytestmark = only_with(driver="fuse", server=False)

FIRST = 300_000


@contextlib.contextmanager
def subordinate_ids(user: TestUser, *, count: int = 65536) -> Iterator[str]:
    """A mount namespace in which the ordinary user has a name and subordinate ids. Returns: its home."""
    with reachable_by_others():
        with open("/etc/passwd") as file:
            others = [line for line in file if line.split(":")[2] != str(ORDINARY)]
        entry = f"somebody:x:{ORDINARY}:{ORDINARY}::/:/bin/sh\n"
        texts = {
            "passwd": "".join(others) + entry,
            "subuid": f"somebody:{FIRST}:{count}\n",
            "subgid": f"{ORDINARY}:{FIRST}:{count}\n",
        }
        for name, text in texts.items():
            path = user.write(user.path(name), text)
            os.chmod(path, 0o644)
            _native.mount(path, f"/etc/{name}", None, MS_BIND)
        os.chmod(user.scratch, 0o755)
        home = user.directory("its home")
        os.mkdir(f"{home}/run", 0o700)
        for path in (home, f"{home}/run"):
            os.chown(path, ORDINARY, ORDINARY)
        os.environ.update(HOME=home, XDG_RUNTIME_DIR=f"{home}/run", TMPDIR="/tmp")
        yield home


@only_as("root")
def test_programs_of_an_ordinary_users_view_become_other_users(user: TestUser) -> None:
    script = (
        "touch /opt/f; chown 33:65534 /opt/f; stat -c %u:%g /opt/f /etc/passwd; "
        "cd /tmp; setpriv --reuid 65534 --regid 65534 --clear-groups sh -ec "
        "'umask 077; echo mine > mine; cat mine; stat -c %u mine'"
    )
    with subordinate_ids(user):
        for inner in ((), (command(), "run", "--")):
            run = [*AS_ORDINARY, command(), "run", "--", *inner, "sh", "-ec", script]
            assert user.program(run) == "33:65534\n0:0\nmine\n65534\n"


@only_as("root")
def test_files_of_other_users_are_kept_in_an_upper(user: TestUser) -> None:
    with subordinate_ids(user) as home:
        run = [*AS_ORDINARY, command(), "run", "--upper", f"{home}/kept", "--"]
        user.program([*run, "sh", "-ec", "touch /opt/f; chown 33 /opt/f"])
        assert os.stat(f"{home}/kept/opt/f").st_uid == FIRST + 32  # inside, 1 is the first
        assert user.program([*run, "stat", "-c", "%u", "/opt/f"]) == "33\n"
        user.program(
            [
                *AS_ORDINARY,
                command(),
                "run",
                "-v",
                f"{home}/kept:/mnt",
                "--",
                "rm",
                "-r",
                "/mnt/opt",
            ]
        )
        assert os.listdir(f"{home}/kept") == []


@only_as("root")
def test_files_of_other_users_that_a_killed_view_left_are_removed(user: TestUser) -> None:
    script = (
        "mkdir -p /opt/d/e; chown -R 33 /opt/d; chmod 700 /opt/d/e /opt/d; echo made; sleep inf"
    )
    with subordinate_ids(user) as home:
        run = [*AS_ORDINARY, command(), "run", "--"]
        view = subprocess.Popen(
            [*run, "sh", "-ec", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        assert view.stdout is not None
        assert view.stdout.readline() == "made\n"
        for process in descendants(os.getpid()):  # with the daemon, which would remove the files
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        view.communicate()
        user.wait_for_descendants()
        assert os.listdir(f"{home}/.cache/overlaykit") != []
        user.program([*run, "true"])
        user.wait_for_descendants()  # its daemon
        assert not os.path.exists(f"{home}/.cache/overlaykit")


@only_as("root")
def test_a_view_with_refused_ids_has_a_single_user(user: TestUser) -> None:
    """newuidmap fails for ids beyond the last one."""
    with subordinate_ids(user, count=(1 << 32) - 1):
        run = [*AS_ORDINARY, command(), "run", "--", "cat", "/proc/self/uid_map"]
        assert user.program(run).split() == ["0", str(ORDINARY), "1"]


@only_as("root")
@pytest.mark.parametrize("first", ["fuse", "kernel"])
def test_files_of_other_users_are_shown_by_either_driver(user: TestUser, first: str) -> None:
    other = {"fuse": "kernel", "kernel": "fuse"}[first]
    with subordinate_ids(user) as home:
        layer = f"{home}/layer"
        for name in ("usr", "tmp"):
            os.makedirs(f"{layer}/{name}")
        for name in ("bin", "lib", "lib64"):
            os.symlink(f"usr/{name}", f"{layer}/{name}")
        user.program(["chown", "-R", f"{ORDINARY}:{ORDINARY}", layer])
        run = [*AS_ORDINARY, command(), "run", "-l", layer, "-v", "/usr:/usr:ro"]
        script = "mkdir -p /d/e; touch /d/f; chown -R 33:34 /d; chmod 700 /d/e /d; touch /mine"
        run += ["--upper", f"{home}/upper"]
        os.mkdir(f"{home}/upper")
        os.chown(f"{home}/upper", ORDINARY, ORDINARY)
        user.program([*run, "--driver", first, "sh", "-ec", script])
        look = [*run, "--driver", other, "stat", "-c", "%u:%g %a", "/d", "/d/e", "/d/f", "/mine"]
        assert user.program(look).splitlines() == ["33:34 700", "33:34 700", "33:34 644", "0:0 644"]
        user.program([*run, "--driver", other, "rm", "-r", "/d"])
        user.program([*run, "--driver", first, "sh", "-ec", "! test -e /d; touch /d"])
        # A dropped upper with files of others leaves nothing.
        user.program([*run[:-2], "--driver", "kernel", "sh", "-ec", script])
        user.wait_for_descendants()
        assert not os.path.exists(f"{home}/.cache/overlaykit")
        user.program([*run, "--driver", first, "sh", "-ec", "rm -r /d /mine"])


@only_as("root")
def test_a_server_that_may_execute_nothing_gives_way_once_there_are_subordinate_ids(
    user: TestUser,
) -> None:
    shows = [*AS_ORDINARY, command(), "run", "--", "cat", "/proc/self/uid_map"]
    # A server ends with the last process that its user sees.
    with subordinate_ids(user), subprocess.Popen([*AS_ORDINARY, "sleep", "1000"]) as other:
        _native.umount2("/etc/subuid", 0)
        os.environ[server.VARIABLE] = "1000"
        try:
            assert user.program(shows).split() == ["0", str(ORDINARY), "1"]
            said = user.program([*AS_ORDINARY, command(), "server", "status"])
            assert "1 started" in said
            _native.mount(user.path("subuid"), "/etc/subuid", None, MS_BIND)
            for _ in range(2):  # a cold start, and one by another server
                assert len(user.program(shows).splitlines()) == 2
            assert user.program([*AS_ORDINARY, command(), "server", "status"]) != said
        finally:
            user.program([*AS_ORDINARY, command(), "server", "stop"])
            os.environ[server.VARIABLE] = "off"
            other.kill()
