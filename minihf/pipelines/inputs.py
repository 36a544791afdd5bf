"""What people pass to a pipeline beside its options: a device, a size, and texts, which may come one by one."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import Dataset


def as_device(device: int | str | torch.device | None) -> torch.device:
    """The device that a person means; None is the accelerator where there is one."""
    if device is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if isinstance(device, int) and not isinstance(device, bool):
        device = "cpu" if device < 0 else f"cuda:{device}"
    try:
        device = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f'device={device!r} is none; such are "cpu", "cuda:1", -1 (the CPU), 0 (a GPU)') from error
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # one that this torch was not made for asserts
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device={str(device)!r} is not to be had here: {reason}") from error
    return device


def checked_size(size: int | None) -> int | None:
    if size is not None and (type(size) is not int or size < 1):
        raise ValueError(f"batch_size={size!r}; a positive number was expected, or None")
    return size


def elements(inputs: Iterable) -> Iterator:
    """Of an iterator, or of a dataset that may know no more than its length and its items."""
    if isinstance(inputs, Dataset) and not hasattr(inputs, "__iter__"):
        return (inputs[i] for i in range(len(inputs)))
    return iter(inputs)


def told(value: Any) -> str:
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
