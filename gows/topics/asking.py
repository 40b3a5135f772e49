"""Asking: what functions of the user's say that may be coroutines.

Whatever asks them is a generator, which yields the question and goes on with the answer. So it is written once, for
plain functions and for coroutines. Two can drive it: `answer_now` for plain code, which cannot wait, and `answer`,
which returns a coroutine for the rest once there is something to wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from types import CoroutineType
from typing import Any, NamedTuple, TypeVar

from gows.errors import UsageError


class Question(NamedTuple):
    """A call of a function of the user's."""

    name: str
    """What the user calls it."""
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


T = TypeVar("T")
Asking = Generator[Question, Any, T]
"""Yields questions, is sent what the functions return, and returns a T. What a function raises is raised in it."""


def answer_now(asking: Asking[T]) -> T:
    """Call the functions, and return what the generator returns. Raises what it raises, and UsageError if one of the
    functions is a coroutine."""
    try:
        question = next(asking)
        while True:
            try:
                value = question.function(*question.arguments)
                if _is_coroutine(value):
                    value.close()
                    raise UsageError(
                        f"{question.name} is an `async def`, which requests of gows.v1 wait for; plain code that asks "
                        "it cannot"
                    )
            except BaseException as error:
                question = asking.throw(error)
            else:
                question = asking.send(value)
    except StopIteration as end:
        found: T = end.value
        return found


def answer(asking: Asking[object]) -> Coroutine[Any, Any, None] | None:
    """Call the functions, as far as they are plain. Return a coroutine that does the rest; None if there is none.
    Raises what the generator raises."""
    value: Any = None
    try:
        question = next(asking)
        while True:
            try:
                value = question.function(*question.arguments)
            except BaseException as error:
                question = asking.throw(error)
                continue
            if _is_coroutine(value):
                return _wait(asking, value)
            question = asking.send(value)
    except StopIteration:
        return None


async def _wait(asking: Asking[object], value: Any) -> None:
    failed: BaseException | None = None
    try:
        while True:
            if failed is None and _is_coroutine(value):
                try:
                    value = await value
                except BaseException as error:
                    failed = error
            question = asking.send(value) if failed is None else asking.throw(failed)
            failed = None
            try:
                value = question.function(*question.arguments)
            except BaseException as error:
                failed = error
    except StopIteration:
        pass
    finally:
        failed = None  # whose traceback holds this frame


def _is_coroutine(value: object) -> bool:
    return isinstance(value, (CoroutineType, Coroutine))
