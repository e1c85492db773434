"""Run programs for a proof."""

from __future__ import annotations

import subprocess


def run(*arguments: str, where: str = "/", **more: str) -> str:
    """The output of a program that must succeed, in the directory `where`; `more`: environment variables."""
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "HOME": "/",
        **more,
    }
    done = subprocess.run(
        arguments,
        cwd=where,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{arguments} ended with {done.returncode}: {done.stdout[-4000:]}"
    return done.stdout
