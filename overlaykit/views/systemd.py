"""A unit of systemd that runs a named view."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from overlaykit.views.named import NamedView

_UNIT = """\
# Written by 'overlaykit generate systemd {name}'.
[Unit]
Description=overlaykit view {name}
After=network-online.target
Wants=network-online.target

[Service]
# The program becomes the supervisor of the view, which forwards SIGTERM to the command.
ExecStart={program} start --attach {name}
{environment}KillMode=mixed
Restart=on-failure
# Of overlaykit itself: the view cannot start.
RestartPreventExitStatus=125 126 127

[Install]
WantedBy=default.target
"""


def unit(view: NamedView, program: str) -> str:
    """The text of the unit. `program`: the path of overlaykit. Raises: NoSuchView."""
    view.definition()
    data = os.environ.get("XDG_DATA_HOME", "")
    environment = f"Environment={_quoted(f'XDG_DATA_HOME={data}')}\n" if os.path.isabs(data) else ""
    return _UNIT.format(
        name=view.name, program=_quoted(os.path.abspath(program)), environment=environment
    )


def _quoted(text: str) -> str:
    """A word as systemd.service(5) and systemd.syntax(7) read it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if escaped != text or not text.replace("/", "a").isalnum() else text
