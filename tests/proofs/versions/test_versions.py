"""Two versions of one program at one path, side by side, with the commands of the README."""

from __future__ import annotations

import os
import re

import pytest

from ...views.user import TestUser

VERSIONS = [
    (
        "ruby",
        "ruby@bullseye",
        "ruby@trixie",
        "puts RUBY_VERSION; require 'openssl'; require 'json'",
    ),
    ("node", "nodejs@bullseye", "nodejs@trixie", "console.log(process.version); require('crypto')"),
    ("perl", "perl@bullseye", "perl@trixie", 'use POSIX; use Encode; print "$^V\\n"'),
]


@pytest.mark.parametrize(("program", "old", "new", "script"), VERSIONS)
def test_two_versions_of_a_program_run_at_one_path_at_once(
    user: TestUser, program: str, old: str, new: str, script: str
) -> None:
    user.set_deadline(600)
    user.succeeds("layer", "add", "old", f"deb:{old}")
    user.succeeds("layer", "add", "new", f"deb:{new}")
    shell = f'/usr/bin/{program} -e "$1" && read line'
    running = [
        user.start("run", "-l", layer, "-l", "host", "--", "sh", "-c", shell, "sh", script)
        for layer in ("old", "new")
    ]
    versions = []
    for view in running:
        assert view.stdout is not None
        versions.append(re.findall(r"\d+", view.stdout.readline()))
    for view in running:
        view.communicate("end\n")
        assert view.returncode == 0
    assert [int(number) for number in versions[0]] < [int(number) for number in versions[1]]


def test_python2_gets_pip_and_the_name_python(user: TestUser) -> None:
    user.set_deadline(600)
    user.succeeds("layer", "add", "py27", "deb:python2.7,python-is-python2@bullseye")
    wheels = user.path("home", "wheels")
    pip = ["python3", "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
    user.program([*pip, "-d", wheels, "pip==20.3.4", "setuptools==44.1.1", "wheel==0.37.1"])
    python = ["run", "-l", "py27", "-l", "host", "--upper", "pip27", "--", "/usr/bin/python"]
    wheel = os.path.join(wheels, "pip-20.3.4-py2.py3-none-any.whl", "pip")
    os.mkdir("pip27")
    done = user.overlaykit(
        *python, wheel, "install", "--no-index", "--find-links", wheels, "pip", "setuptools"
    )
    assert done.returncode == 0, done
    shown = user.succeeds(
        "run",
        "-l",
        "./pip27",
        "-l",
        "py27",
        "-l",
        "host",
        "--",
        "/usr/bin/python",
        "-m",
        "pip",
        "-V",
    )
    assert shown.startswith("pip 20.3.4 ")
    assert "python 2.7" in shown
