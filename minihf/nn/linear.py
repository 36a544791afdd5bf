"""y = x Wᵀ + b, as `nn.Linear`; in float32 inference on a CPU, by the fastest of three ways to the same sums.

    F.linear        asks MKL, Intel's library, whose best kernels are for Intel's processors.
    by_onednn       PyTorch's other library writes its kernels for the processor that it meets. On AMD's (Zen 5, two,
                    384 to 3072 wide) it takes 0.45 of the time with 64 tokens or more, 0.4 to 0.7 with 4 or 12, and
                    0.4 to 0.75 with one. It begins 10 µs later: small matrices do not repay that.
    from_the_left   yᵀ = W xᵀ + b. MKL shares out the rows of its first matrix: x has as many as there are tokens, W
                    hundreds. From 12 to 48 tokens, one sentence, this took 0.45 to 0.95 of the time (384 and 768 wide);
                    with fewer tokens, or more, the usual way is as fast or faster.

In training all take the usual way, so that it is the reference's bit for bit.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

LARGE = 2**17  # numbers in a matrix with which oneDNN is faster at any number of tokens
MUCH = 2**21  # products with which it is faster at any size
FEW = range(12, 49)


class Linear(nn.Linear):
    """(..., in_features) -> (..., out_features)

    A subclass: what looks for `nn.Linear` by `isinstance` finds it, as adapters do. `torch.ao`'s `quantize_dynamic`
    asks for the very type, and passes it by.
    """

    def forward(self, x: Tensor) -> Tensor:
        if suits_onednn(x, self.weight):
            return by_onednn(x, self.weight, self.bias)
        tokens = x.numel() // self.in_features
        if tokens in FEW and not torch.is_grad_enabled() and x.is_cpu and x.dtype == torch.float32:
            return from_the_left(x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., in), (out, in), (out,) -> (..., out). The weight may be the transpose of what lies in memory."""
    return by_onednn(x, weight, bias) if suits_onednn(x, weight) else F.linear(x, weight, bias)


def suits_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether it is faster, and may be taken: it knows neither gradients, forward or backward, nor autocast."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or x.dtype != torch.float32 or not x.is_cpu:
        return False
    if not onednn_is_faster():
        return False
    if x.size(-1) != weight.size(1) or not repays_onednn(weight, x.numel() // max(x.size(-1), 1)):
        return False
    ordinary = type(x) is Tensor and type(weight) in (Tensor, nn.Parameter) and weight.dtype == torch.float32
    free = forward_ad._current_level < 0 and not torch.is_autocast_enabled("cpu")
    return ordinary and free and weight.is_cpu and torch.backends.mkldnn.enabled


def repays_onednn(weight: Tensor, tokens: int) -> bool:
    size = weight.numel()
    return size >= LARGE or tokens * size >= MUCH


@cache
def onednn_is_faster() -> bool:
    """Whether MKL has to do with another maker's processor."""
    known = getattr(torch.cpu, "get_capabilities", dict)()  # not in older PyTorch: MKL, then
    return "AMD" in known.get("cpu_name", "") and torch.backends.mkldnn.is_available()


def by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`weight` (out, in), as it is or packed by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")


def from_the_left(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    columns = x.reshape(-1, x.shape[-1]).t()  # (..., in) -> (in, tokens)
    y = weight @ columns if bias is None else torch.addmm(bias[:, None], weight, columns)  # (out, tokens)
    return y.t().contiguous().view(*x.shape[:-1], len(weight))
