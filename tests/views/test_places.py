"""The directories that hold state: a view runs also if the home directory is missing or not writable."""

from __future__ import annotations

import os

import pytest

from overlaykit.views import places

from .fixtures import only_as, only_with
from .user import TestUser

# A server is found at the place that a test takes away.
pytestmark = only_with(driver="fuse", server=False)

BARE = (
    "cd /; unset XDG_RUNTIME_DIR XDG_CACHE_HOME XDG_STATE_HOME; mount -t tmpfs t /run; cover /tmp; "
)
"""A machine on which only the home and /var/tmp can hold uppers, and /tmp small state."""

HOMES = {
    "a missing one": "export HOME=/nonexistent",
    "none": "unset HOME",
    "an empty name": "export HOME=",
    "a relative one": "export HOME=home",
    "a file": "export HOME=/etc/passwd",
    "one of the kernel's": "export HOME=/proc",
    "a read-only one": 'mount -t tmpfs -o ro t "$HOME"',
    "a full one": 'mount -t tmpfs -o nr_inodes=1 t "$HOME"',
    "relative places": "export HOME=/nonexistent XDG_CACHE_HOME=x XDG_STATE_HOME=y XDG_RUNTIME_DIR=z",
    "places that are missing": "export XDG_CACHE_HOME=/proc/x XDG_STATE_HOME=/proc/x XDG_RUNTIME_DIR=/proc/x",
    "a place of another user's": (
        'mkdir -p "$HOME/.cache/overlaykit"; chmod 777 "$HOME/.cache/overlaykit"'
    ),
    "a symlink for a place": 'mkdir -p "$HOME/.cache" "$HOME/x"; ln -s ../x "$HOME/.cache/overlaykit"',
}


@only_as("ordinary user")
@pytest.mark.parametrize("kind", HOMES)
@pytest.mark.one_in(2)
def test_a_command_runs_with_any_home_directory(user: TestUser, kind: str) -> None:
    check_command_runs(user, HOMES[kind])


@pytest.mark.parametrize("kind", ["a missing one", "none"])
def test_a_read_only_view_needs_no_home(user: TestUser, kind: str) -> None:
    check_command_runs(user, HOMES[kind], "--read-only")


CLEAN = (
    "while find /tmp /run -xdev -name 'overlaykit*' 2>/dev/null | grep -q .; do sleep 0.01; done"
)
"""Wait until nothing is left: the daemon cleans up after the end of its view."""


def check_command_runs(user: TestUser, home: str, *options: str) -> None:
    done = user.changed_machine(BARE + home, "run", *options, "--", "cat", "/etc/issue")
    with open("/etc/issue") as file:
        assert (done.returncode, done.stdout, done.stderr) == (0, file.read(), "")


@only_as("ordinary user")
@pytest.mark.parametrize("kind", ["a missing one", "a read-only one", "a full one"])
def test_changes_without_a_home_are_dropped_with_the_view(user: TestUser, kind: str) -> None:
    done = user.changed_machine(
        f"{BARE}{HOMES[kind]}; mkdir /tmp/var; mount --bind /tmp/var /var/tmp",
        "run",
        "--",
        "sh",
        "-c",
        "echo new > /var/new && rm /etc/issue && cat /var/new",
        then=f"{CLEAN}; test -e /etc/issue",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "new\n", "")


@only_as("ordinary user")
def test_a_view_needs_no_disk_for_its_changes(user: TestUser) -> None:
    """If neither the home nor /var/tmp is writable, /tmp holds all state."""
    done = user.changed_machine(
        BARE + "export HOME=/nonexistent; cover /var/tmp ro",
        "run",
        "--",
        "sh",
        "-c",
        "echo new > /etc/new && rm /etc/issue && cat /etc/new",
        then=CLEAN,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "new\n", "")


@only_as("ordinary user")
def test_one_line_names_the_fix_if_nothing_can_be_written(user: TestUser) -> None:
    nowhere = "export HOME=/nonexistent; cover /tmp ro; cover /var/tmp ro; cover /dev/shm ro"
    done = user.changed_machine(f"{BARE}{nowhere}", "run", "true")
    assert done.returncode == 125
    assert done.stderr.count("\n") == 1
    assert "set XDG_RUNTIME_DIR" in done.stderr
    done = user.changed_machine(
        f"{BARE}{nowhere}; mkdir -m 700 /run/own; export XDG_RUNTIME_DIR=/run/own", "run", "true"
    )
    assert (done.returncode, done.stderr) == (0, "")


@only_as("ordinary user")
def test_a_directory_of_another_user_in_tmp_is_not_used(user: TestUser) -> None:
    uid = os.getuid()
    traps = (f"mkdir -m 777 /tmp/overlaykit-{uid}", f"ln -s /run /tmp/overlaykit-{uid}")
    for trap in traps:
        done = user.changed_machine(
            f"{BARE} export HOME=/nonexistent; {trap}", "run", "true", then="true"
        )
        assert done.returncode == 125
        assert done.stderr == (
            f"overlaykit: /tmp/overlaykit-{uid} belongs to another user or can be written by others: "
            "remove it, or set XDG_RUNTIME_DIR to a directory of your own\n"
        )


def test_a_log_is_made_by_the_first_record(user: TestUser) -> None:
    user.succeeds("run", "true")
    assert not os.path.exists(os.path.dirname(user.log))
    user.succeeds("run", "true", env={**os.environ, "OVERLAYKIT_DEBUG": "1"})
    assert os.path.getsize(user.log) > 0
    assert os.stat(user.log).st_mode & 0o777 == 0o600
    os.unlink(user.log)


@only_as("ordinary user")
def test_without_a_home_the_log_is_beside_the_running_views(user: TestUser) -> None:
    done = user.changed_machine(
        BARE + "export HOME=/nonexistent OVERLAYKIT_DEBUG=1",
        "run",
        "true",
        then='test -s "/tmp/overlaykit-$(id -u)/daemon.log"',
    )
    assert (done.returncode, done.stderr) == (0, "")


@only_as("ordinary user")
def test_the_fixes_that_doctor_gives_help(user: TestUser) -> None:
    bad = BARE + "export HOME=/nonexistent; "
    lines = user.changed_machine(bad, "doctor").stdout.splitlines()
    failed = [line for line in lines if line.startswith("FAIL")]
    assert failed == ["FAIL  layers: cannot be kept in /nonexistent/.local/share/overlaykit/layers"]
    assert lines[lines.index(failed[0]) + 1].startswith(
        "      fix: set XDG_DATA_HOME to a directory"
    )
    done = user.changed_machine(bad + "export XDG_DATA_HOME=/tmp/data", "doctor")
    assert (done.returncode, done.stderr) == (0, "")
    line = user.changed_machine(bad, "layer", "add", "x", "dir:/etc/apt")
    assert line.returncode == 125
    assert "set XDG_DATA_HOME" in line.stderr
    done = user.changed_machine(
        bad + "export XDG_DATA_HOME=/tmp/data", "layer", "add", "x", "dir:/etc/apt"
    )
    assert (done.returncode, done.stderr) == (0, "")


@only_as("root")
def test_a_missing_home_is_not_made(user: TestUser) -> None:
    home = user.path("gone")
    environment = {**os.environ, "HOME": home}
    user.succeeds("run", "true", env=environment)
    assert "set XDG_DATA_HOME" in user.refused("layer", "add", "x", "dir:/etc/apt", env=environment)
    assert not os.path.exists(home)


def test_an_upper_in_memory_is_taken_or_refused_by_name(user: TestUser) -> None:
    upper = os.path.join(user.directory("memory"), "upper")
    done = user.changed_machine(
        f"mount -t tmpfs none {os.path.dirname(upper)}",
        *(
            "run",
            "--upper",
            upper,
            "--",
            "sh",
            "-c",
            "rm /etc/issue; cat /etc/issue || echo x",
        ),
        then=f"ls -A {upper}/etc",
    )
    if user.is_root or user.kernel_has("user attributes on tmpfs"):
        assert (done.returncode, done.stdout.splitlines()) == (0, ["x", "issue"]), done
    else:
        assert (done.returncode, done.stdout) == (125, "")
        (refusal,) = done.stderr.splitlines()
        assert refusal.startswith(
            f"overlaykit: upper {upper}: its file system keeps no extended attributes"
        )


@only_as("root")
def test_a_view_starts_while_the_end_of_another_one_removes_the_registry(
    user: TestUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = user.directory("runtime", "overlaykit")
    access = os.access

    def removed_first(path: str, mode: int) -> bool:
        if path == place and os.path.isdir(place):
            os.rmdir(place)
        return access(path, mode)

    monkeypatch.setattr(places, "_runtime_candidates", lambda: [place])
    monkeypatch.setattr(os, "access", removed_first)
    assert places.runtime() == place
