"""The packages that a layer needs so that another version of a program runs over a base."""

from __future__ import annotations

from overlaykit.layers.closure import Package, is_older, lacking, parse_package


def package(name: str, version: str, depends: str = "", provides: str = "") -> Package:
    parsed = parse_package(
        f"Package: {name}\nVersion: {version}\nDepends: {depends}\nProvides: {provides}\n"
    )
    assert parsed is not None
    return parsed


def names(requested: list[str], closure: list[Package], base: list[Package]) -> list[str]:
    return [one.name for one in lacking(requested, closure, base)]


def test_the_base_stands_for_what_it_has_in_a_version_that_will_do() -> None:
    closure = [
        package("tool", "2", "libc6 (>= 2.38), zlib1g (>= 1:1.1), data"),
        package("libc6", "2.41"),
        package("zlib1g", "1:1.3"),
        package("data", "2"),
    ]
    base = [package("libc6", "2.36-9+deb12u1"), package("zlib1g", "1:1.2"), package("tool", "1")]
    assert names(["tool"], closure, base) == ["data", "libc6", "tool"]


def test_an_older_program_keeps_the_newer_libc_of_the_base() -> None:
    closure = [package("tool", "1", "libc6 (>= 2.14)"), package("libc6", "2.31")]
    assert names(["tool"], closure, [package("libc6", "2.36")]) == ["tool"]


def test_packages_tied_to_one_version_come_together() -> None:
    closure = [
        package("perl", "5.32-4", "perl-base (= 5.32-4), libperl5.32 (= 5.32-4)"),
        package("perl-base", "5.32-4", "libc6 (>= 2.29)"),
        package("libperl5.32", "5.32-4", "perl-base (= 5.32-4)"),
    ]
    base = [package("perl", "5.36"), package("perl-base", "5.36"), package("libc6", "2.36")]
    assert names(["perl"], closure, base) == ["libperl5.32", "perl", "perl-base"]


def test_a_package_of_the_base_that_the_layer_replaces_stands_for_nothing() -> None:
    """`all` of the base provides `engine`, and `all` of the layer does not."""
    closure = [
        package("tool", "2", "all (>= 2), engine"),
        package("all", "2"),
        package("engine", "2"),
    ]
    base = [package("all", "1", provides="engine")]
    assert names(["tool"], closure, base) == ["all", "engine", "tool"]


def test_alternatives_and_provided_names_count() -> None:
    closure = [
        package("tool", "1", "mta-a | mta-b, api (>= 2), shell:any"),
        package("mta-b", "1"),
        package("lib-api", "1", provides="api (= 3)"),
        package("dash", "1", provides="shell"),
    ]
    assert names(["tool"], closure, []) == ["dash", "lib-api", "mta-b", "tool"]
    assert names(["tool"], closure, [package("mta-a", "1"), package("x", "9", "", "api")]) == [
        "dash",
        "lib-api",
        "tool",
    ]


def test_a_removed_package_is_not_there() -> None:
    removed = "Package: x\nStatus: deinstall ok config-files\nVersion: 1\n"
    assert parse_package(removed) is None
    assert parse_package(removed.replace("deinstall ok config-files", "install ok installed"))


def test_versions_are_debians() -> None:
    assert is_older("1.0~rc1", "1.0")
    assert is_older("9", "10")
    assert not is_older("1:1", "2")


def test_a_virtual_package_is_its_provider() -> None:
    closure = [package("a-provider", "1", provides="shell"), package("shell", "2")]
    assert names(["shell"], closure, []) == ["shell"]
    assert names(["shell"], closure[:1], []) == ["a-provider"]
