"""Weights packed for a number of rows, for the time of one call of `generate`.

To multiply 4 or 32 rows by a matrix, MKL first copies the matrix into blocks that suit its registers, each time anew.
A text of 64 tokens does this 64 times with the same weights. Packed once, at some 4 GB a second, the product takes 0.6
of the time with 4 rows and 0.4 with 32 (512 to 2048 wide, 2 cores). One row has no use for it. The packed weights are a
second copy of the model's, given back at the end. A small matrix of GPT-2's layout, (in, out), is in such an order as
it is: asked with packing, it takes up to twice the time.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minihf.nn.conv1d import Conv1D

ROWS = range(4, 65)  # where packing helps
STEPS = 16  # of a text that repays it
SMALL = 2**18  # numbers in a matrix (in, out) that needs no packing


class PackedLinear:
    """y = x Wᵀ + b with W (out, in) packed for `rows` rows; any other number of rows goes the usual way."""

    def __init__(self, weight: Tensor, bias: Tensor | None, rows: int):
        self.weight, self.bias, self.rows = weight, bias, rows
        self.packed: Tensor | None = None  # at first use: of an encoder-decoder, the encoder's are not used again

    def __call__(self, x: Tensor) -> Tensor:
        if x.numel() != self.rows * x.size(-1):
            return F.linear(x, self.weight, self.bias)
        if self.packed is None:
            self.packed = torch.ops.mkl._mkl_reorder_linear_weight(self.weight.contiguous(), self.rows)
        return torch.ops.mkl._mkl_linear(x, self.packed, self.weight, self.bias, self.rows)


def packs(model: nn.Module, rows: int, steps: int) -> bool:
    """Whether it pays: float32 on an x86 CPU, and enough to do. Autocast knows nothing of the packed product."""
    first = next(model.parameters())
    here = first.device.type == "cpu" and first.dtype == torch.float32 and torch.backends.mkl.is_available()
    here = here and hasattr(torch.ops.mkl, "_mkl_linear") and not torch.is_autocast_enabled("cpu")
    return here and rows in ROWS and steps >= STEPS


def packed_linear(module: Any, rows: int) -> PackedLinear | None:
    """What does the work of a linear layer; None for any other module."""
    if isinstance(module, nn.Linear):
        return PackedLinear(module.weight, module.bias, rows)
    if isinstance(module, Conv1D) and module.weight.numel() >= SMALL:
        return PackedLinear(module.weight.T, module.bias, rows)
    return None
