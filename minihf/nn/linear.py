"""y = x Wᵀ + b, as `nn.Linear`; for a few tokens in inference, computed from the other side: yᵀ = W xᵀ + b.

Both are the same products and sums. But MKL, which multiplies PyTorch's matrices on x86, shares out the rows of its
first matrix: x has as many as there are tokens, W hundreds. From 12 to 48 tokens, one sentence, the second way takes
0.45 to 0.95 of the time (384 and 768 wide, 2 cores); with fewer tokens, or more, the first is as fast or faster.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW = range(12, 49)


class Linear(nn.Linear):
    """(..., in_features) -> (..., out_features)

    A subclass: what looks for `nn.Linear` by `isinstance` finds it, as adapters do. `torch.ao`'s `quantize_dynamic`
    asks for the very type, and passes it by.
    """

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.numel() // self.in_features
        if tokens in FEW and not torch.is_grad_enabled() and x.device.type == "cpu" and x.dtype == torch.float32:
            return from_the_left(x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)


def from_the_left(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    columns = x.reshape(-1, x.shape[-1]).t()  # (..., in) -> (in, tokens)
    y = weight @ columns if bias is None else torch.addmm(bias[:, None], weight, columns)  # (out, tokens)
    return y.t().contiguous().view(*x.shape[:-1], len(weight))
