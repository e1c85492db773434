"""The program that a copy is made for is recorded with it, where the kernel's overlayfs reads nothing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from overlaykit.overlay.callers import Programs, asking
from overlaykit.overlay.markers import Origin

from ..posix.table import Dir, File
from .stack import Stack


def test_a_name_is_that_of_the_process_now_and_never_of_one_that_had_its_number() -> None:
    programs = Programs()
    with subprocess.Popen(
        ["sh", "-c", "echo on; read line; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.read(3) == b"on\n"  # Popen may return before it is named sh
        token = asking.set(process.pid)
        try:
            assert programs.name() == b"sh"
            process.stdin.write(b"go on\nx\n")
            process.stdin.flush()
            assert process.stdout.read(2) == b"x\n"
            assert programs.name() == b"cat"
            process.kill()
            process.wait()
            assert programs.name() == b""
        finally:
            asking.reset(token)
            programs.close()


def test_a_copy_records_its_program_and_the_kernel_reads_the_upper_as_before(stack: Stack) -> None:
    stack.add({"f": File(b"1"), "d/g": File(b"2"), "d": Dir()})
    token = asking.set(os.getpid())
    try:
        with stack.open() as view:
            view.write("f", b"3")
            view.create("d/new")
            assert not [name for name in view.xattrs("f") if "overlay" in name]
            names = Path("/proc/self/comm").read_bytes().removesuffix(b"\n")
            for path in ("f", "d"):
                raw = os.getxattr(os.path.join(stack.upper, path), stack.marker("origin"))
                origin = Origin.decode(raw)
                assert origin is not None
                assert origin.program == names
                assert origin.copied
    finally:
        asking.reset(token)


@pytest.mark.parametrize("changed_ns", [None, 0, 1 << 62])
@pytest.mark.parametrize("program", [b"", b"fifteen-letters", b"\xff\n"])
def test_what_is_recorded_is_read_again(changed_ns: int | None, program: bytes) -> None:
    origin = Origin(1, bytes(16), b"12345678", changed_ns, 2**32 - 1, program)
    written = origin.encode_with_note()
    assert Origin.decode(written) == origin
    assert len(written) <= 56  # what an inode of 256 bytes on ext4 has room for
