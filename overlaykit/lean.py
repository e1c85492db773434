"""`NamedTuple`, `Protocol`, `partial`, `wraps`, `OrderedDict`: those of typing, functools and collections.

The import of these three takes 13 ms, almost as long as the start of a bare interpreter. mypy takes the names for
theirs. A `NamedTuple` here lacks generics and `__new__` of its own.
"""

from __future__ import annotations

__all__ = ["NamedTuple", "OrderedDict", "Protocol", "partial", "wraps"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import OrderedDict
    from functools import partial, wraps
    from typing import NamedTuple, Protocol
else:
    from _collections import OrderedDict, _tuplegetter
    from _functools import partial

    class Protocol:
        """A class that only says what others have. It is neither instantiated nor asked about instances."""

        def __class_getitem__(cls, _):
            return cls

    def wraps(wrapped):
        """Give a function the name and the documentation of another one, in whose place it stands."""

        def give(function):
            for name in ("__module__", "__name__", "__qualname__", "__doc__"):
                setattr(function, name, getattr(wrapped, name))
            function.__dict__.update(wrapped.__dict__)
            function.__wrapped__ = wrapped
            return function

        return give

    class _Meta(type):
        def __new__(meta, name, bases, body):
            if bases:
                fields = tuple(body.get("__annotations__", ()))
                defaults = {field: body[field] for field in fields if field in body}
                if tuple(defaults) != fields[len(fields) - len(defaults) :]:
                    raise TypeError(f"{name}: a field without a default follows one with a default")
                body.update((field, _tuplegetter(at, "")) for at, field in enumerate(fields))
                body.update(
                    __slots__=(), _fields=fields, _field_defaults=defaults, __match_args__=fields
                )
            return super().__new__(meta, name, bases, body)

    class NamedTuple(tuple, metaclass=_Meta):
        """The annotations of a subclass are its fields; values are their defaults. There are no subclasses of that."""

        __slots__ = ()

        def __new__(cls, *positional, **given):
            # The first instance makes the constructor: many classes of a command have none.
            arguments, fields = ", ".join(cls._fields), "".join(f"{name}, " for name in cls._fields)
            scope = {"make": tuple.__new__}
            code = f"lambda cls, {arguments}: make(cls, ({fields}))"
            new = eval(code, scope)  # noqa: S307  # names of fields
            new.__defaults__ = tuple(cls._field_defaults.values())
            new.__name__, new.__qualname__ = "__new__", f"{cls.__qualname__}.__new__"
            cls.__new__ = new
            return new(cls, *positional, **given)

        @classmethod
        def _make(cls, values):
            made = tuple.__new__(cls, values)
            if len(made) != len(cls._fields):
                raise TypeError(f"{cls.__name__}: {len(cls._fields)} values, not {len(made)}")
            return made

        def _replace(self, /, **changes):
            made = self._make(map(changes.pop, self._fields, self))
            if changes:
                raise ValueError(f"{type(self).__name__} has no {', '.join(changes)}")
            return made

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def __repr__(self):
            values = ", ".join(f"{name}={value!r}" for name, value in self._asdict().items())
            return f"{type(self).__name__}({values})"

        def __getnewargs__(self):
            return tuple(self)
