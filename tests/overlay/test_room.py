"""The room's walls: the merge can be tested on plain directories because it needs nothing else."""

from __future__ import annotations

import ast
import pathlib
import sys

import overlaykit.overlay


def test_the_merge_imports_only_the_system_calls_and_the_standard_library() -> None:
    room = pathlib.Path(overlaykit.overlay.__file__).parent
    for path in room.glob("*.py"):
        for module in _imported(ast.parse(path.read_text())):
            top = module.partition(".")[0]
            allowed = top in sys.stdlib_module_names or module.startswith("overlaykit.overlay")
            assert allowed or module == "overlaykit._native", f"{path.name} imports {module}"


def _imported(tree: ast.Module) -> list[str]:
    modules = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "overlaykit":
            modules += [f"overlaykit.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules.append(node.module or "")
    return modules
