"""The non-linearities by the names that configs use.

Four of these are the same idea: GELU is x times the probability that a standard normal variable is below x. "gelu" is
exact; "gelu_new", "gelu_fast" and "gelu_pytorch_tanh" are one tanh approximation, from GPT-2; "quick_gelu" is a
sigmoid.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor


def gelu_tanh_by_hand(x: Tensor) -> Tensor:
    """The tanh approximation of GELU as its paper writes it (arXiv 1606.08415): the oracle of the fused `gelu_tanh`."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu_tanh(x: Tensor) -> Tensor:
    """`gelu_tanh_by_hand` in one kernel instead of eight."""
    return F.gelu(x, approximate="tanh")


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def relu_squared(x: Tensor) -> Tensor:
    return F.relu(x).square()


def identity(x: Tensor) -> Tensor:
    return x


def in_place(activation: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The activation, which in inference overwrites what it is given rather than to fill new memory.

    The tensor between a layer's two linear ones is its largest: for GELU, finding room for another takes longer than
    the mathematics. It must be nobody else's.
    """
    overwrite = OVERWRITING.get(activation, activation)

    def apply(x: Tensor) -> Tensor:
        return activation(x) if torch.is_grad_enabled() else overwrite(x)

    return apply


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_python": F.gelu,
    "gelu_new": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": F.relu,
    "relu2": relu_squared,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "silu": F.silu,
    "swish": F.silu,
    "mish": F.mish,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "linear": identity,
}
# Not `torch.ops.aten.gelu_`: to find the operator by its name takes longer than a token of a small model needs for it.
OVERWRITING: dict[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] = {
    F.gelu: lambda x: F.gelu(x, out=x),
    gelu_tanh: lambda x: F.gelu(x, approximate="tanh", out=x),
    F.relu: torch.relu_,
    F.silu: partial(F.silu, inplace=True),
}
