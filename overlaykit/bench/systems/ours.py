"""overlaykit's mount, with its request counters."""

from __future__ import annotations

from dataclasses import dataclass

from overlaykit.bench.systems.mounting import Directories, Mounting
from overlaykit.bench.systems.system import Counts
from overlaykit.fuse import control
from overlaykit.views import Registry, mount, parse_options


@dataclass(frozen=True, slots=True)
class Counted:
    """A tree with counters. `control`: the path of the daemon's control socket; `daemon`: its process ID."""

    path: str
    control: str
    daemon: int

    def counts(self) -> Counts:
        measured = control.ask(self.control, control.Stats(), control.Measured)
        native = {kind: latencies.count for kind, latencies in measured.native.items()}
        with open(f"/proc/{self.daemon}/io", encoding="ascii") as file:
            fields = dict(line.split(": ") for line in file.read().splitlines())
        return Counts(measured.requests, native, int(fields["wchar"]))


class Ours(Mounting):
    """A mount as `overlaykit mount` makes it."""

    name = "overlaykit"
    counts = True
    what = "overlaykit mount -o lowerdir={lower},upperdir={upper},workdir={work} {target}"

    def mount(self, directories: Directories) -> Counted:
        lowers = ":".join(directories.lowers)
        options = f"lowerdir={lowers},upperdir={directories.upper},workdir={directories.work}"
        mount(parse_options(options), directories.target)
        found = Registry().find(directories.target)
        return Counted(directories.target, found.control, found.about.daemon)

    def unmounted(self) -> None:
        Registry().remove_if_empty()
