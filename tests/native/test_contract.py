"""The stub, against which the package is type-checked, agrees with the module."""

from __future__ import annotations

import ast
import contextlib
import inspect
import os
import sys
import tempfile
from collections.abc import Callable, Iterator

import pytest

import overlaykit
from overlaykit import _native, attributes, handles

with open(os.path.join(os.path.dirname(overlaykit.__file__), "_native.pyi")) as stub:
    STUB = ast.parse(stub.read())
FUNCTIONS = [node for node in STUB.body if isinstance(node, ast.FunctionDef)]
CONSTANTS = [
    node.target.id
    for node in STUB.body
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
]


def test_every_public_name_is_in_the_stub_and_no_other() -> None:
    promised = {node.name for node in FUNCTIONS} | set(CONSTANTS)
    kept = {name for name in vars(_native) if not name.startswith("__")}
    assert kept == promised - {"_Path", "_Crossing"}


def test_every_constant_and_function_is_used_by_the_package() -> None:
    package = os.path.dirname(overlaykit.__file__)
    used = set()
    for directory, _, files in os.walk(package):
        for name in files:
            if name.endswith(".py"):
                with open(os.path.join(directory, name)) as file:
                    used |= set(native_names(ast.parse(file.read())))
    assert {node.name for node in FUNCTIONS} | set(CONSTANTS) - {"_Path", "_Crossing"} <= used


def native_names(tree: ast.Module) -> Iterator[str]:
    """The names of overlaykit._native that a module mentions."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="_native"), attr=name):
                yield name
            case ast.ImportFrom(module="overlaykit._native", names=names):
                yield from (one.name for one in names)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda node: node.name)
def test_arguments_have_the_names_and_defaults_of_the_stub(function: ast.FunctionDef) -> None:
    arguments = function.args
    positional = arguments.posonlyargs + arguments.args
    defaults = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults
    promised = [
        (argument.arg, inspect.Parameter.empty if default is None else ast.literal_eval(default))
        for argument, default in zip(
            positional + arguments.kwonlyargs, defaults + arguments.kw_defaults, strict=True
        )
    ]
    signature = inspect.signature(getattr(_native, function.name))
    assert [(p.name, p.default) for p in signature.parameters.values()] == promised


def test_constants_agree_with_those_that_python_knows() -> None:
    for name in CONSTANTS:
        if hasattr(os, name):
            assert getattr(_native, name) == getattr(os, name)


def fail_to_open() -> None:
    with contextlib.suppress(FileNotFoundError):
        _native.openat2(_native.AT_FDCWD, "/nonexistent", os.O_RDONLY)


def fail_to_parse() -> None:
    with contextlib.suppress(OverflowError):
        _native.renameat2(0, "a", 0, "b", -1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: attributes.statx(_native.AT_FDCWD, b"/", 0, _native.STATX_BASIC_STATS),
        lambda: handles.of_name(_native.AT_FDCWD, tempfile.gettempdir()),
        lambda: _native.prctl(_native.PR_SET_CHILD_SUBREAPER, 0),
        fail_to_open,
        fail_to_parse,
    ],
    ids=["statx", "name_to_handle_at", "prctl", "fail_to_open", "fail_to_parse"],
)
def test_a_daemon_that_calls_all_day_does_not_grow(call: Callable[[], object]) -> None:
    for _ in range(100):
        call()
    before = sys.getallocatedblocks()
    for _ in range(2000):
        call()
    assert sys.getallocatedblocks() - before < 200
