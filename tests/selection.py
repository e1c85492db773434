"""Which tests `make test` leaves out. `make test-all` (pytest --all) runs each, and so does naming one (FILE::TEST).

Left out are:
- a test marked `long`;
- of a test marked `one_in(number)`, all parameters but every so many;
- all but one of the variants of a test, which differ by the user who runs it, the driver, the server, or the overlay
  that made an upper. The test's name chooses the one; its other parameters take turns. So each test runs, and each
  variant runs in its share of them.

Marks keep variants: `as_each_user` where the paths through the code differ by user, above all where a user must not do
something; `in_each_variant` in a test of drivers or of the server. A test that asks `is_root` runs as each user.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable

import pytest

_OF_USERS = ("user", "sandbox", "harness", "identity")
"""Parameters that say who runs a test. That of `user` in tests of views holds the driver and the server too."""

_OF_VARIANTS = (*_OF_USERS, "workspace")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all",
        action="store_true",
        dest="everything",
        help="run long tests, and all variants of each",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("everything") or any("::" in argument for argument in config.args):
        return
    kept = set(chosen(items))
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


def chosen(items: Iterable[pytest.Item]) -> Iterable[pytest.Item]:
    """The tests of `make test` among all."""
    functions: defaultdict[str, defaultdict[object, list[pytest.Item]]]
    functions = defaultdict(lambda: defaultdict(list))
    for item in items:
        if item.get_closest_marker("long") is None:
            name = item.nodeid.partition("[")[0]
            functions[name][_other_parameters(item)].append(item)
    for name, sets in functions.items():
        first = zlib.crc32(name.encode())
        for number, variants in enumerate(sets.values()):
            mark = variants[0].get_closest_marker("one_in")
            step = mark.args[0] if mark else 1
            if number % step == 0:
                yield variants[(first + number // step) % len(variants)]


def _other_parameters(item: pytest.Item) -> object:
    """What tells the test from those of which it is a variant."""
    call = getattr(item, "callspec", None)
    if call is None:
        return ()
    # By identity: the variants of a test share the values of its other parameters, which may not be hashable.
    others: list[object] = [
        (name, id(value)) for name, value in call.params.items() if name not in _OF_VARIANTS
    ]
    who = next((call.params[name] for name in _OF_USERS if name in call.params), None)
    user, variant = who if isinstance(who, tuple) else (who, None)
    if item.get_closest_marker("in_each_variant"):
        others.append(str(variant))
    if item.get_closest_marker("as_each_user") or _asks_who_runs_it(item):
        others.append(user)
    return tuple(others)


def _asks_who_runs_it(item: pytest.Item) -> bool:
    assert isinstance(item, pytest.Function)
    return "is_root" in item.function.__code__.co_names
