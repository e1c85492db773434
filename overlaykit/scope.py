"""`ExitStack`, `contextmanager`, `closing`, `suppress`: those of contextlib, whose import costs 4 ms, as much as bwrap.

mypy takes them for contextlib's. They lack asynchronous forms, use as decorators, and `ExitStack.push`.
"""

from __future__ import annotations

__all__ = ["ExitStack", "closing", "contextmanager", "suppress"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import ExitStack, closing, contextmanager, suppress
else:

    def contextmanager(function):
        """Make a context manager of a generator function: its one `yield` stands for the block."""

        def manager(*args, **kwargs):
            return _Generated(function(*args, **kwargs))

        manager.__wrapped__ = function
        for name in ("__module__", "__name__", "__qualname__", "__doc__"):
            setattr(manager, name, getattr(function, name))
        return manager

    class _Generated:
        def __init__(self, generator):
            self._generator = generator

        def __enter__(self):
            return next(self._generator)

        def __exit__(self, kind, error, traceback):
            if error is None:
                for _ in self._generator:
                    raise RuntimeError("the generator yields twice")
                return False
            try:
                self._generator.throw(error)
            except StopIteration as ended:
                return ended is not error
            except BaseException as raised:
                # A generator that lets a StopIteration pass raises a RuntimeError (PEP 479).
                passed = isinstance(error, StopIteration) and raised.__cause__ is error
                if raised is not error and not passed:
                    raise
                error.__traceback__ = traceback
                return False
            raise RuntimeError("the generator yields after an error")

    class suppress:  # noqa: N801
        """Drop errors of these classes that the block raises."""

        def __init__(self, *errors):
            self._errors = errors

        def __enter__(self):
            pass

        def __exit__(self, kind, error, traceback):
            return error is not None and issubclass(kind, self._errors)

    class closing:  # noqa: N801
        """Close an object at the end of the block."""

        def __init__(self, thing):
            self._thing = thing

        def __enter__(self):
            return self._thing

        def __exit__(self, *_):
            self._thing.close()

    class ExitStack:
        """Callbacks and context managers that end with the block, the last first."""

        def __init__(self):
            self._exits = []

        def __enter__(self):
            return self

        def callback(self, function, /, *args, **kwargs):
            def leave(*_):
                function(*args, **kwargs)

            self._exits.append(leave)
            return function

        def enter_context(self, manager):
            leave = type(manager).__exit__
            entered = type(manager).__enter__(manager)
            self._exits.append(lambda *error: leave(manager, *error))
            return entered

        def pop_all(self):
            moved = type(self)()
            moved._exits, self._exits = self._exits, []
            return moved

        def close(self):
            self.__exit__(None, None, None)

        def __exit__(self, kind, error, traceback):
            pending = error
            while self._exits:
                leave = self._exits.pop()
                try:
                    if pending is None:
                        leave(None, None, None)
                    elif leave(type(pending), pending, pending.__traceback__):
                        pending = None
                except BaseException as raised:
                    if raised is not pending and raised.__context__ in (None, error):
                        raised.__context__ = pending
                    pending = raised
            if pending is None or pending is error:
                return error is not None and pending is None
            context = pending.__context__
            try:
                raise pending
            except BaseException:
                pending.__context__ = context
                raise
