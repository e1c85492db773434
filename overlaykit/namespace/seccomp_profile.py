"""Read a seccomp profile: JSON as podman's --security-opt seccomp=FILE takes it.

Its two forms are that of containers/common, with rules for machines and capabilities, and that of the OCI runtime
specification (config-linux.md, Seccomp).
"""

from __future__ import annotations

import errno
import json

from overlaykit.errors import Error
from overlaykit.namespace.capabilities import NAMES
from overlaykit.namespace.seccomp_rules import (
    ALLOW,
    EQ,
    GE,
    GT,
    KILL_PROCESS,
    KILL_THREAD,
    LE,
    LOG,
    LT,
    MASKED_EQ,
    NE,
    TRAP,
    Comparison,
    Profile,
    Rule,
    refuse,
    trace,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

_ACTIONS: Final = {
    "SCMP_ACT_ALLOW": ALLOW,
    "SCMP_ACT_KILL": KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": KILL_PROCESS,
    "SCMP_ACT_TRAP": TRAP,
    "SCMP_ACT_LOG": LOG,
}
_WITH_NUMBER: Final = {"SCMP_ACT_ERRNO": refuse, "SCMP_ACT_TRACE": trace}
_OPERATORS: Final = {
    "SCMP_CMP_NE": NE,
    "SCMP_CMP_LT": LT,
    "SCMP_CMP_LE": LE,
    "SCMP_CMP_EQ": EQ,
    "SCMP_CMP_GE": GE,
    "SCMP_CMP_GT": GT,
    "SCMP_CMP_MASKED_EQ": MASKED_EQ,
}
_NATIVE: Final = {"SCMP_ARCH_X86_64": "x86_64", "SCMP_ARCH_AARCH64": "aarch64"}
_PREFIX: Final = "SCMP_ARCH_"


class BadProfile(Error):
    message = (
        "--security-opt seccomp={0}: {1}; give a profile in JSON as podman takes it, or unconfined"
    )


def read(path: str) -> Profile:
    """The profile in a file. Raises: BadProfile."""
    try:
        with open(path, encoding="utf-8") as file:
            return parse(json.load(file))
    except OSError as error:
        raise BadProfile(path, error.strerror) from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise BadProfile(path, what.replace("\n", " ")) from None


def parse(profile: Any) -> Profile:
    """The profile of a JSON document. Raises: ValueError and others of a document of another form."""
    rules: list[Rule] = []
    for entry in profile.get("syscalls") or ():
        rules += _rules(entry)
    return Profile(
        default=_action(profile, "defaultAction", "defaultErrnoRet"),
        rules=tuple(rules),
        others=_others(profile),
    )


def _rules(entry: Any) -> list[Rule]:
    """The rule of an entry; two comparisons of one argument are two rules, as in crun and runc."""
    includes, excludes = (entry.get(key) or {} for key in ("includes", "excludes"))
    comparisons = [_comparison(one) for one in entry.get("args") or ()]
    names = [*(entry.get("names") or ()), *([entry["name"]] if entry.get("name") else ())]
    if not all(isinstance(name, str) for name in names):
        raise ValueError("a name is no text")
    excluded = excludes.get("arches") or ()
    if excluded:
        raise ValueError("excludes.arches is not supported")
    rule = Rule(
        action=_action(entry, "action", "errnoRet"),
        names=tuple(names),
        with_capabilities=_capabilities(includes),
        without_capabilities=_capabilities(excludes),
        machines=tuple(includes.get("arches") or ()),
    )
    arguments = [one.argument for one in comparisons]
    if len(set(arguments)) < len(arguments):
        return [rule.replace(comparisons=(one,)) for one in comparisons]
    return [rule.replace(comparisons=tuple(comparisons))]


def _action(entry: Any, key: str, number: str) -> int:
    name = entry[key]
    if name in _WITH_NUMBER:
        given = entry.get(number)
        return _WITH_NUMBER[name](errno.EPERM if given is None else int(given) & 0xFFFF)
    if name not in _ACTIONS:
        raise ValueError(f"{name!r} is no action")
    return _ACTIONS[name]


def _comparison(one: Any) -> Comparison:
    if one["op"] not in _OPERATORS:
        raise ValueError(f"{one['op']!r} is no comparison")
    operator = _OPERATORS[one["op"]]
    index, value, second = (int(one.get(key) or 0) for key in ("index", "value", "valueTwo"))
    if not 0 <= index < 6:
        raise ValueError(f"{index} is the index of no argument")
    if operator == MASKED_EQ:
        return Comparison(index, operator, second, mask=value)
    return Comparison(index, operator, value)


def _capabilities(condition: Any) -> frozenset[int]:
    names = condition.get("caps") or ()
    for name in names:
        if name not in NAMES:
            raise ValueError(f"{name!r} is no capability")
    return frozenset(map(NAMES.index, names))


def _others(profile: Any) -> dict[str, tuple[str, ...]]:
    """Of a list of architectures, those but the native one; of a map, its sub-architectures."""
    if profile.get("architectures"):
        named = tuple(name.removeprefix(_PREFIX).lower() for name in profile["architectures"])
        return dict.fromkeys(_NATIVE.values(), named)
    return {
        _NATIVE[entry["architecture"]]: tuple(
            name.removeprefix(_PREFIX).lower() for name in entry.get("subArchitectures") or ()
        )
        for entry in profile.get("archMap") or ()
        if entry["architecture"] in _NATIVE
    }
