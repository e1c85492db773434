"""Run apt-get on a private state.

Its lists, caches, sources and dpkg status are in one directory, so it works for an ordinary user and writes no file of
the system. Proxies, keys and passwords are those of the machine. Source of the options: apt.conf(5), apt-get(8).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence

from overlaykit.errors import Error
from overlaykit.layers.aptsources import DebianMirror
from overlaykit.layers.program import errors_of

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


class PrivateApt:
    """apt with its state in `directory`, for packages of `suite`."""

    def __init__(self, directory: str, suite: str) -> None:
        for program in ("apt-get", "setpriv"):
            if shutil.which(program) is None:
                raise AptMissing(program)
        self._directory = directory
        self._suite = suite
        for part in ("state/lists/partial", "cache/archives/partial", "sources", "none"):
            os.makedirs(self._path(part))
        self._write("clear.conf", _CLEARED)

    def update(self, mirror: DebianMirror) -> None:
        """Fetch the package lists of the suite, and of its security updates if the mirror has them.

        Raises:
          UnknownSuite, UntrustedSuite, MirrorUnreachable: see their messages.
        """
        stanzas = [mirror.main.for_suite(self._suite)]
        if mirror.security is not None:
            with_security = [*stanzas, mirror.security.for_suite(f"{self._suite}-security")]
            status, messages = self._try_update(with_security)
            if status == 0:
                return
            error = self._error(messages, "the package lists")
            if not isinstance(error, UnknownSuite):
                raise error
            # Not every suite has security updates (unstable, a new testing).
        status, messages = self._try_update(stanzas)
        if status != 0:
            raise self._error(messages, "the package lists")

    def download(self, packages: Sequence[str], installed: Iterable[str]) -> list[str]:
        """Fetch the packages that installing `packages` adds to the stanzas `installed`; their paths.

        Raises:
          UnknownPackage, MirrorUnreachable, Unsatisfiable: see their messages.
        """
        self._write("status", "\n\n".join([*installed, ""]))
        status, messages = self._run(
            *("-y", "--no-install-recommends", "--no-remove", "--download-only", "install", "--"),
            *packages,
        )
        if status != 0:
            raise self._error(messages, ", ".join(packages))
        archives = self._path("cache/archives")
        debs = sorted(name for name in os.listdir(archives) if name.endswith(".deb"))
        return [os.path.join(archives, name) for name in debs]

    def _try_update(self, stanzas: list[str]) -> tuple[int, str]:
        self._write("sources/debian.sources", "\n".join(stanzas))
        return self._run("--error-on=any", "update")

    def _run(self, *arguments: str) -> tuple[int, str]:
        """Run apt-get. Returns: its exit status and its messages."""
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
            # apt's own user could not enter the directory.
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
        }
        # apt-get ends with this process, which removes the directory.
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
        return errors_of(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
        )

    def _error(self, messages: str, wanted: str) -> Error:
        """The error for apt's messages, which are many lines and name hosts."""
        unknown = re.findall(
            r"Unable to locate package (\S+)|Package '(\S+)' has no installation candidate",
            messages,
        )
        if unknown:
            return UnknownPackage(", ".join(a or b for a, b in unknown), self._suite)
        if re.search(r"NO_PUBKEY|is not signed|EXPKEYSIG|signatures? (were|was|couldn)", messages):
            return UntrustedSuite(self._suite)
        if re.search(r"have a Release file|/dists/\S+ +(404|.*No such file)", messages):
            return UnknownSuite(self._suite)
        if "Failed to fetch" in messages or "failed to download" in messages:
            return MirrorUnreachable(wanted)
        lines = [
            line.removeprefix("E: ") for line in messages.splitlines() if line.startswith("E: ")
        ]
        return Unsatisfiable(wanted, self._suite, lines[0] if lines else "apt gave no reason")

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)

    def _write(self, name: str, text: str) -> None:
        with open(self._path(name), "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
