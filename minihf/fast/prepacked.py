"""Weights packed for a number of rows, for the time of one call of `generate`.

To multiply 4 or 32 rows by a matrix, a library first copies the matrix into blocks that suit its registers, each time
anew. A text of 64 tokens does this 64 times with the same weights. On AMD's processors oneDNN packs them (see
`minihf.nn.linear`), at 5 to 12 GB a second, and then takes 0.55 of the time with 4 rows and 0.8 with 32 (two cores, 384
to 3072 wide). Elsewhere MKL does, at 4 GB a second, and took 0.6 and 0.4 (two cores, 512 to 2048 wide). One row has no
use for it. The packed weights are a second copy of the model's, given back at the end: what is written to the model's
while a text is streamed, they do not see.

GPT-2's matrices, (in, out), are nearly in such an order as they are. MKL packs the large ones: with small ones it takes
up to twice the time. oneDNN packs none, since it gains little and takes long to turn them.
"""

from typing import Any

import torch
from torch import Tensor, nn

from minihf.nn.conv1d import Conv1D
from minihf.nn.linear import by_onednn, is_plain, linear, onednn_is_faster, repays_onednn

ROWS = range(2, 65)  # where packing helps oneDNN
MKL_ROWS = range(4, 65)
STEPS = 16  # of a text that repays it
CONV1D = 2**18  # numbers in a matrix (in, out) that repays being packed by MKL


class PackedLinear:
    """y = x Wᵀ + b with W (out, in) packed for `rows` rows; any other number of rows goes the usual way."""

    def __init__(self, weight: Tensor, bias: Tensor | None, rows: int):
        self.weight, self.bias, self.rows = weight, bias, rows
        self.packed: Tensor | None = None  # at first use: of an encoder-decoder, the encoder's are not used again

    def __call__(self, x: Tensor) -> Tensor:
        if x.numel() != self.rows * x.size(-1):
            return linear(x, self.weight, self.bias)
        if onednn_is_faster():
            if self.packed is None:
                self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.contiguous(), self.rows)
            return by_onednn(x, self.packed, self.bias)
        if self.packed is None:
            self.packed = torch.ops.mkl._mkl_reorder_linear_weight(self.weight.contiguous(), self.rows)
        return torch.ops.mkl._mkl_linear(x, self.packed, self.weight, self.bias, self.rows)


def packs(model: nn.Module, rows: int, steps: int) -> bool:
    """Whether it pays: float32 on an x86 CPU, and enough to do. Autocast knows nothing of the packed product."""
    first = next(model.parameters())
    here = first.device.type == "cpu" and first.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if onednn_is_faster():
        return here and rows in ROWS and steps >= STEPS
    here = here and torch.backends.mkl.is_available() and hasattr(torch.ops.mkl, "_mkl_linear")
    return here and rows in MKL_ROWS and steps >= STEPS


def packed_linear(module: Any, rows: int) -> PackedLinear | None:
    """What does the work of a linear layer; None for any other module, and where packing is no gain."""
    if not isinstance(module, nn.Linear | Conv1D) or not is_plain(module.weight):
        return None
    if module.bias is not None and not is_plain(module.bias):
        return None
    if isinstance(module, nn.Linear) and (not onednn_is_faster() or repays_onednn(module.weight, rows)):
        return PackedLinear(module.weight, module.bias, rows)
    if isinstance(module, Conv1D) and not onednn_is_faster() and module.weight.numel() >= CONV1D:
        return PackedLinear(module.weight.T, module.bias, rows)
    return None
