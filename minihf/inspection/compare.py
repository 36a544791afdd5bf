"""Ours beside the reference's, number by number: outputs, loss, gradients by key, hidden states, attention weights.

The error of a tensor is its largest difference, divided by the largest number in it where that is above 1. Backward
starts from the loss and from every output at once, each number of it weighed at random, so that each parameter gets a
gradient of a size to be seen.
"""

from dataclasses import dataclass, field
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}
PER_TOKEN = ("last_hidden_state", "logits", "prediction_logits", "start_logits", "end_logits", "hidden_states")
PER_TOKEN += ("router_logits",)


class KeepDouble(TorchFunctionMode):
    """Let the reference stay in float64 where it goes to float32 for half precision's sake, and loses digits here."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if args and isinstance(args[0], Tensor) and args[0].dtype == torch.float64:
            if func is torch.Tensor.float or (
                func is torch.Tensor.to and torch.float32 in (*args[1:], *kwargs.values())
            ):
                return args[0]
            if kwargs.get("dtype") is torch.float32:
                kwargs = {**kwargs, "dtype": torch.float64}
        return func(*args, **kwargs)


@dataclass
class Result:
    """What one side gave."""

    outputs: dict[str, Tensor] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Difference:
    """The largest error, and where it is."""

    outputs: float = 0.0
    gradients: float = 0.0
    worst: str = ""

    def add(self, kind: str, name: str, error: float) -> None:
        if error != (highest := max(self.outputs, self.gradients)) and larger(highest, error) is error:
            self.worst = name
        setattr(self, kind, larger(getattr(self, kind), error))

    def within(self, tolerance: float) -> bool:
        return self.outputs <= tolerance and self.gradients <= tolerance


def run(
    model: nn.Module,
    batch: dict[str, Tensor],
    *,
    train: bool = False,
    attentions: bool = False,
    gradients: bool = True,
    seed: int = 7,
) -> Result:
    """One forward, and one backward, of either side.

    Args:
        batch: the arguments of the forward.
        train: with dropout, under `seed`.
        attentions: also give the attention weights (the reference forms them in eager attention only).
        gradients: also go backward.
    """
    model.train(train)
    model.zero_grad()
    torch.manual_seed(seed)
    with KeepDouble():
        output = model(**batch, output_hidden_states=True, output_attentions=attentions)
        result = Result(flatten(output, batch))
        if gradients:
            objective(result.outputs).backward()
    result.gradients = {
        name: torch.zeros_like(p) if p.grad is None else p.grad.detach().clone()
        for name, p in model.named_parameters(remove_duplicate=False)
        if gradients
    }
    result.outputs = {name: x.detach() for name, x in result.outputs.items()}
    return result


def real_tokens(batch: dict[str, Tensor], side: str = "") -> Tensor | None:
    """(..., T), True where a token is attended to; None: everywhere. side: "", or "decoder_" of an encoder-decoder."""
    mask = batch.get(side + "attention_mask")
    return mask.bool() if mask is not None and mask.dim() < 4 else None


def flatten(output, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an output by name, zero where nobody attends."""
    found = {}
    two_sides = "encoder_last_hidden_state" in output
    for key, value in output.items():
        name = key.removeprefix("encoder_").removeprefix("decoder_")
        real = real_tokens(batch, "decoder_" if two_sides and not key.startswith("encoder_") else "")
        for i, x in enumerate(value if isinstance(value, tuple) else (value,)):
            if not isinstance(x, Tensor):
                continue  # the cache
            if name == "hidden_states" and x.dim() == 4:
                x = x.flatten(0, 1)  # the reference unfolds the choices of the last one only
            if real is not None and name == "pooler_output":
                x = x.masked_fill(~real[:, :1], 0)  # made from the first token
            if real is not None and name in PER_TOKEN:
                x = keep(x, real)
            if real is not None and name in ("attentions", "cross_attentions"):
                x = x.masked_fill(~real.view(-1, 1, real.shape[-1], 1), 0)
            found[f"{key}.{i}" if isinstance(value, tuple) else key] = x
    return found


def keep(x: Tensor, real: Tensor) -> Tensor:
    """(..., T, C), (..., T) or (B * T, C), with zeros where a token is not real; without a token axis as it is.

    Texts are B, or B times choices, on either side.
    """
    if x.dim() == 2 and len(x) == real.numel():
        return x.masked_fill(~real.view(-1, 1), 0)
    for axes in (2, 3):
        texts, tokens = x.shape[: axes - 1], x.shape[axes - 1 : axes]
        if (texts.numel(), *tokens) == (real.shape[:-1].numel(), real.shape[-1]):
            return x.masked_fill(~real.view(*texts, *tokens, *[1] * (x.dim() - axes)), 0)
    return x


def objective(outputs: dict[str, Tensor]) -> Tensor:
    """One number in which every number of every output has its own random weight; the same on both sides."""
    total = 0
    for name, x in outputs.items():
        if "attentions" in name or not x.requires_grad:
            continue
        generator = torch.Generator().manual_seed(crc32(name.encode()))
        weights = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        total = total + (x * weights.to(x.device, x.dtype)).sum()
    return total


def error(ours: Tensor, theirs: Tensor, scale: float = 1.0) -> float:
    """The largest difference, relative where numbers are above `scale`. Shapes that differ are infinitely far apart."""
    if ours.shape != theirs.shape:
        return float("inf")
    return largest(ours.double() - theirs.double()) / max(scale, largest(theirs))


def largest(x: Tensor) -> float:
    return x.abs().max().item() if x.numel() else 0.0


def larger(a: float, b: float) -> float:
    """The larger of two errors; NaN is larger than everything."""
    return b if not b <= a else a


def compare(ours: Result, theirs: Result) -> Difference:
    """Everything that either side gave; what only one gave is infinitely far off.

    A gradient is a sum over tokens whose terms may cancel (a key's bias has none at all: softmax does not see it), and
    its rounding error follows the terms. They are of the size of the gradients beside it in its module: these are its
    scale.
    """
    difference = Difference()
    for kind in ("outputs", "gradients"):
        mine, others = getattr(ours, kind), getattr(theirs, kind)
        scales: dict[str, float] = {}
        for name, x in others.items() if kind == "gradients" else ():
            module = name.rpartition(".")[0]
            scales[module] = max(scales.get(module, 1.0), largest(x))
        for name in {**mine, **others}:
            both = name in mine and name in others
            scale = scales.get(name.rpartition(".")[0], 1.0)
            difference.add(kind, name, error(mine[name], others[name], scale) if both else float("inf"))
    return difference
