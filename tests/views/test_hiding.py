"""What a view over the host does not show: hidden paths and the keys of its user."""

from __future__ import annotations

import os
import shlex

import pytest

from overlaykit import View

from .fixtures import only_as, only_with
from .user import TestUser, command

pytestmark = [only_with(host=True), pytest.mark.as_each_user]


def test_a_hidden_path_is_empty_and_refuses_writes(user: TestUser) -> None:
    directory = user.directory("home", "secrets", key="secret")
    file = user.write(user.path("home", "token"), "secret")
    script = (
        f"ls -A {directory}; cat {file}; cd {directory}; "
        f"for p in {directory}/new {directory}/key {file}; do (echo x > $p) 2>/dev/null && echo $p; done; "
        f"rm -r {directory} {file} 2>/dev/null || echo kept"
    )
    options = ("--hide", directory, "--hide", os.path.relpath(file))
    assert user.succeeds("run", *options, "--", "sh", "-c", script) == "kept\n"
    with open(f"{directory}/key") as first, open(file) as second:
        assert (first.read(), second.read()) == ("secret", "secret")


def test_a_hidden_path_that_is_missing_is_not_made(user: TestUser) -> None:
    path, upper = user.path("home", "missing"), user.path("upper")
    user.overlaykit("run", "--hide", path, "--upper", upper, "--", "true")
    assert not os.path.lexists(upper + path)


def test_hiding_leaves_nothing_in_a_kept_upper(user: TestUser) -> None:
    directory, upper = user.directory("home", "secrets", key="secret"), user.directory("upper")
    file = user.write(user.path("home", "token"), "secret")
    user.succeeds("run", "--upper", upper, "--hide", directory, "--hide", file, "--", "true")
    found = [name for _, _, names in os.walk(upper) for name in names]
    assert not {"key", "token", ".empty"}.intersection(found)


def test_keys_are_hidden_from_a_view_over_the_host(user: TestUser) -> None:
    names = (".ssh", ".gnupg", ".aws", ".mozilla", ".config/gcloud")
    keys = [user.directory("home", *name.split("/"), key="secret") for name in names]
    user.directory("home", ".docker", **{"config.json": "secret"})
    user.write(user.path("home", ".netrc"), "secret")
    user.write(user.path("home", ".bashrc"), "shown")
    script = (
        f"find {shlex.join(keys)} -type f; cd; cat .docker/config.json .netrc .bashrc; "
        "mkdir -p .ssh && (echo x > .ssh/authorized_keys) 2>/dev/null || echo refused"
    )
    assert user.succeeds("run", "--", "sh", "-c", script) == "shownrefused\n"
    for key in keys:
        assert os.listdir(key) == ["key"]
    shown = user.succeeds("run", "--share-home", "--", "sh", "-c", f"cat {keys[0]}/key ~/.netrc")
    assert shown == "secretsecret"


@only_as("root")
@only_with(driver="fuse")
def test_keys_of_other_accounts_are_hidden_from_root(user: TestUser) -> None:
    """In the homes that /etc/passwd names, and in all of /home."""
    homes = [user.directory("homes", "of-network"), user.directory("service")]
    for home in homes:
        for name in ".ssh", ".config/gh", "shown":
            os.makedirs(os.path.join(home, name))
            user.write(os.path.join(home, name, "key"), f"{os.path.basename(home)}\n")
    accounts = user.path("passwd")
    with open("/etc/passwd", encoding="utf-8") as file:
        user.write(accounts, f"{file.read()}service:x:777:777::{homes[1]}:/bin/sh\nbroken\n")
    # In this test's mount namespace.
    user.program(["mount", "--bind", user.path("homes"), "/home"])
    user.program(["mount", "--bind", accounts, "/etc/passwd"])
    try:
        script = f"cd {homes[1]}; cat .ssh/key .config/gh/key shown/key; cat /home/*/*/key /home/*/.[a-z]*/key"
        done = user.overlaykit("run", "--", "sh", "-c", f"{script} 2>/dev/null")
        assert done.stdout == "service\nof-network\n"
        done = user.overlaykit("run", "--share-home", "--", "sh", "-c", script)
        assert sorted(done.stdout.split()) == 2 * ["of-network"] + 3 * ["service"]
    finally:
        user.program(["umount", "/home"])
        user.program(["umount", "/etc/passwd"])


def test_keys_are_hidden_though_the_home_cannot_be_listed(user: TestUser) -> None:
    keys = user.directory("home", ".ssh", key="secret")
    os.chmod(user.home, 0o311)
    assert user.overlaykit("run", "--", "cat", f"{keys}/key").returncode == 1


def test_keys_are_hidden_in_a_view_of_a_view_and_cannot_be_uncovered(user: TestUser) -> None:
    keys = user.directory("home", ".ssh", key="secret")
    inner = f"{command()} run --share-home -- sh -c"
    uncover = f"umount {keys} 2>/dev/null || umount -l {keys} 2>/dev/null; ls -A {keys}"
    script = (
        f"{inner} {shlex.quote(f'ls -A {keys}')}; unshare -Urm sh -c {shlex.quote(uncover)}; "
        f"{uncover}; mkdir -p /tmp/in-m; unshare -Urm sh -c 'mount --bind {user.home} /tmp/in-m; ls -A /tmp/in-m/.ssh'"
    )
    done = user.overlaykit("run", "--", "sh", "-c", script)
    assert done.stdout == ""


def test_a_shared_path_is_shown_at_a_hidden_one(user: TestUser) -> None:
    keys = user.directory("home", ".ssh", key="secret")
    assert user.succeeds("run", "-v", f"{keys}:{keys}:ro", "--", "cat", f"{keys}/key") == "secret"


def test_a_view_of_other_layers_has_keys_of_its_own(user: TestUser) -> None:
    keys = user.directory("home", ".ssh", key="outside")
    layer = user.small_system()
    os.makedirs(layer + keys)
    user.write(f"{layer}{keys}/key", "of the layer")
    shown = user.succeeds("run", "-l", layer, "-v", "/usr:/usr:ro", "--", "cat", f"{keys}/key")
    assert shown == "of the layer"


def test_hiding_from_python(user: TestUser) -> None:
    keys, other = user.directory("home", ".ssh", key="a"), user.directory("home", "other", key="b")
    with View(["host"], hidden=[other]) as view:
        done = view.run(["ls", "-A", keys, other], capture_output=True, text=True, check=True)
    assert done.stdout == f"{keys}:\n\n{other}:\n"
    with View(["host"], share_home=True) as view:
        assert view.run(["cat", f"{keys}/key"], capture_output=True, text=True).stdout == "a"
