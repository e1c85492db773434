"""The plan that native/guest_init.c carries out: its steps, and its bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

PATH = "plan"
"""The plan's place in the initramfs."""


class Plan:
    """Steps in their order. A method adds the step of its name; native/guest_init.c says what it does."""

    def __init__(self) -> None:
        self._words: list[str] = []

    def module(self, path: str) -> None:
        self._add("module", path)

    def wait(self, path: str) -> None:
        self._add("wait", path)

    def directory(self, path: str, mode: int = 0o755) -> None:
        self._add("directory", path, f"{mode:o}")

    def mount(
        self, target: str, kind: str, source: str = "none", flags: int = 0, data: str = ""
    ) -> None:
        self._add("mount", target, source, kind, str(flags), data)

    def root(self, path: str) -> None:
        self._add("root", path)

    def status(self, path: str) -> None:
        self._add("status", path)

    def run(self, program: Sequence[str]) -> None:
        """The last step."""
        self._add("run", *program)

    def encoded(self) -> bytes:
        """The bytes of the file.

        Raises ValueError for a word that holds a NUL.
        """
        return encode(self._words)

    def _add(self, *words: str) -> None:
        self._words += words


def encode(words: Iterable[str]) -> bytes:
    """The words, each with a NUL after it."""
    encoded = [word.encode(errors="surrogateescape") for word in words]
    if any(b"\0" in word for word in encoded):
        raise ValueError("a word of a plan holds a NUL")
    return b"".join(word + b"\0" for word in encoded)
