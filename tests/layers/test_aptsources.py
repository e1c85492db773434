from __future__ import annotations

import os

import pytest

from overlaykit.layers.aptsources import NoDebianMirror, debian_mirror, parse_deb822, parse_one_line

from .conftest import User


def test_every_option_of_a_one_line_source_is_kept_for_another_suite() -> None:
    (source,) = parse_one_line(
        "# a comment\n"
        "deb-src file:/srv/debian bookworm main\n"
        "deb [ arch=amd64,arm64 signed-by=/k.gpg lang=de ] file:/srv/debian bookworm main contrib # x\n"
    )
    assert source.for_suite("bullseye") == (
        "architectures: amd64 arm64\n"
        "signed-by: /k.gpg\n"
        "uris: copy:/srv/debian\n"
        "components: main contrib\n"
        "types: deb\n"
        "suites: bullseye\n"
        "targets: Packages\n"
        "check-valid-until: no\n"
    )


def test_a_key_written_into_a_stanza_is_kept_whole() -> None:
    (source,) = parse_deb822(
        "Types: deb deb-src\n"
        "# comment\n"
        "URIs: file:/srv/debian\n"
        "Suites: bookworm\n"
        " bookworm-updates\n"
        "Components: main\n"
        "Signed-By:\n"
        " -----BEGIN PGP PUBLIC KEY BLOCK-----\n"
        " .\n"
        " key\n"
        " -----END PGP PUBLIC KEY BLOCK-----\n"
    )
    assert source.words("suites") == ["bookworm", "bookworm-updates"]
    assert (
        "signed-by: \n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n key\n -----END"
        in source.for_suite("bullseye")
    )


def test_sources_that_are_switched_off_are_not_used() -> None:
    off = "Types: deb\nURIs: file:/srv/debian\nSuites: x\nEnabled: no\n\nTypes: deb-src\nURIs: file:/srv\n"
    assert list(parse_deb822(off)) == []
    assert list(parse_one_line("#deb file:/srv/debian bookworm main\n")) == []


def test_debian_is_found_among_other_sources_of_both_formats(user: User) -> None:
    os.mkdir(user.path("sources.list.d"))
    files = {
        "sources.list": "deb file:/srv/node nodistro main\n",
        "sources.list.d/a.list": "deb cdrom:[Debian 12 _Bookworm_]/ bookworm main\n",
        "sources.list.d/b.sources": (
            "Types: deb\nURIs: file:/srv/debian/\nSuites: bookworm\nComponents: main\n\n"
            "Types: deb\nURIs: file:/srv/debian-security\nSuites: bookworm-security\nComponents: main\n"
        ),
        "sources.list.d/c.list.disabled": "deb file:/srv/other/debian bookworm main\n",
    }
    for name, text in files.items():
        with open(user.path(name), "w") as file:
            file.write(text)
    mirror = user.run(lambda: debian_mirror(user.home))
    assert mirror.main.words("uris") == ["file:/srv/debian/"]
    assert mirror.security is not None
    assert mirror.security.words("uris") == ["file:/srv/debian-security"]


def test_a_machine_without_a_debian_mirror_gets_the_line_to_write(user: User) -> None:
    with pytest.raises(NoDebianMirror, match=r"add one to .*/sources\.list "):
        user.run(lambda: debian_mirror(user.home))
