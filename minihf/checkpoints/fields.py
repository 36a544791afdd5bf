"""Records that are written as JSON: does each field hold what its annotation says?"""

import types
from collections.abc import Callable
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
    return fitting(kind)(value)


@cache
def fitting(kind: Any) -> Callable[[Any], bool]:
    """The test that `fits` makes: a call of `generate` settles 60 fields, and reads no annotation twice."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        optional = types.NoneType in inner  # most fields are None
        tests = [fitting(each) for each in inner if each is not types.NoneType]
        return lambda value: (optional and value is None) or any(test(value) for test in tests)
    if kind in (int, float):
        numbers = (int, float) if kind is float else int
        return lambda value: isinstance(value, numbers) and not isinstance(value, bool)
    if origin is list:
        item = fitting(inner[0])
        return lambda value: isinstance(value, list) and all(map(item, value))
    return lambda value: isinstance(value, origin or kind)
