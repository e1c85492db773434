"""Headers of native/ that say again what Python has.

The form of a plan, and the constants and the functions of `overlaykit._native` that are no system calls of a table.
"""

from __future__ import annotations

import ast
import os
import re

HERE = os.path.dirname(os.path.abspath(__file__))

_AFTER_CALLS = "# Of pyfuse3's session (native/session.c)"

WORDS = {
    "openat2": "ipomm",
    "renameat2": "ipipu",
    "statx": "ipiub",
    "getxattr": "psB",
    "lgetxattr": "psB",
    "fgetxattr": "isB",
    "listxattrat": "ipuB",
    "getdents64": "iB",
    "fstatfs": "ib",
    "utimensat": "ipbi",
    "name_to_handle_at": "ipbbi",
    "open_by_handle_at": "ibc",
    "open_tree": "ipc",
    "move_mount": "ipipu",
    "mount_setattr": "ipummmm",
    "fsopen": "sf",
    "fsconfig": "iuzzi",
    "fsmount": "ifu",
    "mount": "zpzqz",
    "umount2": "pi",
    "pivot_root": "pp",
    "unshare": "i",
    "setns": "ii",
    "close_range": "uuu",
    "prctl": "iqqqq",
    "seccomp": "uuF",
    "quotactl_fd": "iuub",
    "capget": "bb",
    "capset": "bb",
    "sync_file_range": "iqqu",
    "signalfd4": "imc",
}
"""Of each system call of `overlaykit._native` a letter for each argument (native/syscalls.c)."""

_ANSWERS = {"None": "NOTHING", "int": "RESULT", "int | None": "RESULT_OR_NONE"}
"""What it returns, by its annotation."""


def write(directory: str) -> None:
    """Write them into a directory, which is made if it is missing."""
    os.makedirs(directory, exist_ok=True)
    headers = {
        "plan_forms.h": plan_forms,
        "constants.h": constants,
        "methods.h": methods,
        "syscalls.h": syscalls,
    }
    for name, text in headers.items():
        with open(os.path.join(directory, name), "w", encoding="ascii") as file:
            file.write(text())


def plan_forms() -> str:
    """The sections, steps, calls, limits and flags of overlaykit/namespace/plan.py, which the caller can import."""
    from overlaykit.namespace import plan

    numbers = {
        name: value
        for name, value in vars(plan).items()
        if name.isupper() and name[0] != "_" and type(value) is int
    }
    forms = {name: form[:2] for name, form in plan.FORMS.items() if form[0]}
    flags = "".join(f"    PLAN_{name} = {value},\n" for name, value in numbers.items())
    sections = "".join(f"    SECTION_{name.upper()},\n" for name in plan.SECTIONS)
    plain = str.maketrans(plan.PLAIN)
    steps = "".join(
        f' \\\n    STEP({name.upper()}, {code}, "{name}", "{signature.translate(plain)}")'
        for name, (code, signature) in (plan.PRIMITIVES | forms).items()
    )
    called = "".join(f" \\\n    CALL({name})" for name in plan.CALLS)
    return (
        f"enum {{\n{flags}}};\nenum section {{\n{sections}    SECTIONS,\n}};\n"
        f"#define PLAN_STEPS(STEP){steps}\n#define PLAN_CALLS(CALL){called}\n"
    )


def constants() -> str:
    """The names in overlaykit/_native.pyi, each of which is a macro of the system's headers or of native/."""
    names = re.findall(r"^([A-Z_0-9]+): Final\[int\]$", _contract(), re.M)
    return "".join(f"CONSTANT({name})\n" for name in names)


def syscalls() -> str:
    """The rows of the table in native/syscalls.c: the functions in overlaykit/_native.pyi that are system calls."""
    lines = []
    for one in ast.parse(_contract().partition(_AFTER_CALLS)[0]).body:
        if isinstance(one, ast.FunctionDef):
            given = one.args.posonlyargs
            required = len(given) - len(one.args.defaults)
            letters = WORDS[one.name]
            types = letters[:required] + ("|" + letters[required:]) * bool(one.args.defaults)
            answers = _ANSWERS[ast.unparse(one.returns or ast.Constant(None))]
            parameters = ", ".join(_parameters(one))
            lines.append(f'ROW({one.name}, "{types}", {answers}, "{parameters}")\n')
    return "".join(lines)


def _parameters(function: ast.FunctionDef) -> list[str]:
    """The names of the parameters of a function, with their defaults."""
    given, values = function.args.posonlyargs, function.args.defaults
    defaults = [""] * (len(given) - len(values)) + [f"={ast.unparse(value)}" for value in values]
    return [one.arg + default for one, default in zip(given, defaults, strict=True)]


def methods() -> str:
    """The functions in overlaykit/_native.pyi that are no system calls."""
    kinds = {0: "METH_NOARGS", 1: "METH_O"}
    lines = []
    for one in ast.parse(_contract().partition(_AFTER_CALLS)[2]).body:
        if isinstance(one, ast.FunctionDef):
            names = _parameters(one)
            flags = kinds.get(len(names), "METH_VARARGS")
            parameters = "".join(f", {name}" for name in names)
            lines.append(f'METHOD({one.name}, {flags}, "{parameters}")\n')
    return "".join(lines)


def _contract() -> str:
    with open(os.path.join(HERE, os.pardir, "overlaykit", "_native.pyi"), encoding="utf-8") as file:
        return file.read()
