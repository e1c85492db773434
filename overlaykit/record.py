"""A base class of plain data: named fields, compared by value, never changed.

In place of dataclasses, whose import takes 15 ms: four times bwrap in all.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, NoReturn, Self, dataclass_transform
else:

    def dataclass_transform(**_):
        return lambda base: base


@dataclass_transform(frozen_default=True)
class Record:
    """The annotations of a subclass are its fields, in the order of positional arguments; values are their defaults.

    With `kw_only=True` fields are given by name only. `__post_init__` validates.
    Raises: TypeError: a field is missing or unknown; AttributeError: a field is assigned to.
    """

    fields: ClassVar[dict[str, str]] = {}
    """The annotations by the names of the fields."""
    _kw_only: ClassVar[bool] = False

    def __init_subclass__(cls, *, kw_only: bool = False) -> None:
        own = {name: kind for name, kind in cls.__annotations__.items() if kind[:8] != "ClassVar"}
        cls.fields = cls.fields | own
        cls._kw_only = kw_only

    def __init__(self, *positional: Any, **given: Any) -> None:
        cls = type(self)
        if positional:
            named = dict(zip(cls.fields, positional, strict=False))
            if cls._kw_only or len(named) < len(positional) or named.keys() & given.keys():
                raise TypeError(f"{cls.__name__}: give each field once, and by its name")
            given |= named
        values = self.__dict__
        for field in cls.fields:
            if field in given:
                values[field] = given.pop(field)
            elif hasattr(cls, field):
                values[field] = getattr(cls, field)
            else:
                raise TypeError(f"{cls.__name__}: {field} is missing")
        if given:
            raise TypeError(f"{cls.__name__}: it has no {', '.join(given)}")
        self.__post_init__()

    def __post_init__(self) -> None:
        """Validate. Raises: ValueError, Error."""

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated again."""
        return type(self)(**(self.__dict__ | changes))

    def __setattr__(self, name: str, value: object, /) -> NoReturn:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be changed")

    def __delattr__(self, name: str, /) -> NoReturn:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be changed")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *self.__dict__.values()))

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}({values})"
