"""The launcher's ExitStack and contextmanager end what they began as those of contextlib do."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from overlaykit import scope

Scenario = Callable[[Any, list[str]], object]


class Wrong(Exception):
    pass


def _context(
    module: Any, seen: list[str], *, dropping: type[BaseException] | tuple[()] = ()
) -> Any:
    def context(name: str) -> Iterator[str]:
        seen.append(f"enter {name}")
        try:
            yield name
        except dropping as error:
            seen.append(f"drop {error!r}")
        finally:
            seen.append(f"leave {name}")

    return module.contextmanager(context)


def nothing_wrong(module: Any, seen: list[str]) -> None:
    context = _context(module, seen)
    with module.ExitStack() as stack, context("a"):
        assert stack.enter_context(context("b")) == "b"
        stack.callback(seen.append, "callback")
        stack.enter_context(
            module.closing(type("Thing", (), {"close": lambda _: seen.append("close")})())
        )


def an_error_passes(module: Any, seen: list[str]) -> None:
    with module.ExitStack() as stack:
        stack.enter_context(_context(module, seen)("a"))
        stack.callback(seen.append, "callback")
        raise Wrong("block")


def an_error_is_dropped(module: Any, seen: list[str]) -> None:
    with module.ExitStack() as stack:
        stack.enter_context(_context(module, seen)("outer"))
        stack.enter_context(_context(module, seen, dropping=Wrong)("a"))
        stack.enter_context(_context(module, seen)("b"))
        raise Wrong("block")


def callbacks_fail(module: Any, seen: list[str]) -> None:
    def fail(text: str) -> None:
        raise Wrong(text)

    with module.ExitStack() as stack:
        stack.callback(seen.append, "first")
        stack.callback(fail, "second")
        stack.callback(fail, "third")
        raise Wrong("block")


def a_callback_fails_without_an_error(module: Any, seen: list[str]) -> None:
    with module.ExitStack() as stack:
        stack.enter_context(_context(module, seen)("a"))
        stack.callback(lambda: [].pop())


def moved_callbacks(module: Any, seen: list[str]) -> None:
    with module.ExitStack() as stack:
        stack.callback(seen.append, "moved")
        kept = stack.pop_all()
    seen.append("after")
    kept.close()
    kept.close()


def a_stop_iteration_passes(module: Any, seen: list[str]) -> None:
    with _context(module, seen)("a"):
        raise StopIteration("block")


def an_error_is_replaced(module: Any, seen: list[str]) -> None:
    def replacing() -> Iterator[None]:
        try:
            yield
        except Wrong as error:
            raise OSError(5, "replaced") from error

    with module.contextmanager(replacing)():
        raise Wrong("block")


def errors_are_suppressed(module: Any, seen: list[str]) -> None:
    with module.suppress(KeyError, OSError):
        raise FileNotFoundError
    with module.suppress(KeyError):
        seen.append("nothing raised")
    with module.suppress(KeyError):
        raise ValueError("not suppressed")


def two_yields(module: Any, seen: list[str]) -> None:
    def twice() -> Iterator[None]:
        yield
        yield

    with module.contextmanager(twice)():
        pass


def a_yield_after_an_error(module: Any, seen: list[str]) -> None:
    def again() -> Iterator[None]:
        try:
            yield
        except Wrong:
            yield

    with module.contextmanager(again)():
        raise Wrong("block")


def _outcome(module: ModuleType, scenario: Scenario) -> tuple[list[str], list[str]]:
    seen: list[str] = []
    chain = []
    error: BaseException | None = None
    try:
        scenario(module, seen)
    except BaseException as raised:
        error = raised
    while error is not None:
        # contextlib words its RuntimeErrors differently.
        chain.append("RuntimeError" if isinstance(error, RuntimeError) else repr(error))
        error = error.__cause__ or error.__context__
    return seen, chain


@pytest.mark.parametrize(
    "scenario",
    [
        nothing_wrong,
        an_error_passes,
        an_error_is_dropped,
        callbacks_fail,
        a_callback_fails_without_an_error,
        moved_callbacks,
        a_stop_iteration_passes,
        an_error_is_replaced,
        errors_are_suppressed,
        two_yields,
        a_yield_after_an_error,
    ],
)
def test_what_was_begun_ends_as_with_contextlib(scenario: Scenario) -> None:
    assert _outcome(scope, scenario) == _outcome(contextlib, scenario)
