"""The areas of a view over the host: directories of the host, each on one file system, to which its changes go.

An application is one rename a file, in one file system, and needs a directory there for its journal. So the changes of
a view over the host are applied in parts: those below each directory that was tried, and below each mount in it.
"""

from __future__ import annotations

import functools
import glob
import os
import re
import stat

from overlaykit import mountinfo, namespace
from overlaykit.cli.output import one_line
from overlaykit.errors import Error
from overlaykit.reader import past_modes
from overlaykit.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Final

    from overlaykit.changes.applying import Outcome
    from overlaykit.changes.model import Change
    from overlaykit.changes.target import LeftElsewhere
    from overlaykit.client import Stack

TEMPORARY: Final = ("/tmp", "/var/tmp")  # noqa: S108
"""Directories in which programs always write, and of which nothing is applied unless it was asked for."""

_PATHS: Final = ("path", "old_path")

_BRACKET: Final = re.compile(r"(?s)(?P<not>[!^]?)(?P<members>\]?(?:\[:[a-z]+:\]|[^\]])*)\]")
"""What follows the first sign of a bracket expression (glob(7))."""
_CLASS: Final = re.compile(r"\[:([a-z]+):\]")
_CLASSES: Final = {
    "alnum": r"[^\W_]",
    "alpha": r"[^\W\d_]",
    "blank": r"[ \t]",
    "cntrl": r"[\x00-\x1f\x7f]",
    "digit": r"[0-9]",
    "graph": r"[^\x00-\x20\x7f]",
    "lower": r"[a-z]",
    "print": r"[^\x00-\x1f\x7f]",
    "punct": r"[!-/:-@\[-`{-~]",
    "space": r"\s",
    "upper": r"[A-Z]",
    "xdigit": r"[0-9A-Fa-f]",
}


class DirectoryGone(Error):
    message = (
        "{0}: the directory that was tried is gone: nothing is applied until it is there again"
    )


class Outside(Error):
    message = "{0}: only changes in {1} are applied"


class Area(Record, kw_only=True):
    """A directory of the host, and the paths in it that belong to other areas."""

    path: str
    others: tuple[str, ...] = ()


def is_of_host(stack: Stack) -> bool:
    return stack.layers == ("/",) and not stack.assumed


def writable_by_default() -> tuple[str, ...]:
    """The directories of the host in which a view of this user may write as the user may; none: in all.

    An ordinary user's files are in the home directory, and in the topmost directory above the current one that is the
    user's own.
    """
    if namespace.is_privileged() or os.geteuid() == 0:
        return ()
    home = os.path.realpath(os.path.expanduser("~"))
    found = [path for path in (home, own_directory(os.getcwd())) if path is not None]
    return mountinfo.outermost(
        path for path in found if _is_own(path) and path != "/" and own_of_view(path) is None
    )


def own_of_view(path: str) -> str | None:
    """The directory that each view has for itself, at or above a path; None: it is the host's."""
    from overlaykit.layers.host import RUNTIME_DIRECTORIES

    for own in RUNTIME_DIRECTORIES:
        if path == own or mountinfo.below(path, own):
            return own
    return None


def own_directory(path: str) -> str | None:
    """The topmost directory of this user at or above a path, without another user's between; None: there is none."""
    path = os.path.realpath(path)
    found = None
    while _is_own(path):
        found, path = path, os.path.dirname(path)
        if found == path:
            break
    return found


def _is_own(path: str) -> bool:
    try:
        return os.stat(path).st_uid == os.geteuid()
    except OSError:
        return False


def tops(stack: Stack) -> tuple[str, ...]:
    """The directories below which all areas are."""
    return stack.tried or writable_by_default() or ("/",)


def areas(stack: Stack) -> list[Area]:
    """The areas in which the upper may hold changes, those below others first. Raises: DirectoryGone."""
    assert stack.upper is not None
    above = tops(stack)
    mounts = [mount.mountpoint for mount in mountinfo.visible(mountinfo.current())]
    paths = {*above}
    paths.update(path for path in mounts if any(mountinfo.below(path, top) for top in above))
    own = (stack.upper, *stack.frozen)
    held = [path for path in paths if any(_is_directory(one + path) for one in own)]
    for path in held:
        if not (
            _is_directory(path) and past_modes(functools.partial(os.path.realpath, path)) == path
        ):
            raise DirectoryGone(path)
    return [
        Area(path=path, others=tuple(one for one in held if mountinfo.below(one, path)))
        for path in sorted(held, key=lambda one: one.rstrip("/").count("/"), reverse=True)
    ]


def applied(stack: Stack) -> list[str]:
    """The directories to which this view was applied last, those below others first. Raises: Error, OSError."""
    from overlaykit.changes import applying

    assert stack.upper is not None
    upper = os.path.realpath(stack.upper)
    return [part.path for part in areas(stack) if applying.last_upper(part.path) == upper]


def _is_directory(path: str) -> bool:
    """Also behind directories of the user's own whose modes let no one in. Raises: OSError."""
    try:
        return stat.S_ISDIR(past_modes(lambda: os.lstat(path)).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def apply(
    stack: Stack,
    *,
    paths: Sequence[str] = (),
    choice: str = "",
    merges: bool = False,
    consumes: bool = True,
    is_last: bool = False,
    dry_run: bool = False,
) -> tuple[Outcome, tuple[str, ...]]:
    """Write what a view has changed into the host's directories, in all areas or in none.

    `paths`: from the host's root; empty: all. `is_last`: the view is removed then. Returns: what was written, by paths
    from the host's root, and the directories that `overlaykit apply --undo` takes. Raises: Error, OSError.
    """
    from overlaykit.changes import applying
    from overlaykit.changes.selection import NotAChange

    parts = areas(stack)
    chosen = {part: _below(part, paths) for part in parts}
    for path in paths:
        if not any(path in [_join(part.path, one) for one in of] for part, of in chosen.items()):
            if not _is_at_or_below(path, tops(stack)):
                raise Outside(path, " and ".join(tops(stack)))
            raise NotAChange(path)
    if paths:
        parts = [part for part in parts if chosen[part]]
    without = {part: _left_out(stack, part) for part in parts}
    assert stack.upper is not None
    upper = os.path.realpath(stack.upper)
    left_elsewhere = functools.cache(lambda: applying.left_names(upper, stack.frozen, stack.layers))

    def run(part: Area, *, dry: bool) -> Outcome:
        return _apply(
            stack,
            part,
            paths=chosen[part],
            without=without[part],
            choice=choice,
            merges=merges,
            consumes=consumes and not paths and not stack.frozen,
            is_last=is_last and not paths,
            dry_run=dry,
            left_elsewhere=left_elsewhere,
        )

    found = applying.Outcome()
    if dry_run or len(parts) > 1:
        for part in parts:
            found = _joined(found, run(part, dry=True))
        if dry_run or (found.conflicts and not choice):
            return (found if dry_run else _only_conflicts(found)), ()
    done: list[str] = []
    found = applying.Outcome()
    try:
        for part in parts:
            outcome = run(part, dry=False)
            found = _joined(found, outcome)
            if outcome.conflicts:
                _take_back(done)
                return _only_conflicts(found), ()
            if outcome.written:
                done.append(part.path)
    except BaseException:
        _take_back(done)
        raise
    return found, tuple(done)


def _take_back(done: Iterable[str]) -> None:
    from overlaykit.changes import applying

    for path in reversed(list(done)):
        applying.undo(path)


def _only_conflicts(outcome: Outcome) -> Outcome:
    return outcome.replace(written=(), notable=(), skipped=(), overwritten=(), merged=())


def _apply(
    stack: Stack,
    part: Area,
    *,
    paths: Sequence[str],
    without: Sequence[str],
    choice: str,
    merges: bool,
    consumes: bool,
    is_last: bool,
    dry_run: bool,
    left_elsewhere: LeftElsewhere,
) -> Outcome:
    from overlaykit.changes import applying
    from overlaykit.changes.opening import open_stack
    from overlaykit.changes.read import Comparison
    from overlaykit.changes.run import Request

    assert stack.upper is not None
    request = Request(
        upper=os.path.realpath(stack.upper),
        frozen=stack.frozen,
        lowers=stack.layers,
        within=part.path.strip("/"),
        paths=tuple(paths),
        without=tuple(without),
        choice=choice,
        merges=merges,
        consumes=consumes and applying.is_on_one_mount(stack.upper + part.path, part.path),
        is_last=is_last,
    )
    upper, lowers = open_stack(request.upper, request.frozen, request.lowers)
    with Comparison.of_upper(upper, lowers, os.fsencode(request.within)) as comparison:
        outcome = applying.apply(
            comparison, part.path, request, dry_run=dry_run, left_elsewhere=left_elsewhere
        )
    return _from_root(outcome, part.path)


def _below(part: Area, paths: Sequence[str]) -> list[str]:
    """The paths that belong to an area, from there."""
    return [
        os.path.relpath(path, part.path)
        for path in map(os.path.normpath, paths)
        if mountinfo.below(path, part.path)
        and not any(path == other or mountinfo.below(path, other) for other in part.others)
    ]


def _left_out(stack: Stack, part: Area) -> list[str]:
    """The paths of an area that are not applied with it, from there: other areas, and what is ignored."""
    ignored: set[str] = set()
    if stack.ignored:
        from overlaykit.changes.opening import open_stack
        from overlaykit.changes.read import Comparison

        assert stack.upper is not None
        upper, lowers = open_stack(stack.upper, stack.frozen, stack.layers)
        pattern = Ignored(stack.ignored)
        with Comparison.of_upper(upper, lowers, os.fsencode(part.path.strip("/"))) as comparison:
            for change in comparison.changes(times=True):
                path = pattern.match(_join(part.path, os.fsdecode(change.path)))
                if path is not None and mountinfo.below(path, part.path):
                    ignored.add(path)
                elif path is not None:  # the area itself
                    ignored.add(_join(part.path, os.fsdecode(change.path)))
    own = [path for path in _own() if mountinfo.below(path, part.path)]
    return [os.path.relpath(path, part.path) for path in (*part.others, *own, *sorted(ignored))]


def _join(directory: str, path: str) -> str:
    return os.path.normpath(os.path.join(directory, path))


def _joined(one: Outcome, other: Outcome) -> Outcome:
    return one.replace(
        **{name: (*records, *vars(other)[name]) for name, records in vars(one).items()}
    )


def _from_root(outcome: Outcome, directory: str) -> Outcome:
    """The same with paths from the host's root, without a leading slash."""

    def rooted(path: str) -> str:
        return _join(directory, path).lstrip("/") or "."

    return outcome.replace(
        **{
            name: tuple(
                one.replace(
                    **{
                        key: rooted(value)
                        for key, value in vars(one).items()
                        if key in _PATHS and value is not None
                    }
                )
                for one in records
            )
            for name, records in vars(outcome).items()
        }
    )


class Ignored:
    """Patterns of paths that are left out.

    One without a slash matches a name anywhere, another one whole paths from the root. `*`, `?` and `[...]` match no
    slash, `**` any number of names. What matches is left out with all below it.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._compiled = [re.compile(_expression(pattern)) for pattern in patterns]

    def match(self, path: str) -> str | None:
        """The path or the topmost directory above it that matches; None: none does."""
        names = path.strip("/").split("/")
        for depth in range(1, len(names) + 1):
            above = "/" + "/".join(names[:depth])
            if any(one.fullmatch(above) for one in self._compiled):
                return above
        return None


def absolute(pattern: str) -> str:
    """A pattern whose meaning does not depend on the current directory."""
    pattern = pattern.rstrip("/") or "/"
    if "/" not in pattern and pattern not in (".", ".."):
        return pattern
    return os.path.normpath(os.path.join(glob.escape(os.getcwd()), pattern))


def _expression(pattern: str) -> str:
    if "/" not in pattern:
        return f"(?s:(?:/[^/]+)*/{_of_name(pattern)})"
    parts = [name for name in pattern.split("/") if name]
    return (
        "(?s:"
        + "".join("(?:/[^/]+)*" if one == "**" else "/" + _of_name(one) for one in parts)
        + ")"
    )


def _of_name(pattern: str) -> str:
    """A regular expression for one name."""
    found, rest = "", pattern
    while rest:
        sign, rest = rest[0], rest[1:]
        bracket = _BRACKET.match(rest) if sign == "[" else None
        if sign == "*":
            found += "[^/]*"
        elif sign == "?":
            found += "[^/]"
        elif bracket is not None:
            rest = rest[bracket.end() :]
            found += _of_members(bracket["members"], negated=bool(bracket["not"]))
        else:
            found += re.escape(sign)
    return found


def _of_members(members: str, *, negated: bool) -> str:
    """A regular expression for one character; a range whose end comes before its beginning is empty (glob(7))."""
    found = []
    while members:
        if (named := _CLASS.match(members)) is not None:
            found.append(_CLASSES.get(named[1], "(?!)"))
            members = members[named.end() :]
            continue
        first, last = members[0], members[0]
        if members[1:2] == "-" and len(members) > 2:
            last, members = members[2], members[2:]
        members = members[1:]
        if first <= last:
            found.append(f"[{re.escape(first)}-{re.escape(last)}]")
    one = "|".join(found) or "(?!)"
    return f"(?!/|{one})(?s:.)" if negated else f"(?!/)(?:{one})"


def is_own(change: Change) -> bool:
    """Whether a change is in a directory of overlaykit's own, as where named views are: a view of the host hides these.

    So views that are kept in a view end with it.
    """
    path = "/" + os.fsdecode(change.path)
    return any(path == own or mountinfo.below(path, own) for own in _own())


@functools.cache
def _own() -> list[str]:
    """Those that exist, found once."""
    from overlaykit.views import places

    return [os.path.realpath(path) for path in places.hidden()]


def count_left(stack: Stack) -> int:
    """How many changes an upper holds outside of its areas. Raises: OSError."""
    from overlaykit.changes.opening import open_stack
    from overlaykit.changes.read import Comparison

    if stack.upper is None or not _is_directory(stack.upper) or "/" in tops(stack):
        return 0
    upper, lowers = open_stack(stack.upper, stack.frozen, stack.layers)
    with Comparison.of_upper(upper, lowers) as comparison:
        return sum(
            not (is_tried(stack, change) or is_own(change)) for change in comparison.changes()
        )


def describe_left(stack: Stack, count: int) -> str:
    """Say that changes are outside of the areas of a view."""
    where = " and ".join(tops(stack))
    if stack.tried:
        return one_line(f"{count} more outside of {where}, which are never applied")
    return one_line(
        f"{count} more outside of {where}: to apply those in another directory of yours, change to it, and apply again"
    )


def is_tried(stack: Stack, change: Change) -> bool:
    """Whether a change is in a directory that was tried."""
    return _is_at_or_below("/" + os.fsdecode(change.path), tops(stack))


def _is_at_or_below(path: str, directories: Iterable[str]) -> bool:
    return any(path == one or mountinfo.below(path, one) for one in directories)
