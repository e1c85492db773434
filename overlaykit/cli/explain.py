"""`overlaykit explain`: what a path means in each layer: the real file, what it hides and why, who copied it up."""

from __future__ import annotations

import os

from overlaykit.cli.arguments import Parser
from overlaykit.cli.output import one_line
from overlaykit.scope import ExitStack, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from overlaykit.client import Copied, Explanation, Hiding, Stack

_SECOND: Final = 10**9
_HIDDEN: Final = {
    "covered": "hidden by {}",
    "whiteout": "deleted by {}",
    "opaque": "hidden: {} is opaque",
    "redirect": "hidden: {} leads elsewhere",
    "index": "copied up under another name: {}",
}


def parser() -> Parser:
    """The command's parser."""
    command = Parser(
        "explain",
        "Say what a path means in each layer of a view: the file that answers, what it hides and why, where redirects"
        " lead, and of a copy which program it was made for, when, and what it was.",
    )
    command.add_argument("--json", action="store_true", help="for programs: an object")
    command.add_layers()
    command.add_argument(
        "view",
        metavar="VIEW|UPPER",
        help="a view's name, a mountpoint, or the directory of an upper",
    )
    command.add_argument("path", metavar="PATH", help="a path in the view, from its root")
    return command


def main(arguments: list[str]) -> int:
    args = parser().parse_intermixed_args(arguments)
    found = _explain(args.view, args.layers, args.path)
    if args.json:
        from overlaykit import codec

        print(codec.encode_pretty(found))
        return 0
    for line in _lines(found):
        print(one_line(line))
    return 0


def _explain(view: str, layers: list[str], path: str) -> Explanation:
    from overlaykit.client import Client
    from overlaykit.views.registry import NotRunning

    if not layers:
        with suppress(NotRunning), Client(view) as client:
            if not client.is_machine:
                return client.explain(path)
    from overlaykit.cli import stacks

    with ExitStack() as until:
        disks = stacks.Disks(until, contents=False)
        return _explain_layers(stacks.find(view, layers, disks=disks, written=False), path)


def _explain_layers(stack: Stack, path: str) -> Explanation:
    from overlaykit.client import flush
    from overlaykit.views.explaining import explain_layers

    if stack.running is not None:
        flush(stack.running)
    upper = stack.upper
    if upper is not None and not os.path.isdir(upper):  # of a view that was not started yet
        upper = None
    try:
        found = explain_layers((*stack.frozen, *stack.layers), upper, path)
    except OSError as error:  # which may name a file that is looked for on the way
        raise OSError(error.errno, error.strerror, path) from None
    return _on_disk(found, upper, stack.disk) if upper is not None and stack.disk else found


def _on_disk(found: Explanation, upper: str, disk: str) -> Explanation:
    """The same with the disk's name in place of the path of its copy."""

    def named(path: str) -> str:
        below = path.removeprefix(upper)
        return path if below == path or below[:1] not in ("", "/") else f"{disk}:{below or '/'}"

    hits = []
    for hit in found.hits:
        hidden = hit.hidden and hit.hidden.replace(path=named(hit.hidden.path))
        layer = disk if hit.layer == upper else hit.layer
        hits.append(hit.replace(layer=layer, path=named(hit.path), hidden=hidden))
    return found.replace(hits=tuple(hits))


def _lines(found: Explanation) -> Iterator[str]:
    yield found.path if found.target is None else f"{found.path} -> {found.target}"
    for hit in found.hits:
        hidden = "" if hit.hidden is None else f"  ({_why(hit.hidden)})"
        yield f"  {hit.role:8}  {hit.kind:9}  {hit.path}{hidden}"
        if hit.redirect is not None:
            yield f"            layers below have it as {hit.redirect}"
        if hit.copied is not None:
            yield f"            {_copied(hit.copied)}"
    if found.links is not None and found.links > 1 and not _is_directory(found):
        names = f", also {', '.join(found.names)}" if found.names else ""
        yield f"  {found.links} names{names}"


def _why(hidden: Hiding) -> str:
    return _HIDDEN[hidden.reason].format(hidden.path)


def _copied(copied: Copied) -> str:
    """How a copy came about."""
    import time

    text = "copied up"
    if copied.program is not None:
        text += f" for {copied.program}"
    if copied.time_ns is not None:
        text += time.strftime(" on %Y-%m-%d at %H:%M:%S", time.localtime(copied.time_ns / _SECOND))
    lower = copied.lower
    if lower.mode is None:
        return f"{text}; what it was is not found"
    was = f"; it was {lower.path or 'a file without a name now'}, a {lower.kind} of mode {lower.mode:04o}, owner"
    was += f" {lower.uid}:{lower.gid}"
    if lower.kind == "file":
        was += f", {lower.size} bytes"
    if lower.changed:
        was += ", changed since"
    return text + was


def _is_directory(found: Explanation) -> bool:
    return found.hits[0].kind == "directory"
