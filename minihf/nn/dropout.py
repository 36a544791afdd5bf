"""Dropout (Srivastava et al., 2014): in training, a number is zeroed with probability p, or grows by 1 / (1 - p)."""

import torch
from torch import Tensor, nn


class Dropout(nn.Dropout):
    """`nn.Dropout`, which outside training is not even called, unless somebody listens.

    A small model would call it more often than anything else.
    """

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x) if self.training or self._forward_hooks or self._forward_pre_hooks else x


def left_out(layer: nn.Module, probability: float) -> bool:
    """LayerDrop (arXiv 1909.11556): in training, a whole layer is passed by with a probability."""
    return layer.training and probability > 0 and bool(torch.rand([]) < probability)
