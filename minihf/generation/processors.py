"""What is done to the logits before a token is chosen: pure functions (ids (B, T), logits (B, V)) -> logits (B, V).

Sampled ids equal the reference's under one seed because order and arithmetic are the reference's.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from minihf.generation.config import GenerationConfig

Processor = Callable[[Tensor, Tensor], Tensor]


def sampling_processors(config: GenerationConfig) -> list[Processor]:
    """Those that reshape the distribution to draw from, in the reference's order."""
    processors = []
    if config.temperature not in (None, 1):
        processors.append(temperature(config.temperature))
    if config.top_k:
        processors.append(top_k(config.top_k))
    if config.top_p is not None and config.top_p < 1:
        processors.append(top_p(config.top_p))
    return processors


def temperature(t: float) -> Processor:
    return lambda ids, logits: logits / t


def top_k(k: int) -> Processor:
    """Only the k most probable tokens (arXiv 1805.04833); those that tie with the k-th stay too."""

    def process(ids: Tensor, logits: Tensor) -> Tensor:
        kth = logits.topk(min(k, logits.shape[-1])).values[:, -1:]
        return logits.masked_fill(logits < kth, -torch.inf)

    return process


def top_p(p: float) -> Processor:
    """The nucleus (arXiv 1904.09751): the fewest tokens that hold p of the probability, and at least one."""

    def process(ids: Tensor, logits: Tensor) -> Tensor:
        ascending, order = logits.sort()
        out = ascending.softmax(-1).cumsum(-1) <= 1 - p
        out[:, -1] = False
        return logits.masked_fill(out.scatter(-1, order, out), -torch.inf)

    return process
