"""Write the man pages of man/ from the commands' parsers.

usage: setup/manpages.py DIRECTORY
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from typing import Final

from argparse_manpage.manpage import Manpage

from overlaykit import __version__
from overlaykit.cli.arguments import Parser
from overlaykit.cli.commands import COMMANDS, MOUNT_HELPER
from overlaykit.cli.examples import EXAMPLES
from overlaykit.cli.profiles import schema
from overlaykit.views.options.table import Effect, describe

_EXIT_STATUS: Final = (
    "0 for success. 'run' exits with the status of its command, 128+N if signal N ended it, 127 if there is no such "
    "command, 126 if it cannot be executed. 125 if overlaykit itself failed: one line on standard error gives the "
    "reason and the way out."
)
_FILES: Final = (
    (
        "$XDG_DATA_HOME/overlaykit/layers",
        "the layers of the store (default: ~/.local/share/overlaykit/layers)",
    ),
    (
        "overlaykit.toml, $XDG_CONFIG_HOME/overlaykit/overlaykit.toml",
        "the profile of a project, or of the user (default: ~/.config/overlaykit/overlaykit.toml)",
    ),
    (
        "$XDG_DATA_HOME/overlaykit/views",
        "named views, with what was written in them",
    ),
    (
        "/run/overlaykit, $XDG_RUNTIME_DIR/overlaykit, /tmp/overlaykit-UID, /dev/shm/overlaykit-UID",
        "running views and mounts, and the server: the first that works, /run for root alone",
    ),
    (
        "$XDG_CACHE_HOME/overlaykit, /var/tmp/overlaykit-UID",
        "changes that are dropped when a view ends (default: ~/.cache/overlaykit)",
    ),
    (
        "$XDG_STATE_HOME/overlaykit",
        "logs of daemons that had something to report (default: ~/.local/state/overlaykit)",
    ),
)


def _escaped(text: str) -> str:
    """The text for groff: its escape character and minus signs kept, no line taken for a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "")
    return "\n".join(
        f"\\&{line}" if line.startswith((".", "'")) else line for line in text.split("\n")
    )


def _entries(entries: tuple[tuple[str, str], ...] | list[tuple[str, str]]) -> str:
    quoted = [(_escaped(name).replace('"', "\\(dq"), _escaped(text)) for name, text in entries]
    return "\n".join(f".TP\n.B {name}\n{text}" for name, text in quoted)


def _page(
    parser: Parser, name: str, short: str, section: int, sections: dict[str, str], also: list[str]
) -> str:
    epilog, parser.epilog = parser.epilog, ""
    parser.man_short_description = short  # type: ignore[attr-defined]  # read by argparse_manpage
    page = Manpage(parser)
    page.prog = name
    page.date = ""
    page.source = f"overlaykit {__version__}"
    page.manual = "overlaykit"
    page.section = section
    # The library escapes no quote at the beginning of a line.
    text = re.sub(r"^'", r"\\&'", str(page).rstrip("\n"), flags=re.MULTILINE)
    if epilog and name != "overlaykit-mount":
        text += f"\n\n.SH NOTES\n.nf\n{_escaped(epilog)}\n.fi"
    if parser.command in EXAMPLES:
        text += f"\n\n.SH EXAMPLES\n{_entries(EXAMPLES[parser.command])}"
    for heading, content in sections.items():
        text += f"\n\n.SH {heading}\n{content}"
    references = ",\n".join(f".BR {one[:-3]} {one[-3:]}" for one in also)
    return f"{text}\n\n.SH SEE ALSO\n{references}\n"


def _profile_page() -> str:
    """The page of the keys of a profile, which are the options of `overlaykit run`."""
    keys = []
    for key in schema.keys().values():
        option = f" ({key.flag} of 'overlaykit run')" if key.flag else ""
        keys.append((f"{key.name} = {schema.describe(key)}", f"{key.help}{option}"))
    up: Parser = importlib.import_module("overlaykit.cli.up").parser()
    head = f""".TH OVERLAYKIT.TOML "5" "" "overlaykit {__version__}" "overlaykit"
.SH NAME
overlaykit.toml \\- apps for overlaykit run, up and down
.SH DESCRIPTION
.nf
{_escaped(up.epilog or "")}
.fi
.SH KEYS
{_escaped("A key may be written with '_' for '-'. Relative paths refer to the directory of the file, '~' is the home.")}
{_entries(keys)}
.SH SEE ALSO
"""
    also = ["overlaykit-run(1)", "overlaykit-up(1)", "overlaykit-down(1)", "overlaykit-ps(1)"]
    return head + ",\n".join(f".BR {one[:-3]} {one[-3:]}" for one in also) + "\n"


def pages() -> dict[str, str]:
    """The text of every page by its file name."""
    os.environ["COLUMNS"] = "100"  # argparse wraps by it
    made = {}
    main = Parser("", "Give each program its own view of the machine.")
    main.prog = "overlaykit"
    main.usage = "overlaykit COMMAND [OPTION]..."
    commands = [(f"overlaykit-{name}(1)", what) for name, what in COMMANDS.items()]
    made["overlaykit.1"] = _page(
        main,
        "overlaykit",
        "layered file trees and namespaces for programs",
        1,
        {
            "COMMANDS": _entries(commands),
            "EXIT STATUS": _escaped(_EXIT_STATUS),
            "FILES": _entries(_FILES),
        },
        [*(name for name, _ in commands), f"{MOUNT_HELPER}(8)", "overlaykit.toml(5)"],
    )
    for name, what in COMMANDS.items():
        parser: Parser = importlib.import_module(f"overlaykit.cli.{name}").parser()
        sections = {}
        if name == "mount":
            for effect in Effect:
                heading = "MOUNT OPTIONS" if effect is Effect.ACTS else f"OPTIONS {effect.value}"
                sections[heading.upper()] = _entries(describe(effect))
        also = ["overlaykit(1)", *([f"{MOUNT_HELPER}(8)", "mount(8)"] if name == "mount" else [])]
        made[f"overlaykit-{name}.1"] = _page(parser, f"overlaykit-{name}", what, 1, sections, also)
    helper: Parser = importlib.import_module("overlaykit.cli.mount_helper").parser()
    made[f"{MOUNT_HELPER}.8"] = _page(
        helper,
        MOUNT_HELPER,
        "mount layers for mount(8)",
        8,
        {},
        ["overlaykit-mount(1)", "mount(8)"],
    )
    made["overlaykit.toml.5"] = _profile_page()
    return made


def main(arguments: list[str]) -> None:
    """Write all pages into a directory."""
    (directory,) = arguments
    os.makedirs(directory, exist_ok=True)
    for name, text in pages().items():
        with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main(sys.argv[1:])
