"""Rows of ids made into batches: which of them go through a model together, in what table, and what is read of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby

import numpy as np
import torch
from tokenizers import Encoding
from torch import Tensor, nn


def batched(rows: list[Encoding], kinds: list[int], fitting: Callable[[Encoding], int]) -> Iterator[list[int]]:
    """The numbers of the rows of each batch: all of one kind, the longest first, as many as are `fitting` to that."""
    order = sorted(range(len(rows)), key=lambda i: (kinds[i], -len(rows[i])))
    for _, group in groupby(order, key=lambda i: kinds[i]):
        alike = list(group)
        while alike:
            number = fitting(rows[alike[0]])
            yield alike[:number]
            alike = alike[number:]


def table(rows: list[Encoding], name: str, fill: int, left: bool = False) -> Tensor:
    """What the rows hold under this name, int64 (B, T), the short ones filled up on the right, or `left`."""
    lengths = [len(row) for row in rows]
    T = max(lengths)
    filled = np.full((len(rows), T), fill, dtype=np.int64)
    for line, row, length in zip(filled, rows, lengths, strict=True):
        line[T - length if left else 0 : T if left else length] = getattr(row, name)
    return torch.from_numpy(filled)


@contextmanager
def packed(model: nn.Module) -> Iterator[None]:
    """Let an encoder that has no other wish read real tokens alone, for this while."""
    config = model.config
    able = "packed" in config.attn_implementations and not getattr(config, "is_decoder", False)
    if config.attn_implementation != "sdpa" or not able:
        yield
        return
    config.attn_implementation = "packed"
    try:
        yield
    finally:
        config.attn_implementation = "sdpa"
