"""The packages of a closure that a base lacks, by Debian's dependencies.

apt resolves the closure of packages in a suite, but not which of it a base with other versions can replace. Source of
the fields and of their meaning: Debian Policy, chapters 5 and 7.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

_RELATION = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9+.-]+)(?::[a-z0-9-]+)?\s*"
    r"(?:\((?P<operator><<|<=|=|>=|>>)\s*(?P<version>[^\s)]+)\s*\))?"
)
_OPERATORS = {"<<": "lt", "<=": "le", "=": "eq", ">=": "ge", ">>": "gt"}
"""The names of the operators in dpkg(1)."""


@dataclass(frozen=True, slots=True)
class Relation:
    """A relation to a package, and to its version if `operator` is one of `<<`, `<=`, `=`, `>=`, `>>`."""

    name: str
    operator: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One version of a package. `depends` holds groups of alternatives."""

    name: str
    version: str
    provides: tuple[Relation, ...] = ()
    depends: tuple[tuple[Relation, ...], ...] = field(default=())


def parse_package(stanza: str) -> Package | None:
    """Parse a stanza of a control or status file; None for a package that is not installed."""
    fields = dict(_fields(stanza))
    if not fields.get("Status", "ok installed").endswith(" installed"):
        return None
    if "Package" not in fields or "Version" not in fields:
        return None
    groups = ",".join(fields.get(name, "") for name in ("Pre-Depends", "Depends")).split(",")
    return Package(
        name=fields["Package"],
        version=fields["Version"],
        provides=tuple(_relations(fields.get("Provides", "").split(","))),
        depends=tuple(
            tuple(_relations(group.split("|"))) for group in groups if not group.isspace() and group
        ),
    )


def lacking(
    requested: Iterable[str], closure: Iterable[Package], base: Iterable[Package]
) -> list[Package]:
    """The packages of `closure` to add to `base`: the `requested` ones, and the dependencies that it lacks.

    A package of the base in a fitting version satisfies a dependency. Conflicts are ignored: a file of the layer
    shadows the base's.
    """
    installed = _index(base)
    offered = _index(closure)
    added: dict[str, Package] = {}
    for name in requested:
        # A package of that name before one that provides it.
        found = sorted(_satisfying(Relation(name), offered), key=lambda one: one.name != name)
        added |= {one.name: one for one in found[:1]}
    missing = True
    # An added package may shadow one that satisfied a dependency.
    while missing:
        missing = False
        for group in [group for package in added.values() for group in package.depends]:
            kept = (one for relation in group for one in _satisfying(relation, installed))
            found = [one for relation in group for one in _satisfying(relation, offered)][:1]
            if any(one.name not in added for one in kept) or not found or found[0].name in added:
                continue
            added[found[0].name] = found[0]
            missing = True
    return sorted(added.values(), key=lambda package: package.name)


def is_older(version: str, other: str) -> bool:
    """Whether a version is older than another: deb-version(7)."""
    return _holds(version, "<<", other)


_Index = Mapping[str, list[tuple[Package, str]]]
"""Packages by each name they have or provide, with the version under that name."""


def _index(packages: Iterable[Package]) -> _Index:
    index: dict[str, list[tuple[Package, str]]] = {}
    for package in packages:
        index.setdefault(package.name, []).append((package, package.version))
        for provided in package.provides:
            index.setdefault(provided.name, []).append((package, provided.version))
    return index


def _satisfying(relation: Relation, index: _Index) -> Iterator[Package]:
    for package, version in index.get(relation.name, ()):
        # A name provided without a version satisfies no relation with one (Policy 7.5).
        if not relation.operator or (
            version and _holds(version, relation.operator, relation.version)
        ):
            yield package


def _holds(version: str, operator: str, other: str) -> bool:
    command = ["dpkg", "--compare-versions", version, _OPERATORS[operator], other]
    return subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0


def _relations(texts: Iterable[str]) -> Iterator[Relation]:
    for text in texts:
        match = _RELATION.match(text.strip())
        if match:
            yield Relation(match["name"], match["operator"] or "", match["version"] or "")


def _fields(stanza: str) -> Iterator[tuple[str, str]]:
    """The fields of a stanza; continuation lines begin with a space."""
    for text in re.split(r"\n(?=[^\s])", stanza.strip("\n")):
        name, colon, value = text.partition(":")
        if colon:
            yield name, " ".join(value.split())
