"""The loss of a language model's head without its logits: of 2048 tokens and 50257 words they are 412 MB, and a plain
cross-entropy has them three times.

The tokens are worked through in chunks. A chunk's logits become its losses, then the gradient of these logits, p - 1 at
the label and p elsewhere, then its share of the gradients of the hidden states and of the weight; and the next chunk
overwrites them. So the forward has done the backward's work, and the backward only scales it. This is the idea of
Liger-Kernel's fused linear cross-entropy (arXiv 2410.10989). The plain path, `minihf.nn.losses.cross_entropy` of all
logits, is the oracle: values and gradients are equal but for the order of sums.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minihf.nn.losses import IGNORED

CHUNK = 128 * 2**20  # bytes of logits at a time: below, the products get slower; GPT-2's 50257 words, 667 tokens


def chunked_cross_entropy(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    num_items_in_batch: Tensor | int | None = None,
    *,
    chunk: int = CHUNK,
) -> Tensor:
    """What `cross_entropy(F.linear(x, weight, bias), labels, num_items_in_batch)` gives, in float32 at least.

    Args:
        x: hidden states (N, C), of the tokens that count.
        weight, bias: the head's, (V, C) and (V,).
        labels: (N,), 0 to V - 1.
        num_items_in_batch: divide the sum by this instead of by N.
        chunk: how many bytes of logits there are at a time, at most (those of one token always are).

    Raises:
        IndexError: a label is no word of the vocabulary.
        NotImplementedError: when a second derivative is asked for.
    """
    words, device = len(weight), x.device.type
    if device == "cpu" and len(labels):  # a GPU stops at an assertion of its own
        for label in (labels.min().item(), labels.max().item()):
            if not 0 <= label < words:
                raise IndexError(
                    f"Target {label} is out of bounds. Labels are 0 to {words - 1}, or {IGNORED}: does the tokenizer "
                    "belong to this model?"
                )
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        x, weight, bias = (t if t is None else t.to(dtype) for t in (x, weight, bias))
    wanted = [torch.is_grad_enabled() and t is not None and t.requires_grad for t in (x, weight, bias)]
    divisor = len(labels) if num_items_in_batch is None else float(num_items_in_batch)
    with torch.autocast(device, enabled=False):
        return ChunkedCrossEntropy.apply(x, weight, bias, labels, divisor, wanted, chunk)


class ChunkedCrossEntropy(torch.autograd.Function):
    """`wanted` says for x, weight and bias whether its gradient is: inside, PyTorch does not tell `no_grad`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        divisor: float,
        wanted: list[bool],
        chunk: int,
    ) -> Tensor:
        (N, C), V = x.shape, len(weight)
        wide = torch.promote_types(x.dtype, torch.float32)
        total = x.new_zeros((), dtype=wide)
        shapes = (N, C), (V, C), (V,)
        dx, dw, db = (x.new_zeros(s, dtype=wide) if w else None for s, w in zip(shapes, wanted, strict=True))
        chunks = -(-N * V * wide.itemsize // chunk) or 1
        size = max(-(-N // chunks), 1)  # all but the last are of one size
        room = x.new_empty(size, V, dtype=wide)  # one for all chunks: fresh memory costs more than the softmax
        for some, y, place in zip(x.split(size), labels[:, None].split(size), range(0, N, size), strict=False):
            p = logits_into(room[: len(y)], some, weight, bias)
            torch.log_softmax(p, 1, out=p)
            total -= p.gather(1, y).sum()
            if not any(wanted):
                continue
            p.exp_().scatter_add_(1, y, p.new_full(y.shape, -1))  # (n, V), now the gradient of the logits
            g = p.to(x.dtype)
            if dx is not None:
                dx[place : place + size] = g @ weight
            if dw is not None and g is p:
                dw.addmm_(g.t(), some, alpha=1 / divisor)
            elif dw is not None:
                dw.add_(g.t() @ some, alpha=1 / divisor)
            if db is not None:
                db.add_(p.sum(0), alpha=1 / divisor)
        if dx is not None:
            dx /= divisor
        ctx.save_for_backward(dx, dw, db)
        ctx.dtype = x.dtype
        return total / divisor

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # as with create_graph=True
            raise NotImplementedError(
                "the chunked language model loss has no second derivative: compute the loss from outputs.logits, with "
                "minihf.nn.losses.cross_entropy"
            )
        # Not in place: with retain_graph=True they are asked for again. In low precision they are taken down only now,
        # when a loss scale has made them large enough. A gradient of 1 hands them on as they are: to know it, a GPU is
        # waited for, but a second dw would take more memory than all else here.
        same = grad.item() == 1
        gradients = (g if g is None or same else g * grad for g in ctx.saved_tensors)
        return *(g if g is None else g.to(ctx.dtype) for g in gradients), None, None, None, None


def logits_into(room: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(n, C) -> (n, V), in `room`, which is wider than x is in low precision."""
    if x.dtype != room.dtype:
        return room.copy_(F.linear(x, weight, bias))
    return torch.mm(x, weight.t(), out=room) if bias is None else torch.addmm(bias, x, weight.t(), out=room)
