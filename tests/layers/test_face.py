from __future__ import annotations

import ast
import inspect
import os

from overlaykit import layers


def test_the_room_offers_what_it_promises() -> None:
    assert sorted(layers.__all__) == [
        "Hold",
        "Layer",
        "Source",
        "Store",
        "StoredLayer",
        "host",
        "parse_source",
        "resolve",
    ]
    assert all(inspect.getdoc(getattr(layers, name)) for name in layers.__all__)


def test_the_room_imports_only_from_below() -> None:
    folder = os.path.dirname(layers.__file__)
    allowed = (
        "overlaykit.layers",
        "overlaykit._native",
        "overlaykit.discard",
        "overlaykit.errors",
        "overlaykit.mountinfo",
    )
    for name in os.listdir(folder):
        if not name.endswith(".py"):
            continue
        with open(os.path.join(folder, name)) as file:
            tree = ast.parse(file.read())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "overlaykit":
                modules = [f"overlaykit.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            else:
                continue
            for module in modules:
                assert not module.startswith("overlaykit") or module.startswith(allowed), name
