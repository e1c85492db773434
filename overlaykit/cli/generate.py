"""`overlaykit generate`: a unit of systemd for a named view."""

from __future__ import annotations

from overlaykit.cli.arguments import Parser


def parser() -> Parser:
    """The command's parser."""
    command = Parser(
        "generate",
        "Print a unit that has systemd start a named view.",
        epilog="For a user: overlaykit generate systemd VIEW > ~/.config/systemd/user/overlaykit-VIEW.service, then\n"
        "'systemctl --user enable --now overlaykit-VIEW'; 'loginctl enable-linger' starts it without a login.",
    )
    command.add_argument("what", choices=("systemd",))
    command.add_argument("view", metavar="VIEW")
    return command


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    import shutil
    import sys

    from overlaykit.views import named, systemd

    program = shutil.which("overlaykit") or sys.argv[0]
    print(systemd.unit(named.NamedView(args.view), program), end="")
    return 0
