"""Scaled dot-product attention ("Attention Is All You Need", 2017, equation 1), written twice.

`eager_attention` is the equation, five lines that a student can follow with a pencil: the oracle. `sdpa_attention`
hands the same work to PyTorch's fused kernels (flash and memory-efficient on CUDA): the default. `attend` picks one of
them.

Notation, here and in every architecture:

    B batch    T tokens    Q, K tokens of the queries and of the keys    C channels (the hidden size)
    H heads    D channels of one head (C = H * D)                        V vocabulary
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from minihf.nn.masks import lower_triangle

IMPLEMENTATIONS = ("sdpa", "eager")
ENCODER_IMPLEMENTATIONS = (*IMPLEMENTATIONS, "packed")


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, T, C) -> (B, H, T, D)"""
    B, T, C = x.shape
    return x.view(B, T, heads, C // heads).transpose(1, 2)


def split_parts(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """What one layer made side by side, such as q, k and v, taken apart: (B, T, parts * C) -> parts of (B, H, T, D)"""
    B, T, C = x.shape
    return x.view(B, T, parts, heads, C // (parts * heads)).permute(2, 0, 3, 1, 4).unbind()


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, T, D) -> (B, T, C)"""
    return x.transpose(1, 2).flatten(2)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    dropout: float = 0.0,
    bias: Tensor | None = None,
    scale: float | None = None,
    impl: str = "sdpa",
) -> tuple[Tensor, Tensor | None]:
    """Let each query look at the keys that it may see, and return the mixture of their values.

    Args:
        q: queries (B, H, Q, D).
        k, v: keys and values (B, H, K, D); or fewer heads, of which each serves H / theirs queries in a row.
        mask: bool, True = may attend, broadcastable to (B, H, Q, K); or a float mask to add to the scores; or a
            `minihf.fast.packed.Packing`. None: no restriction beyond `causal`.
        causal: without a mask, the i-th last query sees all but the last i keys. With a mask, the mask alone decides.
        dropout: the probability with which a weight is dropped (0 outside training).
        bias: float, broadcastable to (B, H, Q, K), added to the scores: T5's relative positions.
        scale: what the products are multiplied with; None is 1 / sqrt(D).
        impl: "eager" or "sdpa"; "packed" is "sdpa" wherever no `Packing` is the mask.

    Returns:
        The context (B, H, Q, D), and the weights (B, H, Q, K) where `impl` forms them ("eager"), else None.
    """
    if mask is not None and not isinstance(mask, Tensor):  # it knows better: a `Packing` of texts, a text's beams
        scale = q.size(3) ** -0.5 if scale is None else scale
        return mask.attend(q, k, v, dropout=dropout, scale=scale, impl=impl, bias=bias)
    queries, keys = q.size(2), k.size(2)
    # SDPA's own causal flag aligns the triangle at the top left: right only for as many queries as keys.
    if causal and mask is None and queries > 1 and (queries != keys or impl == "eager"):
        mask = lower_triangle(queries, keys, device=q.device)
    if scale is None:
        scale = q.size(3) ** -0.5
    shared = q.size(1) // k.size(1)
    if shared > 1 and (queries == 1 or not causal) and bias is None and (mask is None or mask.size(1) == 1):
        return attend_as_rows(q, k, v, mask, shared, dropout=dropout, scale=scale, impl=impl)
    if shared > 1 and (impl == "eager" or mask is not None or bias is not None):  # else the fused kernel sees to it
        k, v = k.repeat_interleave(shared, dim=1), v.repeat_interleave(shared, dim=1)
    if impl == "eager":
        return eager_attention(q, k, v, mask, dropout=dropout, bias=bias, scale=scale)
    if impl in ("sdpa", "packed"):
        causal = causal and mask is None and queries > 1
        return sdpa_attention(q, k, v, mask, causal=causal, dropout=dropout, bias=bias, scale=scale), None
    known = ", ".join(ENCODER_IMPLEMENTATIONS)
    raise ValueError(f"attention implementation {impl!r} is not known: choose one of {known}")


def attend_as_rows(q, k, v, mask, shared, *, dropout, scale, impl) -> tuple[Tensor, Tensor | None]:
    """The queries of heads that share a key are the rows of one head, and each key is read once for all of them.

    After 512 tokens and more this takes 0.6 of the time of the kernel's own grouping (8 texts, 8 heads for 4, 2 cores).
    """
    rows = q.reshape(q.size(0), k.size(1), -1, q.size(3))  # (B, H, Q, D) -> (B, H / shared, shared * Q, D)
    if mask is not None and mask.size(2) > 1:
        mask = mask.repeat(1, 1, shared, 1)
    x, weights = attend(rows, k, v, mask, dropout=dropout, scale=scale, impl=impl)
    return x.reshape(q.shape), weights if weights is None else weights.reshape(*q.shape[:3], k.size(2))


def eager_attention(q, k, v, mask, *, dropout, bias, scale) -> tuple[Tensor, Tensor]:
    """softmax(scale * q k^T + bias) v, one operation a line."""
    scores = (q @ k.transpose(-2, -1)) * scale  # (B, H, Q, D) @ (B, H, D, K) -> (B, H, Q, K)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        # The lowest number, not -inf: a row that may attend to nothing becomes an average of all, not NaN.
        lowest = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~mask, lowest) if mask.dtype == torch.bool else (scores + mask).clamp(min=lowest)
    weights = scores.softmax(dim=-1).to(v.dtype)
    weights = F.dropout(weights, dropout)
    return weights @ v, weights  # (B, H, Q, K) @ (B, H, K, D) -> (B, H, Q, D)


def sdpa_attention(q, k, v, mask, *, causal, dropout, bias, scale) -> Tensor:
    """The same in one fused kernel, which never writes the (Q, K) weights to memory."""
    if bias is not None:
        if causal:
            mask, causal = lower_triangle(q.shape[-2], k.shape[-2], device=q.device), False
        if mask is None:
            mask = bias
        elif mask.dtype == torch.bool:
            mask = bias.masked_fill(~mask, torch.finfo(bias.dtype).min)
        else:
            mask = bias + mask
    shared = q.size(1) != k.size(1)
    return F.scaled_dot_product_attention(
        q, k, v, mask, dropout_p=dropout, is_causal=causal, scale=scale, enable_gqa=shared
    )
