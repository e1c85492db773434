"""Build the programs of native/ and the seccomp filters; everything else is in pyproject.toml.

setuptools knows no executables: a program is listed as an extension module whose file has the program's own name.
"""

from __future__ import annotations

import os
import shlex
import sys
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

PROGRAMS = {
    "overlaykit._supervisor": [
        "native/supervisor.c",
        "native/plan.c",
        "native/failure.c",
        "native/process.c",
        "native/call.c",
        "native/init.c",
        "native/command.c",
        "native/mounts.c",
        "native/protect.c",
        "native/cover.c",
        "native/helper.c",
        "native/logs.c",
        "native/remove.c",
        "native/ports.c",
        "native/passing.c",
        "native/release.c",
        "native/terminal.c",
    ],
}
# Linked without shared libraries: a guest has none.
STATIC = {
    "overlaykit._guest_init": [
        "native/guest_init.c",
        "native/guest_session.c",
        "native/plan.c",
        "native/failure.c",
        "native/process.c",
        "native/call.c",
        "native/command.c",
        "native/passing.c",
    ],
}
PROGRAMS |= STATIC
DEPENDS = [
    "native/missing.h",
    "native/plan.h",
    "native/supervisor.h",
    "overlaykit/namespace/plan.py",
]
MACROS = [("_GNU_SOURCE", "1"), ("_FILE_OFFSET_BITS", "64")]
COMPILE = ["-std=c17", "-Wall", "-Wextra", "-O2", "-fPIE", "-fstack-protector-strong"]
LINK = ["-pie", "-Wl,-z,relro,-z,now"]


class BuildPrograms(build_ext):
    """Link what is in PROGRAMS as executables, in place too (editable installs), and make the filters."""

    def run(self) -> None:
        here = os.path.dirname(os.path.abspath(__file__))
        sys.path[:0] = (here, os.path.join(here, "setup"))
        import headers

        generated = os.path.join(self.build_temp, "include")
        headers.write(generated)
        self.include_dirs.append(generated)
        super().run()
        from overlaykit.namespace import seccomp_filter

        top = here if self.inplace else self.build_lib
        seccomp_filter.prepare(os.path.join(top, "overlaykit"))

    def get_ext_filename(self, fullname: str) -> str:
        if f"overlaykit.{fullname.rpartition('.')[2]}" in PROGRAMS:
            return os.path.join(*fullname.split("."))
        return str(super().get_ext_filename(fullname))

    def build_extension(self, ext: Any) -> None:
        if ext.name not in PROGRAMS:
            super().build_extension(ext)
            return
        if ext.name in STATIC and "-fsanitize" in os.environ.get("LDFLAGS", ""):
            return  # there is no static runtime of a sanitizer: setup/sanitize keeps the program as it is
        path = self.get_ext_fullpath(ext.name)
        objects = self.compiler.compile(
            ext.sources,
            output_dir=self.build_temp,
            macros=ext.define_macros,
            include_dirs=self.include_dirs,
            extra_postargs=ext.extra_compile_args,
            depends=ext.depends,
        )
        self.compiler.link_executable(
            objects,
            os.path.basename(path),
            os.path.dirname(path),
            # setuptools takes LDFLAGS for shared objects only.
            extra_postargs=[
                *(["-static", "-s"] if ext.name in STATIC else LINK),
                *shlex.split(os.environ.get("LDFLAGS", "")),
            ],
        )


setup(
    ext_modules=[
        Extension(name, sources, depends=DEPENDS, define_macros=MACROS, extra_compile_args=COMPILE)
        for name, sources in PROGRAMS.items()
    ],
    cmdclass={"build_ext": BuildPrograms},
)
