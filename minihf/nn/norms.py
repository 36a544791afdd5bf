"""Norms that PyTorch does not have quite as the papers' checkpoints were trained."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minihf.nn.losses import upcast


class RMSNorm(nn.Module):
    """A vector brought to length sqrt(C), channel by channel rescaled (Zhang and Sennrich, 2019, arXiv 1910.07467).

    LayerNorm without the mean and without the bias: y = x / sqrt(mean(x²) + eps) * weight. In half precision the mean
    is taken in float32, and the quotient is rounded before it meets the weight, as Llama and T5 were trained.
    """

    def __init__(self, channels: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == self.weight.dtype and x.dtype.itemsize >= 4:  # nothing is rounded on the way: one call for all
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return rms_norm_by_hand(x, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"


def rms_norm_by_hand(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The paper's equation 4, an operation a line: half precision's way, and the oracle of the other."""
    wide = upcast(x)
    variance = wide.square().mean(-1, keepdim=True)
    return weight * (wide * torch.rsqrt(variance + eps)).to(x.dtype)
