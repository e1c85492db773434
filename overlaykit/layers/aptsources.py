"""The Debian mirrors of this machine's apt sources, for another suite.

The mirror, the keys and the options are those of the machine's administrator. Source of both formats: sources.list(5).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from overlaykit.errors import Error

_ONE_LINE = re.compile(r"deb\s+(?:\[([^]]*)\]\s*)?(\S+)\s+(\S+)\s*([^#]*)")
_RENAMED = {"arch": "architectures", "lang": "languages", "target": "targets"}
_NOT_KEPT = ("types", "suites", "targets", "languages", "check-valid-until", "enabled")


class NoDebianMirror(Error):
    message = (
        "no enabled apt source of this machine names a Debian mirror; add one to {0} (a line "
        "'deb URI SUITE main')"
    )


@dataclass(frozen=True, slots=True)
class AptSource:
    """The fields of a deb822 stanza: names in lower case, values as written."""

    fields: Mapping[str, str]

    def words(self, name: str) -> list[str]:
        """The words of a field; none if it is absent."""
        return self.fields.get(name, "").split()

    def names(self, archive: str) -> bool:
        """Whether the path of a URI has a component `archive` (`debian`, `debian-security`)."""
        return any(archive in uri.rstrip("/").split("/") for uri in self.words("uris"))

    def for_suite(self, suite: str) -> str:
        """The stanza for another suite of the same mirror, with the same keys and options."""
        fields = {name: value for name, value in self.fields.items() if name not in _NOT_KEPT}
        # apt does not fetch packages of file: URIs, but those of copy: URIs.
        fields["uris"] = re.sub(r"\bfile:", "copy:", fields["uris"])
        # The lists of an old suite have expired; their signatures are still valid.
        fields |= {
            "types": "deb",
            "suites": suite,
            "targets": "Packages",
            "check-valid-until": "no",
        }
        return "".join(f"{name}: {value}\n" for name, value in fields.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class DebianMirror:
    """The sources of Debian's packages and, if the machine has one, of its security updates."""

    main: AptSource
    security: AptSource | None


def debian_mirror(etc: str = "/etc/apt") -> DebianMirror:
    """Find the Debian entries among the sources below `etc`.

    Raises NoDebianMirror; OSError for files that cannot be read.
    """
    sources = list(_read(etc))
    security = [s for s in sources if any(w.endswith("-security") for w in s.words("suites"))]
    main = [s for s in sources if s.names("debian")]
    # A mirror with both under one path differs only in the suite.
    plain = [s for s in main if s not in security] or main
    if not plain:
        raise NoDebianMirror(os.path.join(etc, "sources.list"))
    return DebianMirror(main=plain[0], security=security[0] if security else None)


def parse_deb822(text: str) -> Iterator[AptSource]:
    """The enabled binary sources of a `.sources` file; values keep their continuation lines."""
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line.startswith("#") or not line.strip():
                continue
            if line[0] in " \t":
                fields[name] = fields.get(name, "") + "\n" + line
            else:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        source = AptSource(fields)
        enabled = fields.get("enabled", "yes").strip().lower() not in ("no", "false", "off", "0")
        if enabled and "deb" in source.words("types"):
            yield source


def parse_one_line(text: str) -> Iterator[AptSource]:
    """The binary sources of a `.list` file."""
    for line in text.splitlines():
        match = _ONE_LINE.match(line.strip())
        if match is None:
            continue
        options, uri, suite, components = match.groups("")
        fields = dict(_options(options.split()))
        fields |= {"types": "deb", "uris": uri, "suites": suite}
        if components:
            fields["components"] = components.strip()
        yield AptSource(fields)


def _options(words: Iterable[str]) -> Iterator[tuple[str, str]]:
    for word in words:
        name, _, value = word.partition("=")
        name = name.lower()
        yield _RENAMED.get(name, name), value.replace(",", " ")


def _read(etc: str) -> Iterator[AptSource]:
    parts = os.path.join(etc, "sources.list.d")
    paths = [os.path.join(etc, "sources.list")]
    if os.path.isdir(parts):
        paths += [os.path.join(parts, name) for name in sorted(os.listdir(parts))]
    for path in paths:
        parse = parse_deb822 if path.endswith(".sources") else parse_one_line
        if path.endswith((".sources", ".list")) and os.path.isfile(path):
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                yield from parse(file.read())
