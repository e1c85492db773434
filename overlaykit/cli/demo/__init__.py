"""`overlaykit demo`: two programs at once, each with a Python of its own at /usr/bin/python.

Start reading at `show` (what happens, in order); `pythons` finds the interpreters, `server` is one web server in its
view, `table` is what a person sees of it.
"""

from __future__ import annotations

from overlaykit.cli.arguments import Parser


def main(arguments: list[str]) -> int:
    """Show it; 1 if anything was not as it should be."""
    parser = Parser(
        "demo",
        "Run two web servers at once, each in a view where /usr/bin/python is another Python, and show what each sees.",
    )
    parser.add_argument(
        "--offline",
        action="store_true",
        help="fetch nothing: take a Python 2.7 that is on this machine",
    )
    args = parser.parse_args(arguments)
    from overlaykit.cli.demo.show import show

    show(offline=args.offline)
    return 0
