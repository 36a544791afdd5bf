"""A record that is read by attribute, by key and by place, as the course does it."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any


class Output:
    """Reading by key and by index, for dataclasses. Iterating gives the names of the fields that are there."""

    def __getitem__(self, key: str | int | slice) -> Any:
        if isinstance(key, slice):
            return tuple(getattr(self, name) for name in self.keys()[key])
        if not isinstance(key, str):
            return getattr(self, self.keys()[key])
        if key in self:
            return getattr(self, key)
        raise KeyError(f"{type(self).__name__} has no {key!r} here; it has {', '.join(self)}")

    def keys(self) -> list[str]:
        return [f.name for f in fields(self) if vars(self)[f.name] is not None]

    def values(self) -> list[Any]:
        return [getattr(self, name) for name in self.keys()]

    def items(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in self.keys()]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def __len__(self) -> int:
        return len(self.keys())

    def get(self, key: str, default: Any = None) -> Any:
        return getattr(self, key) if key in self else default

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(self.values())

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: all that is there."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


class WhenRead:
    """A field that may be given as a function: when it is first read, the function is called."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, output: Output | None, owner: type) -> Any:
        if output is None:
            return None  # the field's default
        if callable(value := vars(output)[self.name]):
            value = vars(output)[self.name] = value()
        return value

    def __set__(self, output: Output, value: Any) -> None:
        vars(output)[self.name] = value
