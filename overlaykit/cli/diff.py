"""`overlaykit diff`: what a view changes of its layers."""

from __future__ import annotations

import gc
import os
import stat
import sys

from overlaykit.changes.plain import plain, shown
from overlaykit.cli import progress
from overlaykit.cli.options import LAYERS, Options, Usage
from overlaykit.cli.output import coloured, has_colours, one_line, print_error
from overlaykit.scope import ExitStack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any, Final

    from overlaykit.changes.model import Change, Version
    from overlaykit.changes.patch import FilePatch
    from overlaykit.changes.read import Comparison
    from overlaykit.cli.arguments import Parser
    from overlaykit.client import Stack

LETTERS: Final = {"added": "A", "changed": "M", "deleted": "D", "renamed": "R", "replaced": "T"}
"""As in git."""
_RED: Final = 31
_GREEN: Final = 32
_YELLOW: Final = 33
_CYAN: Final = 36
COLOURS: Final = {
    "added": _GREEN,
    "changed": _YELLOW,
    "deleted": _RED,
    "renamed": _CYAN,
    "replaced": _YELLOW,
}
_SET_ID: Final = stat.S_ISUID | stat.S_ISGID
_CAPABILITY: Final = b"security.capability"
_DATA_ALONE: Final = (frozenset(("content",)), frozenset(("content", "times")))
_WIDTH: Final = 40
"""Signs of the graph of --stat, at most."""


def parser() -> Parser:
    """The command's parser."""
    return _options().parser()


def _options() -> Options:
    options = Options(_bare_parser)
    options.add_exclusive(
        (
            "--patch -p",
            {
                "action": "store_true",
                "dest": "patch",
                "help": "a patch of text files, for 'patch -p1' and 'git apply'",
            },
        ),
        ("--stat", {"action": "store_true", "help": "how many lines of each file differ"}),
        ("--json", {"action": "store_true", "help": "for programs: a list of objects, one a line"}),
    )
    options.add_argument(
        "-a", "--all", action="store_true", help="list each file of a new or deleted directory"
    )
    options.add_argument(
        "--times",
        action="store_true",
        help="list files of which only the modification time differs, too",
    )
    options.add_argument(
        "--exit-code", action="store_true", help="exit with status 1 if there are changes"
    )
    options.add_argument("-l", **LAYERS)
    return options


def _bare_parser() -> Parser:
    from overlaykit.cli.arguments import Parser

    command = Parser(
        "diff",
        "List what a view has changed of its layers: added, changed, deleted, renamed and replaced files.",
    )
    command.add_argument(
        "view",
        metavar="VIEW[@SNAPSHOT]|UPPER|A..B",
        help="a view's name, also at a snapshot, a mountpoint, the directory of an upper, or a machine's disk; or two"
        " of these, or of layers",
    )
    command.add_argument(
        "path", metavar="PATH", nargs="?", default="", help="only this path, and below"
    )
    return command


def parse(arguments: Sequence[str]) -> Any:
    """The options' values, with `view` and `path`. Raises: Usage; SystemExit after --help."""
    plain: Any = _options().parse_plain(arguments)
    if plain is None or not 1 <= len(plain.rest) <= 2 or any(w[:1] == "-" for w in plain.rest):
        return parser().parse_intermixed_args(arguments)
    plain.view = plain.rest.pop(0)
    plain.path = plain.rest.pop() if plain.rest else ""
    return plain


def main(arguments: list[str]) -> int:
    # This process ends with the list, whose objects all stay until then.
    gc.disable()
    args = parse(arguments)
    if args.all and (args.patch or args.stat or args.json):
        raise Usage("diff", "-a is for the list: --patch, --stat and --json leave nothing out")
    with ExitStack() as until:
        return _compare(args, until)


def _compare(args: Any, until: ExitStack) -> int:
    from overlaykit.cli import stacks
    from overlaykit.client import Client, NoSuchPath
    from overlaykit.views.registry import RunningView

    beneath = os.fsencode(os.path.normpath("/" + args.path).strip("/"))
    disks = stacks.Disks(until)
    both = stacks.sides(args.view, args.layers, disks=disks)
    if both is None:
        stack = stacks.find(args.view, args.layers, disks=disks)
        _say_assumption(stack)
        if stack.upper is None or not os.path.lexists(stack.upper):  # nothing was written yet
            if args.json:
                _print_json(())
            return 0
        if args.json and stack.running is not None and not stack.disk:
            with progress.shown(), Client.of(RunningView(stack.running, stack.control)) as client:
                found = _print_json(client.changes_as_json(args.path, times=args.times))
            return 1 if found and args.exit_code else 0
        from overlaykit.changes.read import Comparison

        upper, lowers = stack.open()
        assert upper is not None
        comparison = Comparison.of_upper(upper, lowers)
    else:
        from overlaykit.changes.read import Comparison

        comparison = Comparison.of_stacks(both[0].open(), both[1].open())
    with progress.shown(), comparison:
        if beneath and not comparison.has(beneath):
            raise NoSuchPath(args.path)
        changes = comparison.changes(beneath, times=args.times, helper=True)
        if args.json:
            import json

            found = _print_json(json.dumps(plain(change)) for change in changes)
        elif args.patch:
            found = _print_patch(comparison, list(changes))
        elif args.stat:
            found = _print_stat(comparison, list(changes))
        else:
            found = _print_list(comparison, changes, every=args.all)
    return 1 if found and args.exit_code else 0


def _say_assumption(stack: Stack) -> None:
    if stack.assumed:
        print_error(f"{stack.name}: compared with the host's files: -l names other layers")


def _print_json(changes: Iterable[str]) -> int:
    """Print an array, an object a line. Returns: how many."""
    count = 0
    print("[", end="")
    for change in changes:
        print(",\n " if count else "\n ", end="")
        print(change, end="")
        count += 1
    print("\n]" if count else "]")
    return count


# The list


def _print_list(comparison: Comparison, changes: Iterable[Change], *, every: bool) -> int:
    """Print a line for each change, or for all that is in a new directory. Returns: how many changes there are."""
    counts = dict.fromkeys(LETTERS, 0)
    colours = COLOURS if has_colours() else {}

    def counted() -> Iterator[Change]:
        for change in changes:
            counts[change.kind] += 1
            yield change

    write = sys.stdout.write
    for change, inside in folded(counted()) if not every else ((one, []) for one in counted()):
        if change.what in _DATA_ALONE and change.kind == "changed" and not colours:
            # Most of a long list.
            path = change.path.decode("utf-8", "surrogateescape")
            write(f"M  /{path if path.isprintable() else one_line(path)}  (content)\n")
            continue
        files = (
            sum(not one.new.is_directory for one in inside if one.new is not None) if inside else 0
        )
        if change.kind in ("deleted", "replaced") and change.old and change.old.is_directory:
            if every:
                _print_change(change, "", colours)
                for below, version in comparison.held(change):
                    path = shown_path(change.path + b"/" + below, version)
                    _print_line("deleted", path, "", colours)
                    counts["deleted"] += 1
                continue
            held, directories = comparison.count_held(change)
            counts["deleted"] += held + directories
            files += held if change.kind == "deleted" else 0
        _print_change(change, f"with {file_count(files)}" if files else "", colours)
        for one in filter(is_special, inside):
            _print_change(one, "", colours)
    if total := sum(counts.values()):
        print(", ".join(f"{count} {kind}" for kind, count in counts.items() if count))
    return total


def folded(changes: Iterable[Change]) -> Iterator[tuple[Change, list[Change]]]:
    """Each change, and of a new directory those of what is in it, as far as it is new, too."""
    directory: Change | None = None
    inside: list[Change] = []
    others: list[Change] = []
    for change in changes:
        if directory is not None and change.path.startswith(directory.path + b"/"):
            (inside if change.kind == "added" else others).append(change)
            continue
        if directory is not None:
            yield directory, inside
            yield from ((one, []) for one in others)
            directory, inside, others = None, [], []
        is_new = change.kind in ("added", "replaced")
        if is_new and change.new is not None and change.new.is_directory:
            directory = change
        else:
            yield change, []
    if directory is not None:
        yield directory, inside
        yield from ((one, []) for one in others)


def is_special(change: Change) -> bool:
    """Whether an added file is listed in any case: it gives rights, or is a device."""
    new = change.new
    assert new is not None
    return bool(
        (new.mode & _SET_ID and not new.is_directory) or new.device or _CAPABILITY in change.xattrs
    )


def file_count(count: int) -> str:
    return f"{count} {'file' if count == 1 else 'files'}"


def _print_change(change: Change, more: str, colours: Mapping[str, int]) -> None:
    version = change.new or change.old
    assert version is not None
    path = shown_path(change.path, version)
    if change.kind == "renamed":
        path = f"{shown_path(change.old_path or b'', version)} -> {path}"
    details = [*details_of(change), *([more] if more else [])]
    _print_line(change.kind, path, ", ".join(details), colours)


def _print_line(kind: str, path: str, details: str, colours: Mapping[str, int]) -> None:
    line = f"{LETTERS[kind]}  {path}"
    if colours:
        line = coloured(line, colours[kind])
    print(f"{line}  ({one_line(details)})" if details else line)


def shown_path(path: bytes, version: Version) -> str:
    """A path for people. A directory ends with a slash."""
    text = one_line(shown(path))
    return text + "/" if version.is_directory and path else text


def details_of(change: Change) -> Iterator[str]:
    """What of a file differs, or is worth a note."""
    old, new = change.old, change.new
    if change.link is not None:
        yield f"link to {shown(change.link)}"
    if new is None:
        return
    if change.kind in ("added", "replaced"):
        if old is not None:
            from overlaykit.changes.plain import type_name

            yield f"{type_name(old)} -> {type_name(new)}"
        if new.mode & _SET_ID and not new.is_directory:
            yield f"mode {stat.S_IMODE(new.mode):04o}"
        if new.device:
            yield f"device {_device(new)}"
        if _CAPABILITY in change.xattrs:
            yield "capabilities"
        return
    assert old is not None
    if "content" in change.what:
        yield f"{old.size} -> {new.size} bytes" if "size" in change.what else "content"
    if "mode" in change.what:
        yield f"mode {stat.S_IMODE(old.mode):04o} -> {stat.S_IMODE(new.mode):04o}"
    if "owner" in change.what:
        yield f"owner {old.uid}:{old.gid} -> {new.uid}:{new.gid}"
    if "device" in change.what:
        yield f"device {_device(old)} -> {_device(new)}"
    if "acl" in change.what:
        yield "ACL"
    if "xattrs" in change.what:
        yield from (
            f"{'no ' if value is None else ''}{os.fsdecode(name)}"
            for name, value in change.xattrs.items()
            if not name.startswith(b"system.posix_acl_")
        )
    if change.is_touch:
        yield "touched"


def _device(version: Version) -> str:
    return f"{os.major(version.device)}:{os.minor(version.device)}"


# Patches


def _print_patch(comparison: Comparison, changes: list[Change]) -> int:
    from overlaykit.changes.patch import patches

    sys.stdout.flush()
    for patch in patches(comparison, changes):
        if sys.stdout.isatty():
            _print_for_terminal(patch)
        else:
            sys.stdout.buffer.write(patch.text)
    sys.stdout.flush()
    return len(changes)


def _print_for_terminal(patch: FilePatch) -> None:
    """Print a patch without what a terminal would act on."""
    colours = {"+": _GREEN, "-": _RED, "@": _CYAN}
    for line in patch.text.decode("utf-8", "surrogateescape").removesuffix("\n").split("\n"):
        text = "\t".join(map(one_line, line.split("\t")))
        colour = colours.get(line[:1])
        print(coloured(text, colour) if colour else text)


def _print_stat(comparison: Comparison, changes: list[Change]) -> int:
    from overlaykit.changes.patch import patches

    found = list(patches(comparison, changes))
    names = [_stat_name(patch) for patch in found]
    width = max(map(len, names), default=0)
    most = max((patch.added + patch.removed for patch in found), default=0)
    scale = min(1.0, _WIDTH / most) if most else 1.0
    digits = len(str(most))
    for name, patch in zip(names, found, strict=True):
        if patch.binary:
            sizes = " -> ".join(map(str, patch.sizes))
            print(f" {name:{width}} | {'Bin':>{digits}} {sizes} bytes")
            continue
        count = patch.added + patch.removed
        graph = _graph("+", patch.added, scale, _GREEN) + _graph("-", patch.removed, scale, _RED)
        print(f" {name:{width}} | {count:{digits}} {graph}".rstrip())
    if found:
        added, removed = sum(one.added for one in found), sum(one.removed for one in found)
        print(f" {file_count(len(found))}, {added} lines added, {removed} lines removed")
    return len(changes)


def _graph(sign: str, count: int, scale: float, colour: int) -> str:
    signs = sign * (max(1, round(count * scale)) if count else 0)
    return coloured(signs, colour) if signs and has_colours() else signs


def _stat_name(patch: FilePatch) -> str:
    if patch.old is not None and patch.new is not None and patch.old != patch.new:
        return one_line(f"{shown(patch.old)} -> {shown(patch.new)}")
    return one_line(shown(patch.new if patch.new is not None else patch.old or b""))
