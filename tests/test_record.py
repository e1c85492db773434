"""Records: what crosses from one package to another is complete, named and never changed."""

from __future__ import annotations

from typing import ClassVar

import pytest

from overlaykit.record import Record


class Point(Record):
    dimensions: ClassVar[int] = 2
    x: int
    y: int = 7


class Named(Record, kw_only=True):
    name: str
    points: tuple[Point, ...] = ()

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("no name")


def test_fields_are_given_by_position_or_by_name() -> None:
    assert (Point(1).x, Point(1).y, Point(1, 2).y, Point(y=3, x=1).y) == (1, 7, 2, 3)


@pytest.mark.parametrize(
    ("positional", "named"),
    [((), {}), ((1, 2, 3), {}), ((1,), {"x": 1}), ((1,), {"z": 1}), ((), {"y": 1})],
)
def test_a_wrong_set_of_fields_is_refused(
    positional: tuple[int, ...], named: dict[str, int]
) -> None:
    with pytest.raises(TypeError, match="Point"):
        Point(*positional, **named)


def test_named_fields_are_given_by_name_only() -> None:
    with pytest.raises(TypeError, match="by its name"):
        Named("a")  # type: ignore[call-arg]


def test_a_record_cannot_be_changed() -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match=r"Point\.x"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match=r"Point\.x"):
        del point.x
    assert point.x == 1


def test_records_are_compared_by_class_and_value() -> None:
    assert Named(name="a", points=(Point(1),)) == Named(name="a", points=(Point(1, 7),))
    assert len({Point(1), Point(1, 7), Point(2)}) == 2
    assert Point(1) != (1, 7)
    assert repr(Point(1)) == "Point(x=1, y=7)"


def test_a_replaced_field_is_validated_again() -> None:
    named = Named(name="a", points=(Point(1),))
    assert named.replace(name="b") == Named(name="b", points=(Point(1),))
    with pytest.raises(ValueError, match="no name"):
        named.replace(name="")
