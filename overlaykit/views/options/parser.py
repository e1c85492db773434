"""The parser of mount options: the texts of `-o` become `ParsedOptions`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from overlaykit.errors import Error
from overlaykit.fuse.spec import AS_THEY_ARE, IdRange, IdSpec, MountFlags, MountOptions
from overlaykit.views.options import quoting, table
from overlaykit.views.options.table import Effect


class OptionUnknown(Error):
    message = "mount option {0}: not one of {1}"


class OptionInvalid(Error):
    message = "mount option {0}: {1}"


class OptionRefused(Error):
    message = "mount option {0}: refused: {1}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedOptions:
    """The directories as they were written, lowers top first, and how to mount them.

    `restart`: another daemon takes over the mount when its daemon is killed. `live`: others may change the lowers.
    `notes`: a line for the user about each option that does less than its name says.
    """

    lowerdir: tuple[str, ...]
    upperdir: str | None = None
    workdir: str | None = None
    options: MountOptions
    flags: MountFlags
    source: str
    restart: bool = True
    live: bool = False
    notes: tuple[str, ...] = ()


_MOST_IDS: Final = (1 << 32) - 2  # the last number means "none" (chown(2))
_SOURCE: Final = "overlaykit"
_CONTEXTS: Final = ("context", "fscontext", "defcontext", "rootcontext")
_WRITABLE: Final = ("upperdir", "workdir")
_PATHS: Final[dict[str, Callable[[str], str]]] = {
    "lowerdir+": quoting.unescape_comma,
    **dict.fromkeys(_WRITABLE, quoting.unescape),
}

_SWITCHES: Final[dict[str, dict[str, bool]]] = {
    "rw": {"ro": False},
    "dev": {"nodev": False},
    "suid": {"nosuid": False},
    "exec": {"noexec": False},
    "atime": {"noatime": False},
    "diratime": {"nodiratime": False},
    "symfollow": {"nosymfollow": False},
    "async": {"sync": False},
    "user": {"noexec": True, "nosuid": True, "nodev": True},
    "users": {"noexec": True, "nosuid": True, "nodev": True},
    "owner": {"nosuid": True, "nodev": True},
    "group": {"nosuid": True, "nodev": True},
    **{
        name: {name: True}
        for name in (
            *("ro", "nodev", "nosuid", "noexec", "noatime", "nodiratime", "nosymfollow"),
            *("sync", "dirsync", "volatile", "userxattr", "noacl", "noxattr"),
            *("squash_to_root", "static_nlink", "allow_other"),
        )
    },
    # These two are switches with a value.
    "fsync=0": {"volatile": True},
    "fsync=1": {"volatile": False},
    "noxattrs=0": {"noxattr": False},
    "noxattrs=1": {"noxattr": True},
}
"""The switches that an option sets; a later option may set them again (mount(8))."""


def parse_options(*texts: str, source: str = "", sloppy: bool = False) -> ParsedOptions:
    """Parse the texts of one or several `-o`, which add up; a later option wins over an earlier one.

    `source`: the source in the table of mounts, unless `fsname=` names it. `sloppy`: ignore unknown options.

    Raises: OptionUnknown, OptionInvalid, OptionRefused.
    """
    given = _Given()
    for text in texts:
        for option in quoting.split_options(text):
            if not sloppy or table.find(option.partition("=")[0]):
                given.add(option)
    lowers, values, on = given.lowers, given.values, given.switched_on
    if not lowers:
        raise OptionInvalid(
            "lowerdir", "missing: name the directories to be merged, top first, as lowerdir=A:B"
        )
    writable = [key for key in _WRITABLE if key in values]
    if len(writable) == 1:
        raise OptionInvalid(writable[0], "upperdir and workdir go together: give both or neither")
    upper, work = values.get("upperdir"), values.get("workdir")
    if upper is not None and on("ro"):
        lowers, upper, work = [upper, *lowers], None, None
    return ParsedOptions(
        lowerdir=tuple(lowers),
        upperdir=upper,
        workdir=work,
        options=MountOptions(
            volatile=on("volatile"),
            userxattr=on("userxattr"),
            redirect_dir=_REDIRECTS[values.get("redirect_dir", "on")],
            index=values.get("index", "on") == "on",
            metacopy=values.get("metacopy", "off") == "on",
            verity=_VERITIES[values.get("verity", "off")],
            whiteout=_WHITEOUTS[values.get("whiteout", "auto")],
            uuid=values.get("uuid", "on") != "off",
            acl=not on("noacl"),
            xattr=not on("noxattr"),
            xattr_permissions=_PERMISSIONS[values.get("xattr_permissions", "0")],
            users=_ids(given, "squash_to_uid", "uidmapping"),
            groups=_ids(given, "squash_to_gid", "gidmapping"),
            static_nlink=on("static_nlink"),
            timeout=_seconds(values),
            dirsync=on("sync") or on("dirsync"),
            data_plane=values.get("data_plane", "on") == "on",
            data=_DATA[values.get("data", "cache")],
            no_open=_NO_OPEN[values.get("no_open", "off")],
        ),
        flags=MountFlags(
            nodev=on("nodev"),
            nosuid=on("nosuid"),
            noexec=on("noexec"),
            noatime=on("noatime"),
            nodiratime=on("nodiratime"),
            nosymfollow=on("nosymfollow"),
            sync=on("sync"),
            dirsync=on("dirsync"),
            allow_other=on("allow_other"),
            contexts={key: quoting.unquote(values[key]) for key in _CONTEXTS if key in values},
        ),
        source=quoting.unescape(values["fsname"]) if "fsname" in values else source or _SOURCE,
        restart=values.get("restart", "on") == "on",
        live=values.get("live", "off") == "on",
        notes=tuple(given.notes.values()),
    )


_NO_OPEN: Final[dict[str, Literal["off", "on", "auto"]]] = {
    "off": "off",
    "on": "on",
    "auto": "auto",
}

_PERMISSIONS: Final[dict[str, Literal[0, 1, 2]]] = {"0": 0, "1": 1, "2": 2}

# As in the kernel, "off" makes no redirects but follows existing ones.
_REDIRECTS: Final[dict[str, Literal["on", "follow", "nofollow"]]] = {
    "on": "on",
    "off": "follow",
    "follow": "follow",
    "nofollow": "nofollow",
}

_VERITIES: Final[dict[str, Literal["off", "on", "require"]]] = {
    "off": "off",
    "on": "on",
    "require": "require",
}

_DATA: Final[dict[str, Literal["cache", "passthrough", "auto"]]] = {
    "cache": "cache",
    "passthrough": "passthrough",
    "auto": "auto",
}

_WHITEOUTS: Final[dict[str, Literal["auto", "device", "xattr", "aufs"]]] = {
    "auto": "auto",
    "device": "device",
    "xattr": "xattr",
    "aufs": "aufs",
}


@dataclass(slots=True)
class _Given:
    """The options read so far."""

    lowers: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    _switches: dict[str, bool] = field(default_factory=dict)

    def switched_on(self, name: str) -> bool:
        return self._switches.get(name, False)

    def add(self, option: str) -> None:
        key, equals, value = option.partition("=")
        row = _row(option, key, value if equals else None)
        self.notes.pop(key, None)
        if row.effect is Effect.NOTED:
            self.notes[key] = f"mount option {option}: {row.text}"
        self._switches |= _SWITCHES.get(key, _SWITCHES.get(option, {}))
        if key == "lowerdir":
            pieces = quoting.split_lowers(value)
            if "" in pieces[1:-1]:
                raise OptionInvalid(
                    option, f"after '::' comes what datadir+= names: {_reason('datadir+')}"
                )
            self.lowers = [_path(option, quoting.unescape(piece)) for piece in pieces if piece]
        elif key == "lowerdir+":
            self.lowers.append(_path(option, _PATHS[key](value)))
        elif key in _PATHS:
            self.values[key] = _path(option, _PATHS[key](value))
        else:
            self.values[key] = value


def _row(option: str, key: str, value: str | None) -> table.Row:
    """The row of an option with that value. Raises: Error if the option is unknown, invalid or refused."""
    known = table.find(key)
    if not known:
        acting = [one for one in table.KNOWN if one.row.effect is Effect.ACTS]
        names = (f"{one.key}=" if one.needs_value else one.key for one in acting)
        raise OptionUnknown(option, ", ".join(names))
    row = next((one.row for one in known if _allows(one, value)), None)
    if row is not None and row.effect is Effect.REFUSED:
        raise OptionRefused(option, row.text)
    if row is not None:
        return row
    choices = [choice for one in known for choice in one.choices]
    if choices:
        raise OptionInvalid(option, f"give one of {', '.join(choices)}")
    raise OptionInvalid(
        option, f"give a value, as {known[0].spelling}" if not value else "it takes no value"
    )


def _allows(known: table.Known, value: str | None) -> bool:
    if value is None:
        return not known.needs_value
    if not known.takes_value or (known.needs_value and not value):
        return False
    return not known.choices or value in known.choices


def _reason(key: str) -> str:
    return table.find(key)[0].row.text


def _path(option: str, path: str) -> str:
    if not path or "\0" in path:
        raise OptionInvalid(option, "no directory has such a name")
    return path


def _ids(given: _Given, squash: str, mapping: str) -> IdSpec:
    """How users or groups are shown. A mapping is `HOST:CONTAINER:COUNT`, repeated; a leading colon is ignored."""
    values = given.values
    if squash in values:
        return IdSpec(squash_to=_number(values, squash))
    if given.switched_on("squash_to_root"):
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


def _seconds(values: dict[str, str]) -> float | None:
    if "timeout" not in values:
        return None
    try:
        seconds = float(values["timeout"])
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise OptionInvalid(f"timeout={values['timeout']}", "give a number of seconds")
    return seconds
