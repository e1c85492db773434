"""Ask apt which .deb files a set of packages adds to what a base has installed, and have it fetch them.

Packages that fit beside what is installed come with what the base lacks. Of packages that do not (another version of
what the base has, or one that needs a newer libc), apt resolves all that the suite itself says they need, and `closure`
leaves out what the base can stand for.

apt runs on a private state: its lists, caches, sources and idea of what is installed are in a directory of ours, so it
works for an ordinary user and writes nothing of the system's. Proxies, keys and passwords stay the machine's own.
Source of the options: apt.conf(5), apt-get(8).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence

from overlaykit.errors import Error
from overlaykit.layers.aptsources import DebianMirror, debian_mirror
from overlaykit.layers.closure import Package, is_older, lacking, parse_package

_LINKED_BY_ALL = ("libc6", "libgcc-s1", "libstdc++6")
"""Libraries of which an older one breaks the base's own programs."""

_CLEARED = "".join(
    f"#clear {name};\n"
    for name in (
        # A machine's hooks act on the system's own caches (Docker's images empty them, for one).
        "APT::Update::Pre-Invoke",
        "APT::Update::Post-Invoke",
        "APT::Update::Post-Invoke-Success",
        "APT::Install::Pre-Invoke",
        "APT::Install::Post-Invoke-Success",
        "DPkg::Pre-Invoke",
        "DPkg::Post-Invoke",
        "DPkg::Pre-Install-Pkgs",
        # Only the native architecture's lists are needed, and all that is fetched.
        "APT::Architectures",
    )
)


class AptMissing(Error):
    message = (
        "the program {0} is not here: deb: layers are made on Debian and its derivatives; use "
        "dir: or tar:"
    )


class UnknownPackage(Error):
    message = "the suite {1} has no package {0} to install; check the name and the suite"


class UnknownSuite(Error):
    message = (
        "the Debian mirror that this machine's apt sources name has no suite {0}; check its "
        "name, or use another mirror"
    )


class UntrustedSuite(Error):
    message = (
        "the suite {0} is not signed by a key this machine trusts; install a newer "
        "debian-archive-keyring"
    )


class MirrorUnreachable(Error):
    message = (
        "cannot fetch {0} from the mirror that this machine's apt sources name; check the "
        "network and 'apt-get update'"
    )


class Unsatisfiable(Error):
    message = (
        "{0} from {1} does not fit what the base has installed ({2}); choose another suite or base"
    )


class NothingToAdd(Error):
    message = (
        "the base already has {0} in the version of suite {1}, so the layer would be empty; name "
        "another package or suite"
    )


class PrivateApt:
    """apt on a state of its own below `directory`, for which a dpkg `status` file says what is installed."""

    def __init__(self, directory: str, suite: str, status: str | None) -> None:
        for program in ("apt-get", "setpriv"):
            if shutil.which(program) is None:
                raise AptMissing(program)
        self._directory = directory
        self._suite = suite
        self._installed = _stanzas(status)
        for part in ("state/lists/partial", "cache/archives/partial", "sources", "none"):
            os.makedirs(self._path(part))
        self._write("clear.conf", _CLEARED)

    def fetch(self, packages: Sequence[str]) -> list[str]:
        """The paths of the .deb files that a layer of `packages` holds, fetched; sorted, never none.

        The packages come in the suite's version, also where the base has another.
        Raises UnknownPackage, UnknownSuite, UntrustedSuite, MirrorUnreachable, Unsatisfiable, NothingToAdd.
        """
        self._update(debian_mirror())
        plain = [name.partition(":")[0] for name in packages]
        base = [stanza for stanza in self._installed if not set(plain) & set(_named(stanza))]
        try:
            debs = self._download(packages, base)
        except Unsatisfiable as misfit:
            debs = self._own_closure(packages, plain, misfit)
        had = {one.name: one.version for one in filter(None, map(parse_package, self._installed))}
        found = _versions(debs)  # without those that cannot be read, which unpacking will say
        if not debs or all(name in found and found[name] == had.get(name) for name in plain):
            raise NothingToAdd(", ".join(packages), self._suite)
        return debs

    def _download(self, packages: Sequence[str], installed: Iterable[str]) -> list[str]:
        """Fetch what installing `packages` beside the stanzas `installed` would add; the paths."""
        self._write("status", "\n\n".join([*installed, ""]))
        result = self._run(
            *("-y", "--no-install-recommends", "--no-remove", "--download-only", "install", "--"),
            *packages,
        )
        if result.returncode != 0:
            raise self._mistake(result.stderr, ", ".join(packages))
        archives = self._path("cache/archives")
        debs = sorted(name for name in os.listdir(archives) if name.endswith(".deb"))
        return [os.path.join(archives, name) for name in debs]

    def _own_closure(
        self, packages: Sequence[str], plain: Sequence[str], misfit: Unsatisfiable
    ) -> list[str]:
        """The packages with all that the suite says they need, less what the base can stand for."""
        try:
            debs = self._download(packages, [])
        except Unsatisfiable:  # a suite that is not complete: what the base lacks is what counts
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

    def _update(self, mirror: DebianMirror) -> None:
        stanzas = [mirror.main.asking_for(self._suite)]
        if mirror.security is not None:
            with_security = [*stanzas, mirror.security.asking_for(f"{self._suite}-security")]
            result = self._try_update(with_security)
            if result.returncode == 0:
                return
            error = self._mistake(result.stderr, "the package lists")
            if not isinstance(error, UnknownSuite):
                raise error
            # not every suite has security updates (unstable, testing's early days): go without
        result = self._try_update(stanzas)
        if result.returncode != 0:
            raise self._mistake(result.stderr, "the package lists")

    def _try_update(self, stanzas: list[str]) -> subprocess.CompletedProcess[str]:
        self._write("sources/debian.sources", "\n".join(stanzas))
        return self._run("--error-on=any", "update")

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        options = {
            "Dir::State": self._path("state"),
            "Dir::State::lists": self._path("state/lists"),
            "Dir::State::status": self._path("status"),
            "Dir::Cache": self._path("cache"),
            "Dir::Cache::archives": self._path("cache/archives"),
            "Dir::Log": self._path("none"),
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": self._path("sources"),
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": self._path("none"),
            "APT::Sandbox::User": "root",  # its own user could not enter our directory
            "Acquire::Languages": "none",
        }
        # apt-get must not go on filling a directory that nobody waits for any more.
        command = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "apt-get",
            "-qq",
            "-c",
            self._path("clear.conf"),
        ]
        for name, value in options.items():
            command += ["-o", f"{name}={value}"]
        return subprocess.run(
            [*command, *arguments],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
        )

    def _mistake(self, stderr: str, wanted: str) -> Error:
        """What apt's complaint means. Its own words are not repeated: they are many lines and name hosts."""
        unknown = re.findall(
            r"Unable to locate package (\S+)|Package '(\S+)' has no installation candidate", stderr
        )
        if unknown:
            return UnknownPackage(", ".join(a or b for a, b in unknown), self._suite)
        if re.search(r"NO_PUBKEY|is not signed|EXPKEYSIG|signatures? (were|was|couldn)", stderr):
            return UntrustedSuite(self._suite)
        if re.search(r"have a Release file|/dists/\S+ +(404|.*No such file)", stderr):
            return UnknownSuite(self._suite)
        if "Failed to fetch" in stderr or "failed to download" in stderr:
            return MirrorUnreachable(wanted)
        lines = [line.removeprefix("E: ") for line in stderr.splitlines() if line.startswith("E: ")]
        return Unsatisfiable(wanted, self._suite, lines[0] if lines else "apt gave no reason")

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)

    def _write(self, name: str, text: str) -> None:
        with open(self._path(name), "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)


def _stanzas(status: str | None) -> list[str]:
    """The stanzas of a dpkg status file, as text."""
    if status is None:
        return []
    with open(status, encoding="utf-8", errors="surrogateescape") as file:
        return [stanza for stanza in re.split(r"\n\n+", file.read()) if stanza.strip()]


def _named(stanza: str) -> list[str]:
    return re.findall(r"^Package: *(\S+)", stanza, re.MULTILINE)


def _package(deb: str) -> Package | None:
    """What a .deb file says of itself; None if it cannot be read, which unpacking it will say."""
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
    """The packages that the .deb files hold, by name."""
    return {package.name: package.version for package in filter(None, map(_package, debs))}
