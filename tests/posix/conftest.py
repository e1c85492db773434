"""The stages of the table, one for each system, identity and disk, and their end."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import Protocol

import pytest

from .disks import Disk
from .place import ORDINARY_UID, Place
from .stage import Stage
from .table import Identity


class StageOf(Protocol):
    """Gives the stage of a system, an identity and the disk of its upper; `more`: options of ours."""

    def __call__(
        self, system: str, identity: Identity, disk: Disk = "own", more: tuple[str, ...] = ()
    ) -> Stage: ...


@pytest.fixture(scope="session")
def stage_of() -> Iterator[StageOf]:
    """Give the stage of a system and an identity; all are taken down at the end."""
    with stages() as stage_of:
        yield stage_of


@contextlib.contextmanager
def stages() -> Iterator[StageOf]:
    made: dict[str, Stage] = {}
    places: dict[Identity, tuple[Place, str]] = {}
    with contextlib.ExitStack() as cleanup:

        def place_of(identity: Identity) -> tuple[Place, str]:
            if identity not in places:
                # On a disk: overlays want a file system with xattrs and file handles, and /tmp may be none.
                directory = cleanup.enter_context(
                    tempfile.TemporaryDirectory(prefix="overlaykit-posix-", dir="/var/tmp")
                )
                place = Place(unprivileged=identity == "userns", ordinary=identity == "ordinary")
                cleanup.callback(place.close)
                if identity != "root" and os.geteuid() == 0:
                    os.chown(directory, ORDINARY_UID, ORDINARY_UID)
                places[identity] = place, directory
            return places[identity]

        def stage_of(
            system: str, identity: Identity, disk: Disk = "own", more: tuple[str, ...] = ()
        ) -> Stage:
            place, directory = place_of(identity)
            name = "-".join((system, disk, *more))
            key = f"{name}-{identity}"
            if key not in made:
                base = os.path.join(directory, name)
                stage = Stage(system, identity, place, base, disk, more)
                cleanup.callback(stage.close)
                made[key] = stage
            return made[key]

        yield stage_of
