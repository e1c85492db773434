"""The systems of the command line: known ones, commands that mount, existing directories."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Sequence
from typing import Final

from overlaykit.bench.results import LeftOut
from overlaykit.bench.systems.command import Command
from overlaykit.bench.systems.directory import Directory
from overlaykit.bench.systems.mounting import Directories
from overlaykit.bench.systems.system import System
from overlaykit.errors import Error

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,31}")
_NEEDED: Final = ("{lower}", "{upper}", "{target}")


class SystemMalformed(Error):
    message = (
        "--system {0}: {1}: give NAME='COMMAND' with {{lower}}, {{upper}}, {{target}} and, where "
        "it needs one, {{work}}"
    )


class SystemUnknown(Error):
    message = "--system {0}: not one of {1}: give one of them, or NAME='COMMAND'"


class SystemMissing(Error):
    message = "--system {0}: {1}"


class SystemTaken(Error):
    message = "--system {0}: another system has this name: give it another one"


class TargetMissing(Error):
    message = (
        "--target {0}: no such directory: name an existing one on the file system to be measured"
    )


class TargetNotWritable(Error):
    message = "--target {0}: you may not write to it: name a directory in which you can make files"


def read(
    named: Sequence[str],
    targets: Sequence[str],
    known: Sequence[System],
    left_out: Sequence[LeftOut],
) -> tuple[list[System], list[LeftOut]]:
    """Read `--system` and `--target`: the systems of the run, and those left out.

    All known systems take part, unless `named` names some of them. Raises: Error.
    """
    chosen = [name for name in named if "=" not in name]
    reasons = {one.system: one.why for one in left_out}
    names = [system.name for system in known]
    for name in chosen:
        if name in reasons:
            raise SystemMissing(name, reasons[name])
        if name not in names:
            raise SystemUnknown(name, ", ".join(sorted((*names, *reasons))))
    systems = [system for system in known if not chosen or system.name in chosen]
    commands: list[System] = [command(text) for text in named if "=" in text]
    for added in (*commands, *map(directory, targets)):
        if added.name in (*names, *reasons, *(system.name for system in systems)):
            raise SystemTaken(added.name)
        systems.append(added)
    return systems, [] if chosen else list(left_out)


def command(text: str) -> Command:
    """Read `--system NAME=COMMAND`.

    The command is split as a shell does, then placeholders are replaced, so no path needs quotes. {lower} becomes all
    lowers, top first, separated by colons.

    Raises: SystemMalformed.
    """
    name, equals, line = text.partition("=")
    if not equals or not _NAME.fullmatch(name):
        raise SystemMalformed(text, "its name is missing or malformed")
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise SystemMalformed(text, str(error)) from None
    if not words:
        raise SystemMalformed(text, "its command is missing")
    missing = [placeholder for placeholder in _NEEDED if not any(placeholder in w for w in words)]
    if missing:
        raise SystemMalformed(text, f"its command lacks {' and '.join(missing)}")
    if shutil.which(words[0]) is None:
        raise SystemMalformed(text, f"there is no program {words[0]}")

    def arguments(at: Directories) -> Sequence[str]:
        values = {
            "{lower}": ":".join(at.lowers),
            "{upper}": at.upper,
            "{work}": at.work,
            "{target}": at.target,
        }
        pattern = re.compile("|".join(map(re.escape, values)))
        return [pattern.sub(lambda match: values[match[0]], word) for word in words]

    return Command(name, line, arguments)


def directory(path: str) -> Directory:
    """Read `--target DIR`: a run measures a new directory below it.

    Raises: TargetMissing, TargetNotWritable.
    """
    if not os.path.isdir(path):
        raise TargetMissing(path)
    if not os.access(path, os.W_OK | os.X_OK):
        raise TargetNotWritable(path)
    absolute = os.path.abspath(path)
    return Directory(path, f"a new directory below {absolute}", absolute)
