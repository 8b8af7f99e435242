"""Plants a bug in the running program: one passage of one function is replaced, and put back.

The function's own source is taken, the passage exchanged, and the code object swapped in place, so
that everybody who imported the function runs the broken one. A passage that is not there exactly
once is an error of the table, never a mutant that quietly does nothing. Production code knows
nothing of all this.
"""

from __future__ import annotations
import __future__

import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import CodeType, FunctionType
from typing import Any


class StaleEditError(Exception):
    """The table names a passage that the program does not have (any more)."""


@dataclass(frozen=True)
class Edit:
    """In *owner*'s function *name*, *old* (found exactly once) becomes *new*. owner: module, class.
    also: another passage of that function, and what becomes of it.

    Passages are compared as they stand, without the indentation of their first line.
    """

    owner: Any
    name: str
    old: str
    new: str
    also: tuple[str, str] | None = None

    def __str__(self) -> str:
        return f"{getattr(self.owner, '__name__', self.owner)}.{self.name}"

    @cached_property
    def function(self) -> FunctionType:
        """The function that is edited; of a property its getter."""
        found = inspect.getattr_static(self.owner, self.name)
        if isinstance(found, property):
            found = found.fget
        elif isinstance(found, staticmethod | classmethod):
            found = found.__func__
        assert isinstance(found, FunctionType), f"{self} is no function"
        return found

    @cached_property
    def broken(self) -> CodeType:
        """The code with the passage replaced. Raises StaleEditError."""
        function = self.function
        source = textwrap.dedent(inspect.getsource(function))
        for old, new in ((self.old, self.new), *([self.also] if self.also else [])):
            if source.count(old) != 1:
                raise StaleEditError(
                    f"{self}: the passage {old!r} is there {source.count(old)} times; "
                    "the program has changed: adapt the table of mutants"
                )
            source = source.replace(old, new)
        flags = __future__.annotations.compiler_flag
        made: dict[str, Any] = {}
        exec(
            compile(source, f"<mutant of {self}>", "exec", flags, dont_inherit=True),
            dict(function.__globals__),
            made,
        )
        result = made[function.__name__]
        if isinstance(result, property):
            result = result.fget
        elif isinstance(result, staticmethod | classmethod):
            result = result.__func__
        code: CodeType = result.__code__
        assert code.co_freevars == function.__code__.co_freevars, f"{self} is a closure"
        return code


@contextmanager
def planted(edits: tuple[Edit, ...]) -> Iterator[None]:
    """The edits are in force within the block."""
    kept: list[tuple[FunctionType, CodeType]] = []
    try:
        for edit in edits:
            broken = edit.broken
            kept.append((edit.function, edit.function.__code__))
            edit.function.__code__ = broken
        yield
    finally:
        for function, code in reversed(kept):
            function.__code__ = code
