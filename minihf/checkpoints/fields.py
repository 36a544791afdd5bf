"""Records that are written as JSON: does each field hold what its annotation says?"""

import types
from dataclasses import fields
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints


@cache
def annotations(cls: type) -> dict[str, Any]:
    """The fields of a dataclass and their types."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls)}


def check_types(record: Any) -> None:
    """Raise one ValueError that lists every field with a value of another type, or none."""
    wrong = [
        f"{name}={getattr(record, name)!r} (expected {getattr(kind, '__name__', kind)})"
        for name, kind in annotations(type(record)).items()
        if not fits(getattr(record, name), kind)
    ]
    if wrong:
        raise ValueError(f"{type(record).__name__}: " + ", ".join(wrong))


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotated type. An int is a float; a bool is not an int."""
    if get_origin(kind) in (Union, types.UnionType):
        return any(fits(value, k) for k in get_args(kind))
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if get_origin(kind) is list:
        return isinstance(value, list) and all(fits(item, get_args(kind)[0]) for item in value)
    return isinstance(value, get_origin(kind) or kind)
