"""Linear layers whose weights are int8 or float16, for the tokens that `generate` writes.

To write a token, a model reads each of its weights once and does little with it: with one text, or a few, the time is
that of the reading. An int8 weight is a quarter of a float32 one to read, a float16 one a half.

int8 is dynamic quantization as in PyTorch's `torch.ao`: w ≈ scale * n, n from -127 to 127, a scale for each output;
the inputs are rounded to 8 bits, or 7 where the CPU needs it (see `overflows`), at each call with one scale for all
rows, so that a text's numbers depend a little on its neighbours'. The sums are exact. float16 rounds the weights alone.
The kernels are FBGEMM's, which PyTorch carries on x86.
"""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from minihf.nn.conv1d import Conv1D
from minihf.nn.linear import Linear

WEIGHTS = ("int8", "float16")


def decode_in(model: nn.Module, weights: str | None) -> None:
    """Let `model.generate` write with rounded weights: `decode_in(model, "int8")`.

    The model stays as it is: parameters, `state_dict()`, a call of its own. Of `generate`, prompts are read with its
    own weights too, and so is everything in training mode, without a cache, and where hidden states or attention
    weights are asked for. Each layer's rounded weights are made when first needed, beside its own (a quarter or a half
    as much memory again), and anew when `generate` finds the parameter another, or written to by an optimizer or
    `load_state_dict` (not through `.data`). A layer with a hook, or of another class, keeps its weights.

    The logits' error as measured (root mean square, as part of their spread; 1 and 8 texts, token by token):

                                                int8           int8, 7-bit inputs    float16
        GPT-2 small, random weights             0.032, 0.034   0.047, 0.053          0.0006
        the same, 3 channels 8 times as large   0.19, 0.18     0.22, 0.37            0.0013
        4 layers, 128 wide, trained a little    0.003, 0.003   0.004, 0.006          0.0001

    With int8 the first two rows choose another token than the model would in 10 to 56 of 100 places, where random
    weights leave candidates close together, the last in 0 to 5; float16 in none. Real GPT-2 has large channels, too:
    look at its texts before trusting int8.

    Args:
        weights: "int8", "float16", or None: the model's own again.

    Raises:
        ValueError: another name; or the model is not float32 on a CPU.
        RuntimeError: PyTorch has no such kernels on this machine.
    """
    if weights is None:
        model.decoding_weights = None
        return
    if weights not in WEIGHTS:
        raise ValueError(f"weights={weights!r} is not known: choose 'int8', 'float16', or None for the model's own")
    if torch.backends.quantized.engine not in ("x86", "fbgemm"):
        raise RuntimeError(
            f"{weights} weights need FBGEMM's kernels, which PyTorch has on x86 CPUs; here it multiplies with "
            f"{torch.backends.quantized.engine!r}: generate with the model's own weights"
        )
    check(next(model.parameters()), weights)
    model.decoding_weights = DecodingWeights(weights)


class DecodingWeights:
    """Gives what does the work of a linear layer, and keeps it; None for any other module."""

    def __init__(self, weights: str):
        self.weights = weights
        self.short = weights == "int8" and overflows()
        self.layers: dict[nn.Module, RoundedLinear] = {}

    def __call__(self, module: Any) -> "RoundedLinear | None":
        if type(module) not in (nn.Linear, Linear, Conv1D):
            return None
        check(module.weight, self.weights)
        made = self.layers.get(module)
        if made is None or not made.is_of(module):
            made = self.layers[module] = RoundedLinear(module, self.weights, self.short)
        return made

    def __reduce__(self) -> tuple:
        return DecodingWeights, (self.weights,)  # copies and files hold no layers: they are made again


class RoundedLinear:
    """y ≈ x Wᵀ + b, with W (out, in) rounded at first use: of an encoder-decoder, the encoder's are not used again."""

    def __init__(self, module: nn.Module, weights: str, short: bool):
        self.weight, self.bias = module.weight, module.bias
        self.weights, self.short = weights, short
        self.transposed = isinstance(module, Conv1D)
        self.versions = versions(module)
        self.packed: Any = None

    def __call__(self, x: Tensor) -> Tensor:
        if self.packed is None:
            pack = int8 if self.weights == "int8" else torch.ops.quantized.linear_prepack_fp16
            self.packed = pack(self.weight.T if self.transposed else self.weight, self.bias)
        if self.weights == "int8":
            return torch.ops.quantized.linear_dynamic(x, self.packed, self.short)
        return torch.ops.quantized.linear_dynamic_fp16(x, self.packed)

    def is_of(self, module: nn.Module) -> bool:
        same = self.weight is module.weight and self.bias is module.bias
        return same and self.versions == versions(module)


def int8(weight: Tensor, bias: Tensor | None) -> Any:
    """(out, in) -> packed for FBGEMM."""
    scale = weight.abs().amax(1).clamp(min=torch.finfo(weight.dtype).tiny).double() / 127
    zero = torch.zeros(len(weight), dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch announces that quantized tensors will go; the kernels take no others
        rounded = torch.quantize_per_channel(weight.contiguous(), scale, zero, 0, torch.qint8)
    return torch.ops.quantized.linear_prepack(rounded, bias)


def overflows() -> bool:
    """Whether this CPU adds pairs of products in 16 bits, too few for 8-bit inputs: it does before AVX512-VNNI."""
    ones = torch.ones(1, 64)
    return torch.ops.quantized.linear_dynamic(ones, int8(ones, None), False).item() < 63


def versions(module: nn.Module) -> list[Any]:
    """What changes when a parameter is written to, or its storage replaced (as `model.to` does)."""
    tensors = [x for x in (module.weight, module.bias) if x is not None]
    return [(x.data_ptr(), None if x.is_inference() else x._version) for x in tensors]


def check(weight: Tensor, weights: str) -> None:
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        raise ValueError(
            f"{weights} weights are made of float32 ones on a CPU; the model's are {weight.dtype} on {weight.device}. "
            "Bring it there with model.float().cpu(), or generate with its own: decode_in(model, None)"
        )
