"""The stages of the table, one for each system and identity, and their end."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator

import pytest

from .place import ORDINARY_UID, Place
from .stage import Stage
from .table import Identity


@pytest.fixture(scope="session")
def stage_of() -> Iterator[Callable[[str, Identity], Stage]]:
    """Give the stage of a system and an identity; all are taken down at the end."""
    stages: dict[tuple[str, Identity], Stage] = {}
    places: dict[Identity, tuple[Place, str]] = {}
    with contextlib.ExitStack() as cleanup:

        def place_of(identity: Identity) -> tuple[Place, str]:
            if identity not in places:
                # On a disk: overlays want a file system with xattrs and file handles, and /tmp may be none.
                directory = cleanup.enter_context(
                    tempfile.TemporaryDirectory(prefix="overlaykit-posix-", dir="/var/tmp")
                )
                place = Place(unprivileged=identity == "userns")
                cleanup.callback(place.close)
                if place.unprivileged and os.geteuid() == 0:
                    os.chown(directory, ORDINARY_UID, ORDINARY_UID)
                places[identity] = place, directory
            return places[identity]

        def stage_of(system: str, identity: Identity) -> Stage:
            if (system, identity) not in stages:
                place, directory = place_of(identity)
                stage = Stage(system, identity, place, os.path.join(directory, system))
                cleanup.callback(stage.close)
                stages[system, identity] = stage
            return stages[system, identity]

        yield stage_of
