"""Running programs for a proof."""

from __future__ import annotations

import subprocess


def run(*arguments: str, where: str = "/", **more: str) -> str:
    """What a program prints that has to succeed, in the directory `where`, with `more` in its environment."""
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
