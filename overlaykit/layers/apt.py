"""Resolve and fetch the .deb files that a set of packages adds to a base.

Packages that can be installed in the base are fetched with the dependencies that it lacks. For others (another version
of a package of the base, or a newer libc needed), apt resolves the full closure in the suite, and `closure` leaves out
the packages that the base can replace.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence

from overlaykit.errors import Error
from overlaykit.layers.aptsources import debian_mirror
from overlaykit.layers.closure import Package, is_older, lacking, parse_package
from overlaykit.layers.privateapt import PrivateApt, Unsatisfiable

_LINKED_BY_ALL = ("libc6", "libgcc-s1", "libstdc++6")
"""Libraries whose older versions break the programs of the base."""


class NothingToAdd(Error):
    message = (
        "the base already has {0} in the version of suite {1}, so the layer would be empty; name "
        "another package or suite"
    )


class PackageResolver:
    """Resolves packages of `suite` for a base with the dpkg `status` file; apt's state is in `directory`."""

    def __init__(self, directory: str, suite: str, status: str | None) -> None:
        self._apt = PrivateApt(directory, suite)
        self._suite = suite
        self._installed = _stanzas(status)

    def fetch(self, packages: Sequence[str]) -> list[str]:
        """Fetch the .deb files of a layer of `packages`; their sorted paths.

        The packages have the suite's version, also where the base has another one.

        Raises:
          UnknownPackage, UnknownSuite, UntrustedSuite, MirrorUnreachable, Unsatisfiable, NothingToAdd: see their
            messages.
        """
        self._apt.update(debian_mirror())
        plain = [name.partition(":")[0] for name in packages]
        base = [stanza for stanza in self._installed if not set(plain) & set(_named(stanza))]
        try:
            debs = self._apt.download(packages, base)
        except Unsatisfiable as misfit:
            debs = self._reduced_closure(packages, plain, misfit)
        had = {one.name: one.version for one in filter(None, map(parse_package, self._installed))}
        # Without unreadable files, which unpacking reports.
        found = _versions(debs)
        if not debs or all(name in found and found[name] == had.get(name) for name in plain):
            raise NothingToAdd(", ".join(packages), self._suite)
        return debs

    def _reduced_closure(
        self, packages: Sequence[str], plain: Sequence[str], misfit: Unsatisfiable
    ) -> list[str]:
        """The closure of the packages in the suite, without the packages that the base can replace."""
        try:
            debs = self._apt.download(packages, [])
        # The suite is not complete: report the conflict with the base.
        except Unsatisfiable:
            raise misfit from None
        closure = {package: deb for deb in debs if (package := _package(deb)) is not None}
        base = [one for one in map(parse_package, self._installed) if one is not None]
        added = lacking(plain, closure, base)
        had = {package.name: package.version for package in base}
        for package in added:
            name = package.name
            if name in _LINKED_BY_ALL and name in had and is_older(package.version, had[name]):
                reason = f"{name} {package.version}, older than the base's {had[name]}, comes along"
                raise Unsatisfiable(", ".join(packages), self._suite, reason)
        return [closure[package] for package in added]


def _stanzas(status: str | None) -> list[str]:
    """The stanzas of a dpkg status file, as text."""
    if status is None:
        return []
    with open(status, encoding="utf-8", errors="surrogateescape") as file:
        return [stanza for stanza in re.split(r"\n\n+", file.read()) if stanza.strip()]


def _named(stanza: str) -> list[str]:
    return re.findall(r"^Package: *(\S+)", stanza, re.MULTILINE)


def _package(deb: str) -> Package | None:
    """The package in a .deb file; None if it cannot be read, which unpacking reports."""
    command = ["dpkg-deb", "--field", deb]
    shown = subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
    )
    return parse_package(shown.stdout) if shown.returncode == 0 else None


def _versions(debs: Iterable[str]) -> dict[str, str]:
    """The versions of the packages in .deb files, by name."""
    return {package.name: package.version for package in filter(None, map(_package, debs))}
