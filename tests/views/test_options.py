"""Mount options: the parser, the documentation and the notes agree with the table."""

from __future__ import annotations

import os
import re

import pytest

from overlaykit.errors import Error
from overlaykit.views import parse_options
from overlaykit.views.options.table import KNOWN, ROWS, Effect, Known, Row

LOWER = "lowerdir=/l"
WRITABLE = "upperdir=/u,workdir=/w"

EXAMPLES = {
    "lowerdir=TOP:...:BOTTOM": "lowerdir=/a:/b",
    "lowerdir+=DIR": "lowerdir+=/a",
    "datadir+=DIR": "datadir+=/a",
    "upperdir=DIR": WRITABLE,
    "workdir=DIR": WRITABLE,
    "user[=NAME]": "user=alice",
    "loop[=DEVICE]": "loop=/dev/loop0",
    "timeout=SECONDS": "timeout=0.5",
    "squash_to_uid=UID": "squash_to_uid=5",
    "squash_to_gid=GID": "squash_to_gid=5",
    "uidmapping=HOST:CONTAINER:COUNT[:...]": "uidmapping=0:5:1",
    "gidmapping=HOST:CONTAINER:COUNT[:...]": "gidmapping=0:5:1:7:8:9",
}


def examples(known: Known) -> list[str]:
    """An option with each value in the table."""
    if known.choices:
        return [f"{known.key}={choice}" for choice in known.choices]
    spelled = known.spelling.replace("*", "systemd.requires=x")
    return [EXAMPLES.get(known.spelling, spelled)]


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.spelling)
def test_every_option_has_the_effect_that_the_table_documents(known: Known) -> None:
    for option in examples(known):
        if known.row.effect is Effect.REFUSED:
            with pytest.raises(Error) as refusal:
                parse_options(LOWER, option)
            assert str(refusal.value) == f"mount option {option}: refused: {known.row.text}"
        else:
            notes = parse_options(LOWER, option).notes
            noted = known.row.effect is Effect.NOTED
            assert notes == ((f"mount option {option}: {known.row.text}",) if noted else ())


@pytest.mark.parametrize(
    "known", [one for one in KNOWN if one.row.effect is Effect.ACTS], ids=lambda one: one.spelling
)
def test_an_option_that_acts_changes_how_it_is_mounted(known: Known) -> None:
    """Except defaults and options that only switch another one off."""
    by_default = {"rw", "dev", "suid", "exec", "atime", "diratime", "relatime", "async", "fsync=1"}
    by_default |= {"index=on", "redirect_dir=on", "noxattrs=0", "xattr_permissions=0"}
    by_default |= {"uuid=on", "uuid=null", "uuid=auto", "whiteout=auto"}
    by_default |= {"metacopy=off", "verity=off", "data_plane=on", "no_open=off", "data=cache"}
    by_default |= {"restart=on", "live=off"}
    plain = parse_options(LOWER, WRITABLE)
    for option in examples(known):
        if option not in {*by_default, WRITABLE}:
            assert parse_options(LOWER, WRITABLE, option) != plain, option


@pytest.mark.parametrize(
    ("off", "on"),
    [
        *(("rw", "ro"), ("dev", "nodev"), ("suid", "nosuid"), ("exec", "noexec")),
        *(("atime", "noatime"), ("diratime", "nodiratime"), ("async", "sync")),
        *(("fsync=1", "volatile"), ("noxattrs=0", "noxattr"), ("symfollow", "nosymfollow")),
        *(("index=on", "index=off"), ("uuid=on", "uuid=off"), ("data_plane=on", "data_plane=off")),
        ("restart=on", "restart=off"),
    ],
)
def test_the_later_of_two_options_wins(off: str, on: str) -> None:
    plain = parse_options(LOWER, WRITABLE)
    assert parse_options(LOWER, WRITABLE, f"{on},{off}") == plain
    assert parse_options(on, f"{LOWER},{WRITABLE}", off) == plain
    switched_on = parse_options(LOWER, WRITABLE, on)
    assert switched_on != plain
    assert parse_options(f"{off},{LOWER},{on},defaults", WRITABLE) == switched_on


def test_what_user_implies_can_be_taken_back() -> None:
    flags = parse_options(LOWER, "user,exec").flags
    assert (flags.noexec, flags.nosuid, flags.nodev) == (False, True, True)


def test_the_longest_prefix_decides() -> None:
    parse_options(LOWER, "x-systemd.automount,X-anything=1")
    with pytest.raises(Error, match=r"^mount option X-mount.mkdir: refused: mount\(8\) alone"):
        parse_options(LOWER, "X-mount.mkdir")


@pytest.mark.parametrize(
    ("options", "lowers"),
    [
        (r"lowerdir=/a:/b", ["/a", "/b"]),
        (r"lowerdir=/a\:b:/c", ["/a:b", "/c"]),
        (r"lowerdir=/a\,b", ["/a,b"]),
        (r"lowerdir=/a\\b", [r"/a\b"]),
        (r"lowerdir=/a\\:/b", ["/a\\", "/b"]),
        (r"lowerdir=/a\b", ["/ab"]),
        (r"lowerdir=/a\040b\072c\134", ["/a b:c\\"]),
        ("lowerdir=/\\303\\251\\377", ["/é\udcff"]),
        (r'lowerdir="/a"', ['"/a"']),
        (r"lowerdir=:/a:", ["/a"]),
        (r"lowerdir+=/a:b,lowerdir+=/c", ["/a:b", "/c"]),
        (r"lowerdir+=/a\:b\\c\,d", [r"/a\:b\\c,d"]),
        (r"lowerdir=/a,lowerdir+=/b", ["/a", "/b"]),
        (r"lowerdir+=/a,lowerdir=/b:/c", ["/b", "/c"]),
        (r"lowerdir=/a,lowerdir=/b", ["/b"]),
    ],
)
def test_quoted_lowers_are_read_as_the_kernel_reads_them(options: str, lowers: list[str]) -> None:
    assert list(parse_options(options).lowerdir) == lowers


@pytest.mark.parametrize("key", ["upperdir", "workdir"])
@pytest.mark.parametrize(
    ("quoted", "path"),
    [
        (r"/col\:on", "/col:on"),
        ("/col:on", "/col:on"),
        (r"/a\,b", "/a,b"),
        (r"/a\\b\\", "/a\\b\\"),
        (r"/a\040b", "/a b"),
        ("/a\\", "/a"),
    ],
)
def test_uppers_and_work_directories_are_unquoted_as_lowers(
    key: str, quoted: str, path: str
) -> None:
    stack = parse_options(LOWER, WRITABLE, f"{key}={quoted}")
    assert getattr(stack, key) == path


def test_a_quoted_label_may_hold_commas() -> None:
    label = "system_u:object_r:tmp_t:s0:c127,c456"
    stack = parse_options(f'context="{label}",{LOWER},rootcontext=plain')
    assert stack.flags.contexts == {"context": label, "rootcontext": "plain"}


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("ro=x", "it takes no value"),
        ("timeout", "give a value, as timeout=SECONDS"),
        ("timeout=soon", "give a number of seconds"),
        ("timeout=-1", "give a number of seconds"),
        ("timeout=nan", "give a number of seconds"),
        ("metacopy=maybe", "give one of on, off"),
        ("metacopy", "give one of on, off"),
        ("upperdir=", "give a value, as upperdir=DIR"),
        (r"lowerdir=/a\000b", "no directory has such a name"),
        ("lowerdir=/a::/b", "after '::' comes what datadir+= names: only files copied up"),
    ],
)
def test_an_invalid_value_is_reported(option: str, line: str) -> None:
    with pytest.raises(Error) as refusal:
        parse_options(LOWER, option)
    assert str(refusal.value).startswith(f"mount option {option}: {line}")


def test_the_documentation_has_the_table_and_nothing_else() -> None:
    checkout = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    with open(os.path.join(checkout, "docs", "mount-options.md"), encoding="utf-8") as file:
        text = re.sub(r"^## .*$", "", file.read(), flags=re.MULTILINE)
    tables = re.split(r"^\| option \|.*\n\|---\|---\|\n", text, flags=re.MULTILINE)[1:]
    assert [table.strip().split("\n") for table in tables] == [
        [documented(row) for row in ROWS if row.effect is effect] for effect in Effect
    ]


def documented(row: Row) -> str:
    names = ", ".join(f"`{spelling}`" for spelling in row.spellings.split())
    return f"| {names.replace('|', chr(92) + '|')} | {row.text} |"
