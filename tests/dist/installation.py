"""Build the distributions, and install the wheel into an empty environment, without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement

from ..views.user import CHECKOUT

_NOT_COPIED = (".*", "build", "dist", "*.egg-info", "*.so", "_supervisor", "_guest_init", "__pycache__")


@dataclass(frozen=True)
class Distributions:
    """The paths of an sdist and of the wheel that was built from it."""

    sdist: str
    wheel: str


def build(directory: str) -> Distributions:
    """Build from a copy of the checkout, as `make dist` does."""
    source = os.path.join(directory, "source")
    shutil.copytree(CHECKOUT, source, ignore=shutil.ignore_patterns(*_NOT_COPIED))
    out = os.path.join(directory, "dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    wheel, sdist = sorted(os.listdir(out), key=lambda name: not name.endswith(".whl"))
    return Distributions(sdist=os.path.join(out, sdist), wheel=os.path.join(out, wheel))


def install(wheel: str, directory: str) -> str:
    """Make an environment that holds the wheel and its dependencies alone: its directory of programs."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
    base = {"base": directory, "platbase": directory}
    packages = sysconfig.get_path("purelib", "venv", base)
    programs = sysconfig.get_path("scripts", "venv", base)
    options = ["install", "--quiet", "--no-index", "--no-deps", "--disable-pip-version-check"]
    pip = [sys.executable, "-m", "pip", "--python", f"{programs}/python", *options, wheel]
    subprocess.run(pip, check=True)
    _link_dependencies(packages)
    return programs


def _link_dependencies(packages: str) -> None:
    """Link what the installed wheel requires, from the environment of the tests, where there is no other."""
    (own,) = metadata.distributions(name="overlaykit", path=[packages])
    wanted = list(own.requires or ())
    seen: set[str] = set()
    for text in wanted:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        if requirement.name in seen:
            continue
        seen.add(requirement.name)
        found = metadata.distribution(requirement.name)
        assert found.version in requirement.specifier, text
        wanted += found.requires or ()
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            os.symlink(str(found.locate_file(top)), os.path.join(packages, top))
