"""The structure of the package: a room imports only from rooms below it, and exports what it documents."""

from __future__ import annotations

import ast
import importlib
import os
import re
import sys
from collections.abc import Iterator

import pytest

import overlaykit
from overlaykit.overlay.nodes import Directory, File

HOUSE = os.path.dirname(overlaykit.__file__)

GROUND = {
    "_native",
    "attributes",
    "beneath",
    "child",
    "effective",
    "projects",
    "errors",
    "handles",
    "health",
    "inodes",
    "lean",
    "mountinfo",
    "rmtree",
    "privilege",
    "progress",
    "procfs",
    "reader",
    "signals",
    "standard",
    "codec",
    "record",
    "scope",
    "sockets",
}
MAY_IMPORT = {
    "cli": {"client", "views", "changes", "fuse", "namespace", "layers", "bench", *GROUND},
    "bench": {"views", "fuse", *GROUND},
    "client": {"views", "changes", "fuse", "overlay", *GROUND},
    "views": {"fuse", "namespace", "layers", "machine", "overlay", *GROUND},
    "changes": {"overlay", "layers", *GROUND},
    "fuse": {"changes", "overlay", *GROUND},
    "namespace": GROUND,
    "layers": GROUND,
    "machine": {"_native", "errors", "namespace", "record", "scope"},
    "overlay": {
        "_native",
        "attributes",
        "beneath",
        "codec",
        "handles",
        "inodes",
        "lean",
        "privilege",
        "projects",
        "record",
        "rmtree",
        "scope",
    },
    "attributes": {"_native", "record"},
    "beneath": {"_native", "scope"},
    "rmtree": {"_native", "beneath", "scope"},
    "child": {"sockets"},
    "effective": {"_native"},
    "projects": {"_native", "effective", "privilege", "scope"},
    "errors": set(),
    "handles": {"_native", "record"},
    "health": {"record"},
    "inodes": {"_native", "attributes", "privilege"},
    "lean": set(),
    "mountinfo": {"record"},
    "privilege": set(),
    "progress": {"lean", "scope"},
    "procfs": {"scope"},
    "reader": {"_native", "child"},
    "signals": {"_native", "scope"},
    "standard": {"scope"},
    "codec": {"record"},
    "record": set(),
    "scope": set(),
    "sockets": set(),
    "__main__": {"cli"},
    "__init__": {"client", "views"},
}
"""Imports may skip a floor: a command may use a room below `views` for its output."""


def sources(room: str) -> Iterator[str]:
    path = os.path.join(HOUSE, room)
    if not os.path.isdir(path):
        yield path + ".py"
        return
    for folder, _, names in os.walk(path):
        yield from (os.path.join(folder, name) for name in names if name.endswith(".py"))


def imported(path: str) -> Iterator[str]:
    """The rooms that a file imports from, at any level of the file."""
    for module in modules(path):
        package, _, rest = module.partition(".")
        if package == "overlaykit" and rest:
            yield rest.partition(".")[0]


def modules(path: str) -> Iterator[str]:
    """The full names of the modules that a file imports."""
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "overlaykit":
            yield from (f"overlaykit.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_every_room_is_on_the_plan() -> None:
    rooms = {name.removesuffix(".py") for name in os.listdir(HOUSE)}
    rooms -= {"__pycache__", "py.typed", "_native.pyi"}
    assert {
        name
        for name in rooms
        if not name.startswith(("_guest_init", "_native", "_seccomp", "_supervisor"))
    } == set(MAY_IMPORT)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_from_below(room: str) -> None:
    allowed = MAY_IMPORT[room] | {room, "__version__"}
    wrong = [
        (path, name) for path in sources(room) for name in imported(path) if name not in allowed
    ]
    assert not wrong


def test_two_files_import_pyfuse3_and_one_patches_it() -> None:
    patching = re.compile(r"(?<!`)_native\.(NAME_ONLY|PLAIN_ENTRY|adapt_session)\b|\.trio = ")
    importing, patches = set(), set()
    for path in sources(HOUSE):
        with open(path, encoding="utf-8") as file:
            text = file.read()
        if re.search(r"^(import|from) pyfuse3\b", text, re.MULTILINE):
            importing.add(os.path.relpath(path, HOUSE))
        if patching.search(text):
            patches.add(os.path.relpath(path, HOUSE))
    assert importing == {"fuse/connection.py", "fuse/operations.py"}
    assert patches == {"fuse/patches.py"}


@pytest.mark.parametrize("module", ["signal", "socket"])
def test_one_module_takes_the_place_of_a_slow_one_of_python(module: str) -> None:
    importing = {path for path in sources(HOUSE) if f"_{module}" in modules(path)}
    assert importing == {os.path.join(HOUSE, f"{module}s.py")}


@pytest.mark.parametrize("room", ["overlay", "changes"])
def test_the_merge_and_its_changes_need_no_other_distribution(room: str) -> None:
    """They can be tested on plain directories, and a process that imports them starts quickly."""
    for path in sources(room):
        for module in modules(path):
            top = module.partition(".")[0]
            assert top == "overlaykit" or top in sys.stdlib_module_names, f"{path}: {module}"


def test_only_its_commands_import_the_benchmark() -> None:
    importing = {path for path in sources(HOUSE) if "bench" in imported(path)}
    inside = set(sources("bench"))
    commands = {os.path.join(HOUSE, "cli", name) for name in ("bench.py", "compare.py")}
    assert importing - inside == commands


@pytest.mark.parametrize(
    "room", ["overlaykit", "overlaykit.views", "overlaykit.namespace", "overlaykit.layers"]
)
def test_what_a_room_offers_is_there_and_explained(room: str) -> None:
    module = importlib.import_module(room)
    assert module.__all__ == sorted(module.__all__)
    assert all(getattr(module, name).__doc__ for name in module.__all__)


@pytest.mark.parametrize(
    "room",
    ["cli", "views", "changes", "fuse", "namespace", "layers", "machine", "overlay", "bench"],
)
def test_every_file_says_what_it_is_for(room: str) -> None:
    for path in sources(room):
        with open(path, encoding="utf-8") as file:
            assert ast.get_docstring(ast.parse(file.read())), path


_NODES = os.path.join(HOUSE, "overlay", "nodes.py")
_MUTATORS = {"append", "clear", "extend", "pop", "popitem", "remove", "setdefault", "update"}
_ENTRY_ATTRIBUTES = {"generation"}
"""Attributes of nodes whose names pyfuse3.EntryAttributes has too."""


def changed_attributes(path: str) -> Iterator[tuple[int, str]]:
    """Lines of a file, and the attributes that they assign to, delete or mutate, but for those of `self`."""
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign | ast.Delete):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign | ast.AugAssign | ast.For):
            targets = [node.target]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            targets = [node.func.value] if node.func.attr in _MUTATORS else []
        while targets:
            target = targets.pop()
            if isinstance(target, ast.Tuple | ast.List):
                targets += target.elts
            elif isinstance(target, ast.Starred | ast.Subscript):
                targets.append(target.value)
            elif isinstance(target, ast.Attribute) and ast.unparse(target.value) != "self":
                yield target.lineno, target.attr


def test_only_nodes_py_writes_nodes() -> None:
    classes = {*File.__mro__, *Directory.__mro__}
    attributes = {name for one in classes for name in getattr(one, "__slots__", ())}
    assert {"nlookup", "children", "has_upper"} < attributes
    own = set(sources("overlay")) - {_NODES}
    wrong = [
        (path, line, name)
        for path in own | set(sources("fuse"))
        for line, name in changed_attributes(path)
        if name in attributes - (set() if path in own else _ENTRY_ATTRIBUTES)
    ]
    assert not wrong
    # The search finds assignments at all.
    assert attributes & {name for _, name in changed_attributes(_NODES)}
