"""Messages arrive as they were sent, whatever bytes a name has; what is no message is refused."""

from __future__ import annotations

import json
from typing import Literal, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlaykit import codec
from overlaykit.record import Record

from .untimed import UNTIMED

Mode: TypeAlias = "Literal['on', 'off']"


class Range(Record):
    first: int
    count: int = 1


class Mount(Record, kw_only=True):
    source: str
    mode: Mode = "on"
    upper: str | None = None
    ranges: tuple[Range, ...] = ()
    pair: tuple[int, str] = (0, "")
    flags: dict[str, bool] = {}  # noqa: RUF012
    timeout: float | None = None


class End(Record):
    pass


Message = Mount | End

names = st.binary(max_size=20).map(lambda raw: raw.decode("utf-8", "surrogateescape")) | st.text()
mounts = st.builds(
    Mount,
    source=names,
    mode=st.sampled_from(["on", "off"]),
    upper=st.none() | names,
    ranges=st.lists(st.builds(Range, st.integers(), st.integers())).map(tuple),
    pair=st.tuples(st.integers(), names),
    flags=st.dictionaries(names, st.booleans()),
    timeout=st.none() | st.floats(allow_nan=False, allow_infinity=False),
)


@UNTIMED
@given(mounts)
def test_a_message_arrives_as_it_was_sent(message: Mount) -> None:
    raw = codec.encode(message)
    found: Message = codec.decode(raw, Message)
    assert found == message
    assert b"\n" not in raw


@UNTIMED
@given(mounts)
def test_a_message_is_json(message: Mount) -> None:
    found = json.loads(codec.encode(message))
    assert found.pop("type") == "Mount"
    assert found == json.loads(codec.encode_pretty(message))
    assert codec.convert(found, Mount) == message


@UNTIMED
@given(mounts, st.data())
def test_a_damaged_message_is_refused_or_another_message(
    message: Mount, data: st.DataObject
) -> None:
    raw = bytearray(codec.encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        index = data.draw(st.integers(0, len(raw) - 1))
        raw[index : index + data.draw(st.integers(0, 2))] = data.draw(
            st.binary(max_size=2)
            | st.sampled_from([b'"', b"[", b"]", b"{", b"}", b",", b":", b"\\u"])
        )
    try:
        found: Message = codec.decode(bytes(raw), Message)
    except ValueError:
        return
    assert isinstance(found, Mount | End)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"{}",
        b"[]",
        b"nonsense",
        b'{"type":"End"}{}',
        b'{"type":"Mount","source":"s","timeout":NaN}',
        b'{"type":"Mount","source":"\x80"}',
        b'{"type":"End","more":1}',
        b'{"type":"Range","first":1}',
        b'{"type":"Mount"}',
        b'{"type":"Mount","source":1}',
        b'{"type":"Mount","source":null}',
        b'{"type":"Mount","source":"s","mode":"other"}',
        b'{"type":"Mount","source":"s","mode":[]}',
        b'{"type":"Mount","source":"s","ranges":[{"first":"1"}]}',
        b'{"type":"Mount","source":"s","ranges":[{"first":true}]}',
        b'{"type":"Mount","source":"s","pair":[1]}',
        b'{"type":"Mount","source":"s","pair":[1,"2",3]}',
        b'{"type":"Mount","source":"s","flags":{"a":1}}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_message_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="not a message"):
        codec.decode(raw, Message)


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
def test_a_number_that_is_not_json_is_not_sent(number: float) -> None:
    with pytest.raises(TypeError, match="cannot be encoded"):
        codec.encode(Mount(source="s", timeout=number))
