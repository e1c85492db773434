"""`overlaykit layers`: the layers of a view, which may run, and changes of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from overlaykit.cli.arguments import Parser
from overlaykit.cli.options import Usage

if TYPE_CHECKING:
    from overlaykit.views.named import NamedView
    from overlaykit.views.restacking import Action

_EPILOG: Final = """\
push puts layers on top of those of the view, pop takes the topmost one away, replace puts layers in its place. Programs
that run see the new stack at their next open, what they have open stays what it was. What the view has written stays on
top. A named view keeps the change for its next start."""
_USAGE: Final = "overlaykit layers VIEW ls [--json] | push LAYER... | pop | replace LAYER..."


def parser() -> Parser:
    """The command's parser."""
    command = Parser(
        "layers", "List the layers of a view, and change them, also while it runs.", epilog=_EPILOG
    )
    command.usage = _USAGE
    command.add_argument("view", metavar="VIEW", help="a view's name, or a mountpoint")
    command.add_argument("action", metavar="ACTION", choices=("ls", "push", "pop", "replace"))
    command.add_argument(
        "layers", metavar="LAYER", nargs="*", help="a name of the store, or a directory; top first"
    )
    command.add_argument("--json", action="store_true", help="for programs: a list of objects")
    return command


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    takes_layers = args.action in ("push", "replace")
    if takes_layers != bool(args.layers):
        raise Usage("layers", f"{args.action}: name {'a layer' if takes_layers else 'no layer'}")
    if args.json and args.action != "ls":
        raise Usage("layers", "--json is for ls")
    if args.action == "ls":
        _list(args.view, is_json=args.json)
    else:
        _change(args.view, args.action, args.layers)
    return 0


def _list(name: str, *, is_json: bool) -> None:
    from overlaykit import codec
    from overlaykit.cli.table import show
    from overlaykit.layers import resolve
    from overlaykit.views import named, restacking
    from overlaykit.views.registry import NotRunning, Registry

    try:
        layers = restacking.shown(Registry().find(name))
    except NotRunning:
        if not named.exists(name):
            raise
        specs = _specs(named.NamedView(name))
        layers = [restacking.Shown(path=resolve(spec).path) for spec in specs]
    if is_json:
        print(codec.encode_pretty(layers))
    else:
        show(("LAYER",), ((one.path + (" (frozen)" if one.frozen else ""),) for one in layers))


def _change(name: str, action: Action, specs: list[str]) -> None:
    from overlaykit.layers import resolve
    from overlaykit.views import named, restacking
    from overlaykit.views.registry import NotRunning, Registry

    layers = [resolve(spec) for spec in specs]
    view = named.NamedView(name) if named.exists(name) else None
    if view is not None:
        restacking.changed(_specs(view), action, layers, name)  # refuses before anything changes
    try:
        running = Registry().find(name)
    except NotRunning:
        if view is None:
            raise
        lock = view.lock()
        try:
            view.note_layers(restacking.changed(_specs(view), action, layers, name))
        finally:
            os.close(lock)
        return
    restacking.change(running, action, layers)
    if view is not None:
        view.note_layers(restacking.changed(_specs(view), action, layers, name))


def _specs(view: NamedView) -> list[str]:
    """The layers of a named view, as `-l` names them."""
    from overlaykit.cli import run

    args, _ = run.parse_again(view.definition())
    return args.layers or ["host"]
