"""Headers of native/ that say again what Python has: the form of a plan, and the constants of `overlaykit._native`."""

from __future__ import annotations

import os
import re

HERE = os.path.dirname(os.path.abspath(__file__))


def write(directory: str) -> None:
    """Write both into a directory, which is made if it is missing."""
    os.makedirs(directory, exist_ok=True)
    for name, text in (("plan_forms.h", plan_forms()), ("constants.h", constants())):
        with open(os.path.join(directory, name), "w", encoding="ascii") as file:
            file.write(text)


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
    steps = "".join(
        f' \\\n    STEP({name.upper()}, {code}, "{name}", "{signature}")'
        for name, (code, signature) in (plan.PRIMITIVES | forms).items()
    )
    called = "".join(f" \\\n    CALL({name})" for name in plan.CALLS)
    return (
        f"enum {{\n{flags}}};\nenum section {{\n{sections}    SECTIONS,\n}};\n"
        f"#define PLAN_STEPS(STEP){steps}\n#define PLAN_CALLS(CALL){called}\n"
    )


def constants() -> str:
    """The names in overlaykit/_native.pyi, each of which is a macro of the system's headers or of native/native.h."""
    contract = os.path.join(HERE, os.pardir, "overlaykit", "_native.pyi")
    with open(contract, encoding="utf-8") as file:
        names = re.findall(r"^([A-Z_0-9]+): Final\[int\]$", file.read(), re.M)
    return "".join(f"CONSTANT({name})\n" for name in names)
