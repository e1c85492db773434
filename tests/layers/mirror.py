"""A Debian mirror in a directory, which replaces the machine's in a mount namespace."""

from __future__ import annotations

import hashlib
import os
import subprocess

from overlaykit import _native

from ..posix.syscalls import MS_BIND


class Mirror:
    """A mirror in `directory`: call `add` for each package, then `publish` and `use`."""

    def __init__(self, directory: str) -> None:
        self._root = os.path.join(directory, "debian")
        self._build = os.path.join(directory, "build")
        self._etc = os.path.join(directory, "etc")
        self._covered: list[str] = []
        os.makedirs(os.path.join(self._root, "pool"))
        self._stanzas: list[str] = []

    def add(
        self, package: str, files: dict[str, str], depends: str = "", version: str = "1"
    ) -> str:
        """Build a package of text files, given by absolute path; the path of the .deb."""
        build = os.path.join(self._build, package)
        for path, text in files.items():
            path = build + path
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as file:
                file.write(text)
        os.makedirs(os.path.join(build, "DEBIAN"))
        control = (
            f"Package: {package}\nVersion: {version}\nArchitecture: all\n"
            "Maintainer: nobody\nDescription: a test\n"
        )
        if depends:
            control += f"Depends: {depends}\n"
        with open(os.path.join(build, "DEBIAN/control"), "w") as file:
            file.write(control)
        name = f"pool/{package}_{version}_all.deb"
        deb = os.path.join(self._root, name)
        command = ["dpkg-deb", "--root-owner-group", "--build", build, deb]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        self.describe(deb, control)
        return deb

    def describe(self, deb: str, control: str, *, instead: bool = False) -> None:
        """Add a .deb to the index, or replace the last one (`instead`)."""
        if instead:
            self._stanzas.pop()
        with open(deb, "rb") as file:
            data = file.read()
        name = os.path.relpath(deb, self._root)
        digest = hashlib.sha256(data).hexdigest()
        self._stanzas.append(f"{control}Filename: {name}\nSize: {len(data)}\nSHA256: {digest}\n")

    def publish(self, suite: str = "test") -> None:
        """Write the suite's index."""
        architecture = subprocess.run(
            ["dpkg", "--print-architecture"], check=True, capture_output=True, text=True
        ).stdout.strip()
        name = f"main/binary-{architecture}/Packages"
        suite_path = os.path.join(self._root, "dists", suite)
        os.makedirs(os.path.dirname(os.path.join(suite_path, name)))
        index = "\n".join([*self._stanzas, ""]).encode()
        with open(os.path.join(suite_path, name), "wb") as file:
            file.write(index)
        with open(os.path.join(suite_path, "Release"), "w") as file:
            file.write(
                f"Suite: {suite}\nCodename: {suite}\nArchitectures: {architecture}\nComponents: main\n"
                "Date: Sat, 01 Jan 2022 00:00:00 UTC\nValid-Until: Sun, 02 Jan 2022 00:00:00 UTC\n"
                f"SHA256:\n {hashlib.sha256(index).hexdigest()} {len(index)} {name}\n"
            )

    def use(self, trusted: str = "yes") -> None:
        """Make it the only apt source in this mount namespace."""
        os.makedirs(self._etc)
        with open(os.path.join(self._etc, "test.sources"), "w") as file:
            file.write(
                f"Types: deb\nURIs: file:{self._root}\nSuites: stable\nComponents: main\nTrusted: {trusted}\n"
            )
        covers = {"/etc/apt/sources.list.d": self._etc}
        # debootstrap writes it.
        if os.path.exists("/etc/apt/sources.list"):
            covers["/etc/apt/sources.list"] = os.devnull
        for path, cover in covers.items():
            _native.mount(cover, path, None, MS_BIND)
            self._covered.append(path)

    def leave(self) -> None:
        """Uncover the machine's apt sources."""
        while self._covered:
            _native.umount2(self._covered.pop(), 0)
