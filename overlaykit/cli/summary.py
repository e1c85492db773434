"""A summary of changes for people: by directory, with sizes, cut where it is long, but for what is deleted."""

from __future__ import annotations

import os
import sys

from overlaykit.cli.diff import (
    COLOURS,
    LETTERS,
    details_of,
    file_count,
    folded,
    is_special,
    shown_path,
)
from overlaykit.cli.output import coloured, one_line
from overlaykit.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Final

    from overlaykit.changes.model import Change
    from overlaykit.changes.read import Comparison

_MOST_OF_DIRECTORY: Final = 15
_MOST: Final = 100
"""Lines that are no deletions."""
_UNITS: Final = ("bytes", "kB", "MB", "GB", "TB")
_THOUSAND: Final = 1000


class Line(Record, kw_only=True):
    """A change, with all that is in a new or deleted directory. `number`: from 1 on, to choose it by."""

    number: int
    path: str
    kind: str
    directory: str
    text: str
    details: str


class Summary(Record, kw_only=True):
    """The lines, by their directories, and the totals."""

    lines: tuple[Line, ...]
    total: str


def summary(comparison: Comparison, changes: Iterable[Change]) -> Summary:
    """Of changes in the order of their paths. Raises: OSError."""
    counts = dict.fromkeys(LETTERS, 0)
    sizes = dict.fromkeys(LETTERS, 0)

    def counted() -> Iterator[Change]:
        for change in changes:
            counts[change.kind] += 1
            sizes[change.kind] += _size(change)
            yield change

    found: list[tuple[Change, str]] = []
    for change, inside in folded(counted()):
        details = list(details_of(change))
        size = sum(map(_size, (change, *inside)))
        held = sum(not one.new.is_directory for one in inside if one.new is not None)
        if change.kind in ("deleted", "replaced") and change.old and change.old.is_directory:
            gone, directories = comparison.count_held(change)
            counts["deleted"] += gone + directories
            held += gone if change.kind == "deleted" else 0
        if held:
            details.append(file_count(held))
        if size and not ("content" in change.what and "size" in change.what):
            details.append(size_of(size))
        found.append((change, ", ".join(details)))
        found += [(one, ", ".join(details_of(one))) for one in filter(is_special, inside)]
    found.sort(key=lambda one: (os.path.dirname(one[0].path).split(b"/"), one[0].path))
    lines = tuple(
        _line(number, change, details) for number, (change, details) in enumerate(found, 1)
    )
    total = ", ".join(
        f"{count} {kind}" + (f" ({size_of(sizes[kind])})" if sizes[kind] else "")
        for kind, count in counts.items()
        if count
    )
    return Summary(lines=lines, total=total)


def _size(change: Change) -> int:
    """The bytes of a file that was written, or that is gone."""
    version = change.old if change.kind == "deleted" else change.new
    if version is None or not version.is_regular or change.link is not None:
        return 0
    if change.kind in ("changed", "renamed") and "content" not in change.what:
        return 0
    return version.size


def size_of(count: int) -> str:
    """A number of bytes for people."""
    size = float(count)
    unit = 0
    while size >= _THOUSAND and unit < len(_UNITS) - 1:
        size, unit = size / _THOUSAND, unit + 1
    return f"{size:.1f} {_UNITS[unit]}" if unit else f"{count} {'byte' if count == 1 else 'bytes'}"


def _line(number: int, change: Change, details: str) -> Line:
    version = change.new or change.old
    assert version is not None
    path = shown_path(change.path, version)
    above, name = os.path.split(path.rstrip("/")) if change.path else ("", path)
    above = above.rstrip("/") + "/" if change.path else ""
    if path.endswith("/") and change.path:
        name += "/"
    if change.kind == "renamed":
        old = shown_path(change.old_path or b"", version)
        beside = os.path.dirname(old.rstrip("/")) == above.rstrip("/")
        name = f"{os.path.basename(old.rstrip('/')) if beside else old} -> {name}"
    return Line(
        number=number,
        path="/" + os.fsdecode(change.path),
        kind=change.kind,
        directory=above,
        text=name,
        details=one_line(details),
    )


def show(found: Summary, *, every: bool = False, numbered: bool = False) -> None:
    """Print to standard error. `every`: cut nothing. `numbered`: with the numbers of the lines, which is never cut."""
    every |= numbered
    left = _MOST
    width = len(str(len(found.lines)))
    by_directory: dict[str, list[Line]] = {}
    for line in found.lines:
        by_directory.setdefault(line.directory, []).append(line)
    for directory, lines in by_directory.items():
        cut: list[Line] = []
        if directory:
            _print(directory)
        of_directory = min(_MOST_OF_DIRECTORY, left)
        for line in lines:
            if line.kind != "deleted" and not every:
                if not of_directory:
                    cut.append(line)
                    continue
                of_directory -= 1
                left -= 1
            text = coloured(f"{LETTERS[line.kind]}  {line.text}", COLOURS[line.kind], sys.stderr)
            number = f"{line.number:{width}}" if numbered else ""
            _print(
                f"  {number}{'  ' * numbered}{text}"
                + (f"  ({line.details})" if line.details else "")
            )
        if cut:
            counts = dict.fromkeys(LETTERS, 0)
            for line in cut:
                counts[line.kind] += 1
            kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
            _print(f"  ... and {len(cut)} more ({kinds}): 'l' lists all")
    _print(found.total)


def _print(text: str) -> None:
    print(text, file=sys.stderr)
