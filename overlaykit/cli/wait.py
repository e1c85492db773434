"""`overlaykit wait`: wait for the end of views."""

from __future__ import annotations

from overlaykit.cli.arguments import Parser
from overlaykit.errors import Error


class StatusUnknown(Error):
    message = "{0}: how it ended is not known: it was killed, or never started"


def parser() -> Parser:
    """The command's parser."""
    command = Parser("wait", "Wait until named views are stopped; print the exit status of each.")
    command.add_argument("--json", action="store_true", help="for programs: a list of objects")
    command.add_argument("views", metavar="VIEW", nargs="+")
    return command


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    from overlaykit import codec
    from overlaykit.views import named

    found = []
    for view in [named.NamedView(name) for name in args.views]:
        ended = view.wait()
        if ended is None:
            raise StatusUnknown(view.name)
        if args.json:
            found.append({"name": view.name} | vars(ended))
        else:
            print(ended.status, flush=True)
    if args.json:
        print(codec.encode_pretty(found))
    return 0
