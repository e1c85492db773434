"""Completion in bash, zsh and fish, with the names of what exists."""

from __future__ import annotations

import os
import shlex
import sys

from ..views.fixtures import only_as
from ..views.user import TestUser, command
from .terminals import Terminal

PROFILE = "[shop-web]\ncommand = 'true'\n"


def arrange(user: TestUser, shell: str) -> tuple[str, str]:
    """A project with an app, a view and a layer; its directory, and the script for a shell."""
    user.succeeds("create", "--name", "named-view", "true")
    source = user.directory("source", file="x")
    user.succeeds("layer", "add", "stored-layer", f"dir:{source}")
    directory = user.directory("project", **{"overlaykit.toml": PROFILE})
    script = user.write(user.path(f"script.{shell}"), user.succeeds("completion", shell))
    return directory, script


def environment(user: TestUser) -> dict[str, str]:
    path = f"{os.path.dirname(command())}:{os.environ['PATH']}"
    return {"PATH": path, "HOME": user.home, "TERM": "dumb", "LC_ALL": "C.UTF-8"}


@only_as("ordinary user")
def test_bash_completes_commands_options_and_names(user: TestUser) -> None:
    directory, script = arrange(user, "bash")

    def completed(line: str) -> list[str]:
        words = shlex.join(["overlaykit", *line.split(" ")])
        shell = (
            f"source {shlex.quote(script)}; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1));"
            "$(complete -p overlaykit | sed 's/.*-F \\([^ ]*\\).*/\\1/') 2>/dev/null;"
            " printf '%s\\n' \"${COMPREPLY[@]}\""
        )
        inside = {**os.environ, **environment(user)}
        return user.program(["bash", "-c", shell], cwd=directory, env=inside).split()

    assert "completion" in completed("comp")
    assert "--network" in completed("run --net")
    assert completed("stop nam") == completed("stop -t 5 nam") == ["named-view"]
    assert completed("inspect nam") == completed("exec nam") == ["named-view"]
    assert completed("run -l sto") == completed("layer rm sto") == ["stored-layer"]
    assert completed("run shop-") == completed("up shop-") == ["shop-web"]
    assert "bash" in completed("run bas")
    user.succeeds("rm", "named-view")


@only_as("ordinary user")
def test_fish_completes_commands_options_and_names(user: TestUser) -> None:
    directory, script = arrange(user, "fish")

    def completed(line: str) -> list[str]:
        shell = f"source {script}; complete -C {shlex.quote('overlaykit ' + line)}"
        inside = {**os.environ, **environment(user)}
        found = user.program(["fish", "-N", "-c", shell], cwd=directory, env=inside).splitlines()
        return [one.split("\t")[0] for one in found]

    assert "completion" in completed("comp")
    assert "--network" in completed("run --net")
    assert completed("stop nam") == completed("exec nam") == ["named-view"]
    assert completed("run -l sto") == completed("layer rm sto") == ["stored-layer"]
    assert completed("up shop-") == ["shop-web"]
    assert "shop-web" in completed("run shop-")
    user.succeeds("rm", "named-view")


@only_as("ordinary user")
def test_zsh_completes_commands_and_names(user: TestUser) -> None:
    directory, script = arrange(user, "zsh")
    functions = user.directory("functions")
    os.rename(script, os.path.join(functions, "_overlaykit"))
    with Terminal("zsh", "-f", "-i", env=environment(user), columns=200) as zsh:
        load = f"cd {directory}; fpath=({functions} $fpath); autoload -U compinit; compinit -D -u"
        zsh.type(f"{load}; print load''ed\r")
        zsh.read_until("loaded\r\n")
        for typed, expected in (
            ("overlaykit complet", "completion"),
            ("overlaykit stop nam", "named-view"),
            ("overlaykit run -l sto", "stored-layer"),
            ("overlaykit up sho", "shop-web"),
            ("overlaykit run sho", "shop-web"),
        ):
            zsh.type(f"{typed}\t")
            assert zsh.read_until(expected)
            zsh.type("\x15")  # kill the line
        zsh.type("exit\r")
        zsh.finish()
    user.succeeds("rm", "named-view")


@only_as("ordinary user")
def test_names_that_cannot_be_listed_are_none(user: TestUser) -> None:
    assert user.succeeds("completion", "--names", "apps", cwd="/") == ""
    assert user.succeeds("completion", "--names", "layers") == "host\n"
    broken = user.directory("project", **{"overlaykit.toml": "["})
    assert user.succeeds("completion", "--names", "apps", cwd=broken) == ""
    assert "name a shell" in user.refused("completion")
    assert "invalid choice" in user.refused("completion", "tcsh")
    assert sys.executable
