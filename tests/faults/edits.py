"""Edits: functions of the product with a mistake in them, for as long as this process lives."""

from __future__ import annotations
import __future__

import importlib
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any, Final, TypeVar

Value = TypeVar("Value")

_PREFIX: Final = "_reached_"


class EditError(Exception):
    """An edit that doesn't fit its place: the product has changed, the catalogue has not."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A deliberate mistake in one function.

    Attributes:
        place: The function, as `module:Class.method` or `module:function`.
        before: What its text says, exactly once, the indentation of its `def` taken off.
        after: What it says instead. It calls `reached()`, or `reached(value)` for the value,
            where the mistake acts.
    """

    place: str
    before: str
    after: str


class Reach:
    """How often the place of one edit was passed."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, value: Value | None = None) -> Value | None:
        """Count, and give the value back."""
        self.count += 1
        return value


def apply(edit: Edit) -> Reach:
    """Give the function the edited code; who imported it by name or listens with it has it, too.

    Returns:
        What counts how often it is passed.

    Raises:
        EditError: there is no such place, it doesn't say so, or it was edited before.
    """
    function = _find(edit.place)
    if any(name.startswith(_PREFIX) for name in function.__code__.co_names):
        raise EditError(f"{edit.place}: was edited before; make one edit of the two")
    source = textwrap.dedent(inspect.getsource(function))
    if (times := source.count(edit.before)) != 1:
        raise EditError(f"{edit.place}: says {times} times {edit.before!r}")
    if "reached(" not in edit.after:
        raise EditError(f"{edit.place}: nothing tells whether it was reached")
    reach, name = Reach(), f"{_PREFIX}{function.__code__.co_firstlineno}"
    function.__globals__[name] = reach
    after = edit.after.replace("reached(", f"{name}(")
    function.__code__ = _compile(source.replace(edit.before, after), function.__code__)
    return reach


def _find(place: str) -> FunctionType:
    module, _, path = place.partition(":")
    found: Any = importlib.import_module(module)
    for name in path.split("."):
        found = inspect.getattr_static(found, name, None)
    found = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
    found = inspect.unwrap(found) if callable(found) else found
    if not isinstance(found, FunctionType):
        raise EditError(f"{place}: there is no such function")
    return found


def _compile(source: str, code: CodeType) -> CodeType:
    """Compile within a class, so that `super()` is what it was, and lines are where they were."""
    head = "\n" * max(0, code.co_firstlineno - 2) + "class _:\n"
    text = head + textwrap.indent(source, "    ")
    flags = __future__.annotations.compiler_flag
    module = compile(text, code.co_filename, "exec", flags=flags, dont_inherit=True)
    return next(inner for inner in _codes_in(module) if inner.co_name == code.co_name)


def _codes_in(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes_in(constant)
