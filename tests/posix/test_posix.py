"""The table, checked on each system as root, in an unprivileged user namespace, and as an ordinary user.

The plain directory tests the table itself, the kernel's overlayfs shows what an overlay may do, and overlaykit must do
the same. An ordinary user runs the second identity only: the first needs root.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from typing import TYPE_CHECKING

import pytest

from . import behaviours
from .conftest import HarnessOf
from .table import EVERYONE, TABLE, Behaviour, Identity

if TYPE_CHECKING:
    from _pytest.mark import ParameterSet


def import_behaviours() -> None:
    """Fill the table."""
    for module in pkgutil.iter_modules(behaviours.__path__):
        importlib.import_module(f"{behaviours.__name__}.{module.name}")


import_behaviours()


def cases(*systems: str) -> list[ParameterSet]:
    """The table's behaviours on these systems, for each identity that can have them there."""
    return [
        pytest.param(
            system,
            identity,
            behaviour,
            id=f"{system}-{identity}-{behaviour.name}",
            marks=pytest.mark.xdist_group(f"{system}-{identity}"),
        )
        for system in systems
        for identity in (EVERYONE if os.geteuid() == 0 else ("userns",))
        if (system, identity) != ("kernel", "ordinary")  # an ordinary user cannot mount it
        for behaviour in TABLE.values()
        if identity in behaviour.identities
    ]


METACOPIES = [
    pytest.param(
        behaviour, id=behaviour.name, marks=pytest.mark.xdist_group("overlaykit-root-metacopy")
    )
    for behaviour in TABLE.values()
    if "root" in behaviour.identities and not behaviour.read_only and os.geteuid() == 0
]


@pytest.mark.parametrize("behaviour", METACOPIES)
@pytest.mark.one_in(4)
def test_programs_find_it_where_a_change_leaves_the_data_in_a_lower(
    behaviour: Behaviour, harness_of: HarnessOf
) -> None:
    harness_of("overlaykit", "root", more=("metacopy=on",)).check(behaviour)


@pytest.mark.parametrize(("system", "identity", "behaviour"), cases("overlaykit"))
def test_programs_find_what_posix_promises(
    system: str, identity: Identity, behaviour: Behaviour, harness_of: HarnessOf
) -> None:
    harness_of(system, identity).check(behaviour)


@pytest.mark.parametrize(("system", "identity", "behaviour"), cases("plain", "kernel"))
@pytest.mark.one_in(4)
def test_the_table_holds_where_it_was_found(
    system: str, identity: Identity, behaviour: Behaviour, harness_of: HarnessOf
) -> None:
    harness_of(system, identity).check(behaviour)
