"""The Debian release and mirror of this machine: the proofs download from no other."""

from __future__ import annotations

from .programs import run


def release() -> tuple[str, str]:
    """The mirror's address and the suite's name, as apt has them. Raises: AssertionError on another system."""
    fields = "$(REPO_URI) $(CODENAME) $(ORIGIN) $(COMPONENT)"
    for line in run("apt-get", "indextargets", "--format", fields).splitlines():
        site, suite, origin, component = line.split()
        if (origin, component) == ("Debian", "main") and "-" not in suite:
            return site, suite
    raise AssertionError("apt knows no Debian: run 'apt-get update'")
