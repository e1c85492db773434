"""Kernels of a few bytes, which QEMU boots as it does Linux: they write to the serial port, then reset or halt.

Source: Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header".
"""

from __future__ import annotations

import os
import struct

from overlaykit.machine import view_guest

RELEASE = "tiny"
PANIC = "Kernel panic - not syncing: no reason\r\n"

_SECTOR = 512
_START = 0x200
"""Of the file: where QEMU jumps to, with segments that begin here."""
_CODE = 0x68
"""From there: after the header."""
_WRITE = bytes.fromhex("0e1f be0000 ac 84c0 7406 baf803 ee ebf5")
"""push cs; pop ds; mov si, TEXT; 1: lodsb; test al, al; jz 2f; mov dx, 0x3f8; out dx, al; jmp 1b; 2:"""
_FLOOD = bytes.fromhex("baf803 66b901000200 b078 ee 6649 75fb")
"""mov dx, 0x3f8; mov ecx, 0x20001; mov al, 'x'; 1: out dx, al; dec ecx; jnz 1b"""
_RESET = bytes.fromhex("b0fe e664")
"""mov al, 0xfe; out 0x64, al: the keyboard controller's line"""
_HALT = bytes.fromhex("fa f4 ebfd")
"""cli; 1: hlt; jmp 1b"""


def make(
    directory: str | os.PathLike[str],
    text: str = PANIC,
    *,
    halts: bool = False,
    floods: bool = False,
) -> str:
    """The directory of a kernel, as `--kernel` takes it, in the new `directory`. `floods`: it writes 128 KiB first."""
    code = _FLOOD if floods else b""
    at = len(code)
    code += _WRITE + (b"" if halts else _RESET) + _HALT
    text_at = struct.pack("<H", _CODE + len(code))
    code = code[:at] + code[at:].replace(b"\xbe\0\0", b"\xbe" + text_at)
    start = b"\xeb" + bytes([_CODE - 2]) + b"HdrS" + struct.pack("<H", 0x20C)
    image = bytearray(4 * _SECTOR)
    image[0x1F1] = 1  # sectors of the setup, beside the first
    image[0x1FE:0x200] = b"\x55\xaa"
    image[_START : _START + len(start)] = start
    image[0x211] = 1  # the rest is loaded at 1 MiB
    image[0x22C:0x230] = struct.pack("<I", 0x37FFFFFF)
    image[_START + _CODE : _START + _CODE + len(code)] = code
    image[_START + _CODE + len(code) : _START + _CODE + len(code) + len(text) + 1] = (
        text.encode() + b"\0"
    )
    return with_image(directory, bytes(image))


def bzimage(packed: bytes) -> bytes:
    """An image with a packed kernel, which nothing runs."""
    image = bytearray(2 * _SECTOR)
    image[0x1F1] = 1
    image[0x202:0x206] = b"HdrS"
    image[0x248:0x250] = struct.pack("<II", 16, len(packed))
    return bytes(image) + bytes(16) + packed + bytes(16)


def elf(content: bytes, *, entry: bool = True) -> bytes:
    """An ELF file with a note, that of a PVH kernel or another, and a content."""
    note = struct.pack("<III4sQ", 4, 8, 18 if entry else 6, b"Xen", 1 << 20)
    header = struct.pack("<5s27xQ14xHH6x", b"\x7fELF\x02", 64, 56, 2)
    segments = [(1, 0, 0), (4, 64 + 2 * 56, len(note))]
    table = b"".join(
        struct.pack("<IIQQQQQQ", kind, 0, offset, 0, 0, size, size, 4)
        for kind, offset, size in segments
    )
    return header + table + note + content


def with_image(directory: str | os.PathLike[str], image: bytes) -> str:
    """The same with the bytes of an image; all modules are built in."""
    modules = os.path.join(directory, "lib", "modules", RELEASE)
    os.makedirs(modules)
    os.makedirs(os.path.join(directory, "boot"))
    names = (*view_guest.MODULES, *view_guest.NETWORK_MODULES)
    with open(os.path.join(modules, "modules.builtin"), "w", encoding="ascii") as file:
        file.writelines(f"kernel/{name}.ko\n" for name in names)
    with open(os.path.join(directory, "boot", f"vmlinuz-{RELEASE}"), "wb") as file:
        file.write(image)
    return os.fspath(directory)
