"""overlaykit's own mount, which counts its requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.systems.mounting import Directories, Mounting
from overlaykit.fuse import control
from overlaykit.views import Registry, mount, parse_options


@dataclass(frozen=True, slots=True)
class Counted:
    """A tree whose daemon is asked. `control`: the path of its socket."""

    path: str
    control: str

    def requests(self) -> Mapping[str, int]:
        answer = control.ask(self.control, control.Count())
        assert isinstance(answer, control.Counted)
        return answer.requests


class Ours(Mounting):
    """As `overlaykit mount` does it."""

    name = "overlaykit"
    counts = True
    what = "overlaykit mount -o lowerdir={lower},upperdir={upper},workdir={work} {target}"

    def mount(self, directories: Directories) -> Counted:
        lowers = ":".join(directories.lowers)
        options = f"lowerdir={lowers},upperdir={directories.upper},workdir={directories.work}"
        mount(parse_options(options), directories.target)
        return Counted(directories.target, Registry().find(directories.target).control)

    def unmounted(self) -> None:
        Registry().leave()
