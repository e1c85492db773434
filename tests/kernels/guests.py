"""Runs of guests, as the tests see them."""

from __future__ import annotations

import os

from overlaykit.machine import boot
from overlaykit.machine.boot import Machine
from overlaykit.machine.guest import Command

from . import rig

ENOUGH = 600
"""Seconds: a guest that works needs few."""


class Guest:
    """Runs commands in guests, each in a new one."""

    def __init__(self, machine: Machine, directory: str | os.PathLike[str]) -> None:
        self.machine = machine
        self.log = os.path.join(directory, "log")
        self.output = b""

    def run(
        self, *arguments: str, directory: str = rig.ROOT, seconds: float | None = ENOUGH
    ) -> boot.End:
        return boot.run(
            self.machine,
            Command(arguments, directory, rig.VARIABLES),
            output=self.take,
            log=self.log,
            seconds=seconds,
        )

    def take(self, part: bytes) -> None:
        self.output += part
