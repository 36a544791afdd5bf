"""NEFTune (arXiv 2310.05914): in training the embeddings get uniform noise, which instruction tuning profits from."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def noisy_embeddings(model: nn.Module, alpha: float | None) -> Iterator[None]:
    """Within it a model in training adds noise of magnitude alpha / sqrt(T C); None: there is none."""
    if alpha is None:
        yield
        return

    def add_noise(module: nn.Module, args: Any, x: Tensor) -> Tensor:
        size = alpha / math.sqrt(x.shape[1] * x.shape[2])
        return x + torch.zeros_like(x).uniform_(-size, size) if module.training else x

    handle = model.get_input_embeddings().register_forward_hook(add_noise)
    try:
        yield
    finally:
        handle.remove()
