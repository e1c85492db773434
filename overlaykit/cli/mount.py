"""`overlaykit mount`: layers over a directory, with the options of `mount -t overlay`."""

from __future__ import annotations

from typing import Final

from overlaykit.cli.arguments import Parser

_EPILOG: Final = """\
options:
  lowerdir=TOP:...:BOTTOM   the directories to be merged; '\\:' for a colon in a name
  upperdir=DIR,workdir=DIR  where changes go, and a directory beside it for work in progress
  ro                        refuse to write, also with an upperdir
  redirect_dir=on|off|follow|nofollow
                            whether directories of a lower can be renamed, and renamed ones are followed (default: on)
  index=on|off              whether hard links of a lower stay one file once it is written to (default: on)
  userxattr                 marks as user.overlay.* even where trusted.overlay.* could be written
  volatile                  sync nothing: after a crash the upper is worth nothing
  squash_to_root, squash_to_uid=N, squash_to_gid=N
                            show every file as root's, or as that user's or group's
  uidmapping=HOST:CONTAINER:COUNT[:...], gidmapping=...
                            show users or groups of the host as others
  xattr_permissions=0|1|2   keep owners and modes in an attribute, the files staying one's own: 1, in one that takes
                            root (security.), 2, in one of the user's (default: 0)
  noacl, noxattr            heed no access control lists; have no extended attributes"""


def main(arguments: list[str]) -> int:
    parser = Parser(
        "mount", "Mount layers over a directory, as 'mount -t overlay' does.", epilog=_EPILOG
    )
    parser.add_argument("-o", dest="options", metavar="OPTIONS", required=True, help="see below")
    parser.add_argument("--name", help="a name for 'ps' and 'explain' (default: made up)")
    parser.add_argument("target", metavar="TARGET", help="an empty directory")
    args = parser.parse_args(arguments)
    from overlaykit.views import mount, parse_options

    mount(parse_options(args.options), args.target, name=args.name)
    return 0
