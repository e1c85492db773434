"""The grammar of mount options: what `-o` takes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final, Literal

from overlaykit.errors import Error
from overlaykit.fuse.spec import AS_THEY_ARE, IdRange, IdSpec, Options


class OptionUnknown(Error):
    message = "mount option {0}: not one of {1}"


class OptionInvalid(Error):
    message = "mount option {0}: {1}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """What `-o` asks for: the directories, and how to mount them."""

    lowerdir: tuple[str, ...]
    upperdir: str | None = None
    workdir: str | None = None
    options: Options


_FLAGS: Final = ("ro", "rw", "volatile", "userxattr", "noacl", "noxattr", "squash_to_root")
_CHOICES: Final = {
    "redirect_dir": ("on", "off", "follow", "nofollow"),
    "index": ("on", "off"),
    "metacopy": ("off",),
    "xattr_permissions": ("0", "1", "2"),
}
_IDS: Final = ("squash_to_uid", "squash_to_gid", "uidmapping", "gidmapping")
_MOST_IDS: Final = (1 << 32) - 2  # the last number means "none" (chown(2))
_WRITABLE: Final = ("upperdir", "workdir")
_VALUES: Final = ("lowerdir", *_WRITABLE, *_CHOICES, *_IDS)


def parse_options(text: str) -> Stack:
    """Read what `-o` takes: options separated by commas, lowers by colons; a backslash escapes either.

    Raises Error: OptionUnknown, OptionInvalid.
    """
    values = _read_options(text)
    if "lowerdir" not in values:
        raise OptionInvalid(
            "lowerdir", "missing: name the directories to be merged, top first, as lowerdir=A:B"
        )
    writable = [key for key in _WRITABLE if key in values]
    if len(writable) == 1:
        raise OptionInvalid(writable[0], "upperdir and workdir go together: give both or neither")
    lowers = tuple(map(os.path.abspath, filter(None, _split(values["lowerdir"], ":"))))
    upper, work = (os.path.abspath(values[key]) if key in values else None for key in _WRITABLE)
    if upper is not None and "ro" in values:
        lowers, upper, work = (upper, *lowers), None, None
    return Stack(
        lowerdir=lowers,
        upperdir=upper,
        workdir=work,
        options=Options(
            volatile="volatile" in values,
            userxattr="userxattr" in values,
            redirect_dir=_REDIRECTS[values.get("redirect_dir", "on")],
            index=values.get("index", "on") == "on",
            acl="noacl" not in values,
            xattr="noxattr" not in values,
            xattr_permissions=_PERMISSIONS[values.get("xattr_permissions", "0")],
            users=_ids(values, "squash_to_uid", "uidmapping"),
            groups=_ids(values, "squash_to_gid", "gidmapping"),
        ),
    )


_PERMISSIONS: Final[dict[str, Literal[0, 1, 2]]] = {"0": 0, "1": 1, "2": 2}

# As in the kernel, "off" makes no redirects but follows those that are there.
_REDIRECTS: Final[dict[str, Literal["on", "follow", "nofollow"]]] = {
    "on": "on",
    "off": "follow",
    "follow": "follow",
    "nofollow": "nofollow",
}


def _read_options(text: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for option in _split(text, ","):
        key, equals, value = option.partition("=")
        if option in _FLAGS:
            values[key] = key
        elif key in _VALUES and equals and value:
            if key in _CHOICES and value not in _CHOICES[key]:
                raise OptionInvalid(option, f"give one of {', '.join(_CHOICES[key])}")
            values[key] = value
        elif option:
            known = (*(f"{key}=" for key in _VALUES), *_FLAGS)
            raise OptionUnknown(option, ", ".join(known))
    return values


def _ids(values: dict[str, str], squash: str, mapping: str) -> IdSpec:
    """How users or groups are shown. A mapping is `HOST:CONTAINER:COUNT`, repeated; a leading colon does no harm."""
    if squash in values:
        return IdSpec(squash_to=_number(values, squash))
    if "squash_to_root" in values:
        return IdSpec(squash_to=0)
    if mapping not in values:
        return AS_THEY_ARE
    fields = values[mapping].removeprefix(":").split(":")
    if len(fields) % 3 or not all(field.isascii() and field.isdecimal() for field in fields):
        raise OptionInvalid(
            f"{mapping}={values[mapping]}", "give HOST:CONTAINER:COUNT, once or several times"
        )
    if any(int(field) > _MOST_IDS for field in fields):
        raise OptionInvalid(f"{mapping}={values[mapping]}", f"ids end at {_MOST_IDS}")
    numbers = iter(map(int, fields))
    triples = zip(numbers, numbers, numbers, strict=True)
    return IdSpec(
        mapping=tuple(IdRange(host=host, container=inside, count=n) for host, inside, n in triples)
    )


def _number(values: dict[str, str], key: str) -> int:
    if not (values[key].isascii() and values[key].isdecimal()):
        raise OptionInvalid(f"{key}={values[key]}", "give a number")
    if int(values[key]) > _MOST_IDS:
        raise OptionInvalid(f"{key}={values[key]}", f"ids end at {_MOST_IDS}")
    return int(values[key])


def _split(text: str, separator: str) -> list[str]:
    """Split at a separator that no backslash escapes; backslashes before other characters stay."""
    parts = [""]
    characters = iter(text)
    for character in characters:
        if character == "\\":
            following = next(characters, "")
            parts[-1] += following if following == separator else character + following
        elif character == separator:
            parts.append("")
        else:
            parts[-1] += character
    return parts
