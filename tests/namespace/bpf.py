"""An interpreter of classic BPF, for the effect of a seccomp filter on any call (seccomp(2), struct seccomp_data)."""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Sequence
from typing import Final

X86_64: Final = 0xC000003E
I386: Final = 0x40000003
AARCH64: Final = 0xC00000B7
X32: Final = 0x40000000
"""The bit of a number of x32's."""

ALLOW: Final = 0x7FFF0000
ERRNO: Final = 0x00050000

_RETURN: Final = 0x06
_LOAD: Final = 0x20
_AND: Final = 0x54
_JUMP: Final = 0x05


def action(
    program: bytes, number: int, arguments: Sequence[int] = (), architecture: int = X86_64
) -> int:
    """What the filter returns for a system call."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, architecture, 0, *padded)
    code = list(struct.iter_unpack("=HBBI", program))
    accumulator = at = 0
    while True:
        operation, true, false, operand = code[at]
        at += 1
        if operation == _RETURN:
            return int(operand)
        if operation == _LOAD:
            (accumulator,) = struct.unpack_from("<I", data, operand)
        elif operation == _AND:
            accumulator &= operand
        elif operation == _JUMP:
            at += operand
        elif operation in _CONDITIONS:
            at += true if _CONDITIONS[operation](accumulator, operand) else false
        else:
            raise ValueError(f"operation {operation:#x}")


def _masked(value: int, bits: int) -> bool:
    return bool(value & bits)


_CONDITIONS: Final[dict[int, Callable[[int, int], bool]]] = {
    0x15: operator.eq,
    0x25: operator.gt,
    0x35: operator.ge,
    0x45: _masked,
}
