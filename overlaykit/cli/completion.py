"""`overlaykit completion`: what completes commands, options and names in a shell."""

from __future__ import annotations

import argparse
import importlib
from typing import TYPE_CHECKING, Any, Final

from overlaykit.cli.arguments import Parser
from overlaykit.cli.options import Usage
from overlaykit.errors import Error

if TYPE_CHECKING:
    from collections.abc import Iterator

_SHELLS: Final = ("bash", "zsh", "fish")

_EPILOG: Final = """\
To load it in each new shell:

    bash: overlaykit completion bash > ~/.local/share/bash-completion/completions/overlaykit
    zsh:  overlaykit completion zsh > DIRECTORY/_overlaykit, a directory of $fpath
    fish: overlaykit completion fish > ~/.config/fish/completions/overlaykit.fish"""

_VIEWS: Final = "views"
_LAYERS: Final = "layers"
_APPS: Final = "apps"
_NAMES: Final = (_VIEWS, _LAYERS, _APPS)
_FIRST_WORD: Final = "words"
"""An app, a program or a file."""

_FILES: Final = ("--env-file", "--file")
_DIRECTORIES: Final = ("--upper", "--writable", "--on", "--directory")

_LIST: Final = "overlaykit completion --names {0} 2>/dev/null"


def parser() -> Parser:
    """The command's parser."""
    command = Parser(
        "completion",
        "Print a script that completes commands, options, and names of views, layers and apps.",
        epilog=_EPILOG,
    )
    command.add_argument("shell", metavar="bash|zsh|fish", choices=_SHELLS, nargs="?")
    command.add_argument(
        "--names",
        metavar="|".join(_NAMES),
        choices=_NAMES,
        help="print these names instead, a line each, as the scripts ask for them",
    )
    return command


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    if args.names is not None:
        for name in _names(args.names):
            print(name)
        return 0
    if args.shell is None:
        raise Usage("completion", "name a shell")
    import shtab

    print(shtab.complete(_whole_parser(), shell=args.shell))
    return 0


def _names(kind: str) -> list[str]:
    """Those that exist; none where they cannot be listed: a shell waits for them."""
    try:
        if kind == _VIEWS:
            from overlaykit.views import listing

            return [one.name for one in listing.everything()]
        if kind == _LAYERS:
            from overlaykit.layers import Store

            return ["host", *(one.name for one in Store().list())]
        from overlaykit.cli.profiles import files
        from overlaykit.cli.profiles.profile import Profile

        return list(Profile(files.given_or_found(None)).apps)
    except (Error, OSError):
        return []


def _whole_parser() -> argparse.ArgumentParser:
    """The parser of all commands, with what completes their arguments."""
    from overlaykit.cli.commands import COMMANDS

    modules = {name: importlib.import_module(f"overlaykit.cli.{name}") for name in COMMANDS}
    whole = argparse.ArgumentParser(prog="overlaykit", description="Views of the machine.")
    whole.add_argument("--version", action="store_true", help="print the version")
    makers = iter(modules.values())

    def made(**_: object) -> Parser:
        return next(makers).parser()  # type: ignore[no-any-return]

    commands = whole.add_subparsers(dest="command", parser_class=made)  # type: ignore[call-overload]
    for name, summary in COMMANDS.items():
        for action in _actions(commands.add_parser(name, help=summary)):
            completer = _completer(name, action)
            if completer is not None:
                action.complete = completer  # type: ignore[attr-defined]  # which shtab reads
                if action.help == argparse.SUPPRESS:
                    action.help = str(action.metavar)
    return whole


def _actions(command: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The arguments of a command, and of its own commands."""
    for action in command._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _actions(inner)


def _completer(command: str, action: argparse.Action) -> dict[str, Any] | None:
    """What completes an argument, as shtab has it."""
    import shtab

    flags = action.option_strings
    found: dict[str, Any] | None = None
    if command in ("run", "create") and action.dest == "command":
        found = _names_of(_FIRST_WORD)
    elif str(action.metavar).partition("|")[0].partition(":")[0] == "VIEW" or (
        command in ("explain", "umount") and not flags and action.dest != "path"
    ):
        found = _names_of(_VIEWS)
    elif action.metavar == "APP":
        found = _names_of(_APPS)
    elif action.metavar == "LAYER":
        found = _names_of(_LAYERS)
    elif set(flags).intersection(_FILES):
        found = dict(shtab.FILE)
    elif set(flags).intersection(_DIRECTORIES) or (command, action.dest) == ("mount", "target"):
        found = dict(shtab.DIRECTORY)
    return found


def _names_of(kind: str) -> dict[str, Any]:
    """Asked for at each completion."""
    function = f"_overlaykit_{kind}"
    if kind == _FIRST_WORD:
        apps = _LIST.format(_APPS)
        bash = f'compgen -W "$({apps})" -- "$1"; compgen -c -- "$1"; compgen -f -- "$1"'
        zsh = f'compadd -- ${{(f)"$({apps})"}}; _command_names -e; _files'
        fish = f"({apps}; __fish_complete_subcommand)"
    else:
        names = _LIST.format(kind)
        bash = f'compgen -W "$({names})" -- "$1"'
        zsh = f'compadd -- ${{(f)"$({names})"}}'
        fish = f"({names})"
    return {
        "bash": function,
        "zsh": function,
        "fish": fish,
        "preamble": {
            "bash": f"{function}() {{ {bash}; }}",
            "zsh": f"{function}() {{ {zsh} }}",
        },
    }
