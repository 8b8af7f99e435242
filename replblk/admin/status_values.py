"""``NodeStatus`` to plain JSON values and back, for the control socket.

Enums travel as DRBD's words. Reading follows the dataclasses' own types: a missing key takes the
field's default, an unknown one (a newer daemon's) is passed over, a wrong one is an AdminError.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from enum import IntEnum
from typing import Any, Union, get_args, get_origin, get_type_hints

from replblk.model.errors import AdminError
from replblk.model.status import NodeStatus

_LIST_MAX = 65536


def status_to_json(status: NodeStatus) -> dict[str, Any]:
    """*status* as JSON values."""
    values = _plain(status)
    assert isinstance(values, dict)
    return values


def status_from_json(values: Any) -> NodeStatus:
    """The status that ``status_to_json`` wrote."""
    status = _reader(NodeStatus)(values, "status")
    assert isinstance(status, NodeStatus)
    return status


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, IntEnum):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


_Read = Callable[[Any, str], Any]
_READERS: dict[Any, _Read] = {}


def _reader(kind: Any) -> _Read:
    """What turns a JSON value into one of type *kind*; made once for each type."""
    if kind not in _READERS:
        _READERS[kind] = _make_reader(kind)
    return _READERS[kind]


def _make_reader(kind: Any) -> _Read:
    if is_dataclass(kind):
        return _dataclass_reader(kind)
    if isinstance(kind, type) and issubclass(kind, IntEnum):
        members = {str(item): item for item in kind}
        return lambda value, where: _member(members, value, where)
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (types.UnionType, Union):
        inner = _reader(next(part for part in parts if part is not type(None)))
        return lambda value, where: None if value is None else inner(value, where)
    if origin is tuple:
        return _tuple_reader(parts)
    return lambda value, where: _scalar(kind, value, where)


def _dataclass_reader(kind: Any) -> _Read:
    hints = get_type_hints(kind)
    known = [
        (
            field.name,
            _reader(hints[field.name]),
            field.default is MISSING and field.default_factory is MISSING,
        )
        for field in fields(kind)
    ]

    def read(value: Any, where: str) -> Any:
        if not isinstance(value, dict):
            raise _wrong(where, "an object", value)
        found = {}
        for name, inner, required in known:
            if name in value:
                found[name] = inner(value[name], f"{where}.{name}")
            elif required:
                raise AdminError(f"{where}: '{name}' is missing", exit_code=20)
        return kind(**found)

    return read


def _tuple_reader(parts: tuple[Any, ...]) -> _Read:
    endless = len(parts) == 2 and parts[1] is Ellipsis
    readers = [_reader(part) for part in parts if part is not Ellipsis]

    def read(value: Any, where: str) -> Any:
        if not isinstance(value, list) or len(value) > _LIST_MAX:
            raise _wrong(where, "a list", value)
        if endless:
            return tuple(readers[0](item, f"{where}[{at}]") for at, item in enumerate(value))
        if len(value) != len(readers):
            raise _wrong(where, f"a list of {len(readers)}", value)
        return tuple(
            inner(item, f"{where}[{at}]")
            for at, (inner, item) in enumerate(zip(readers, value, strict=True))
        )

    return read


def _member(members: dict[str, Any], value: Any, where: str) -> Any:
    if not isinstance(value, str) or value not in members:
        raise _wrong(where, f"one of {', '.join(members)}", value)
    return members[value]


def _scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise _wrong(where, f"of type {kind.__name__}", value)
    return value


def _wrong(where: str, expected: str, value: Any) -> AdminError:
    text = ascii(value)
    shown = text if len(text) <= 60 else f"{text[:60]}..."
    return AdminError(f"{where}: must be {expected}, not {shown}", exit_code=20)
