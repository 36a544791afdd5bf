"""y = x Wᵀ + b, as `nn.Linear`; in float32 inference on a CPU, by the fastest of four ways to the same sums.

`F.linear` asks MKL, Intel's library, whose best kernels are for Intel's processors. On AMD's (Zen 5, two cores, 384 to
3072 wide), others are faster:

    by_onednn       PyTorch's other library writes its kernels for the processor that it meets. It takes 0.45 of the
                    time with 64 tokens or more, and 0.4 to 0.7 with fewer. It begins 10 µs later: small matrices do not
                    repay that.
    in_parts        One token, with the rows of W in several matrices: MKL has a kernel for such batches that it does
                    not use for one of them. It takes 0.3 to 0.4 of the time, and reads as fast as the memory gives.

Elsewhere (two cores, 384 and 768 wide), one is:

    from_the_left   yᵀ = W xᵀ + b. MKL shares out the rows of its first matrix: x has as many as there are tokens, W
                    hundreds. From 12 to 48 tokens, one sentence, this took 0.45 to 0.95 of the time; with fewer tokens,
                    or more, the usual way is as fast or faster.

In training all take the usual way, so that it is the reference's bit for bit.
"""

from collections.abc import Callable
from functools import cache
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

FEW = range(12, 49)  # tokens of a sentence
LARGE = 2**17  # numbers in a matrix with which oneDNN is faster at any number of tokens
MUCH = 2**21  # products with which it is faster at any size
SMALL = 2**15  # numbers in a matrix that repays its parts


class Linear(nn.Linear):
    """(..., in_features) -> (..., out_features)

    A subclass: what looks for `nn.Linear` by `isinstance` finds it, as adapters do. `torch.ao`'s `quantize_dynamic`
    asks for the very type, and passes it by.
    """

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., in), (out, in), (out,) -> (..., out). The weight may be the transpose of what lies in memory."""
    return fastest(x, weight, bias)(x, weight, bias)


def fastest(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Callable[..., Tensor]:
    """Of the ways, the one for so many tokens and such a matrix."""
    if torch.is_grad_enabled() or x.dtype != torch.float32 or not x.is_cpu:
        return F.linear
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # for any number of tokens
        return F.linear
    if weight.dim() != 2 or x.layout is not torch.strided or weight.layout is not torch.strided:
        return F.linear
    tokens = x.numel() // max(weight.size(1), 1)
    if not onednn_is_faster():
        return from_the_left if tokens in FEW and weight.is_contiguous() else F.linear
    if is_special(x, weight, bias):
        return F.linear
    if tokens == 1 and weight.numel() >= SMALL and weight.is_contiguous() and len(weight) % 2 == 0:
        return in_parts
    return by_onednn if repays_onednn(weight, tokens) else F.linear


def is_special(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether only `F.linear` knows what to do: with derivatives and autocast, other tensors, and what does not fit."""
    if forward_ad._current_level >= 0 or torch.is_autocast_enabled("cpu"):
        return True
    fits = type(x) is Tensor and x.dim() > 0 and x.size(-1) == weight.size(1)
    return not (fits and is_plain(weight) and (bias is None or (is_plain(bias) and bias.shape == weight.shape[:1])))


def is_plain(parameter: Tensor) -> bool:
    """Numbers in memory, float32. A bias lies there without gaps: oneDNN looks at nothing but its beginning."""
    plain = type(parameter) in (nn.Parameter, Tensor) and parameter.dtype == torch.float32 and parameter.is_cpu
    return plain and parameter.layout is torch.strided and (parameter.dim() > 1 or parameter.is_contiguous())


def repays_onednn(weight: Tensor, tokens: int) -> bool:
    size = weight.numel()
    return size >= LARGE or tokens * size >= MUCH


def onednn_is_faster() -> bool:
    return amd() and torch.backends.mkldnn.enabled


@cache
def amd() -> bool:
    """Whether MKL has to do with such a processor, and there is another library."""
    known = getattr(torch.cpu, "get_capabilities", dict)()  # not in older PyTorch: MKL, then
    return "AMD" in known.get("cpu_name", "") and torch.backends.mkldnn.is_available()


def from_the_left(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    columns = x.reshape(-1, x.shape[-1]).t()  # (..., in) -> (in, tokens)
    y = weight @ columns if bias is None else torch.addmm(bias[:, None], weight, columns)  # (out, tokens)
    return y.t().contiguous().view(*x.shape[:-1], len(weight))


def by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`weight` (out, in), as it is or packed by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")


def in_parts(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x is one token; W has an even number of rows."""
    parts = gcd(len(weight), 16)  # enough for as many threads
    rows = weight.view(parts, -1, weight.size(1))
    column = x.reshape(1, -1).t().expand(parts, -1, 1)  # a row turned: PyTorch asks MKL for these strides alone
    y = torch.bmm(rows, column) if bias is None else torch.baddbmm(bias.view(parts, -1, 1), rows, column)
    return y.view(*x.shape[:-1], len(weight))
