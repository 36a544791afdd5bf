"""The only place where a mask is made.

A mask is bool, True = may attend, of shape (B or 1, 1, Q, K), or None when nothing is hidden beyond the causal rule. It
is made once, where a model is entered, from the 0/1 `attention_mask` (B, K) that tokenizers give. None is worth its own
case: the fused kernels are at their fastest without a mask.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def lower_triangle(
    queries: int, keys: int, *, window: int | None = None, device: torch.device | None = None
) -> Tensor:
    """(1, 1, Q, K): no token sees a later one. The last query stands at the last key (past keys come first).

    With a window, it is a band: a token sees the last `window` tokens, of which it is one.
    """
    past = keys - queries
    triangle = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(past)
    if window is not None:
        triangle = triangle.triu(past - window + 1)
    return triangle[None, None]


def encoder_mask(
    attention_mask: Tensor | None, scores: tuple[int, int, int, int], *, dtype: torch.dtype
) -> Tensor | None:
    """Every token sees every real token: (B, 1, 1, K), or None where nothing is padded.

    Args:
        attention_mask: 1 = real, 0 = padding, (B, K); or a ready 4-D mask (see `ready_mask`); or None. What attends by
            itself (a `BeamCache`) is handed on.
        scores: the shape of the scores that it will lie on, (B, H, Q, K).
        dtype: of the activations; a ready float mask is brought to it.

    Raises:
        ValueError: the mask has another shape.
    """
    if attention_mask is None or hasattr(attention_mask, "attend"):
        return attention_mask
    if not isinstance(attention_mask, Tensor):
        raise TypeError(f"attention_mask is a {type(attention_mask).__name__}, expected a tensor")
    if attention_mask.dim() == 4:
        return ready_mask(attention_mask, scores, dtype=dtype)
    wanted = scores[0], scores[3]
    if tuple(attention_mask.shape) != wanted:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}, expected {wanted}: a row for each text, an entry "
            "for each token, those in the cache included"
        )
    if not torch.compiler.is_compiling() and attention_mask.all():  # compiled code cannot branch on values
        return None
    return attention_mask.bool()[:, None, None, :]


def decoder_mask(
    attention_mask: Tensor | None,
    scores: tuple[int, int, int, int],
    *,
    dtype: torch.dtype,
    window: int | None = None,
    device: torch.device | None = None,
    positions: Tensor | None = None,
) -> Tensor | None:
    """Every token sees the real tokens up to itself: (B, 1, Q, K), or None where the causal rule says it all.

    The arguments are `encoder_mask`'s; the queries are the last Q of the K tokens.

    Args:
        window: a token sees no more than the last so many, itself and padding counted (Mistral). The mask then lies on
            the keys that a cache of that window gives, the last window - 1 + Q, while `attention_mask` has an entry for
            each token still. A ready mask alone decides, window or not, over the keys that are left.
        device: of the mask, where a window needs one and no `attention_mask` came.
        positions: the caller's `position_ids`, (B or 1, Q), where no past is kept. Without an `attention_mask`, those
            that begin anew tell that several texts stand one behind the other: see `apart`.
    """
    if hasattr(attention_mask, "attend"):
        return attention_mask
    batch, heads, queries, tokens = scores
    if attention_mask is None and positions is not None:
        texts = apart(positions)
        if texts is not None:
            return texts & lower_triangle(queries, tokens, window=window, device=texts.device)
    keys = tokens if window is None else min(tokens, window - 1 + queries)
    if keys < tokens and attention_mask is not None:
        encoder_mask(attention_mask, scores, dtype=dtype)  # which refuses a mask of another length than it came in
        attention_mask = attention_mask[..., -keys:]
    mask = encoder_mask(attention_mask, (batch, heads, queries, keys), dtype=dtype)
    if queries == 1 or (attention_mask is not None and attention_mask.dim() == 4):
        return mask
    if window is None or keys <= window:
        return mask if mask is None else mask & lower_triangle(queries, keys, device=mask.device)
    band = lower_triangle(queries, keys, window=window, device=device if mask is None else mask.device)
    return band if mask is None else mask & band


def apart(positions: Tensor) -> Tensor | None:
    """Texts that stand one behind the other in a row do not see each other: (B or 1, 1, T, T), or None if each row is
    one text. Another begins wherever positions do not go on by one: 0 1 2 0 1 is a text of three tokens, and of two.

    (B or 1, T)
    """
    breaks = positions.diff(dim=-1) != 1
    if not torch.compiler.is_compiling() and not breaks.any():
        return None
    text = F.pad(breaks.long(), (1, 0)).cumsum(-1)  # (B, T), the number of each token's text
    return (text[:, :, None] == text[:, None, :])[:, None]


def ready_mask(mask: Tensor, scores: tuple[int, int, int, int], *, dtype: torch.dtype) -> Tensor:
    """A 4-D mask made by the caller, taken as it is: bool or 0/1 (True = may attend), or float to add to the scores.

    -inf becomes the lowest number of `dtype`, so that a row that may attend to nothing stays finite.

    Raises:
        ValueError: it does not lie on scores of that shape.
    """
    if mask.shape[3] != scores[3] or any(n not in (1, N) for n, N in zip(mask.shape, scores, strict=True)):
        raise ValueError(
            f"attention_mask has shape {tuple(mask.shape)}, expected {tuple(scores)}: (texts, heads, queries, keys), "
            "each of the first three or 1"
        )
    if not mask.is_floating_point():
        return mask.bool()
    return mask.to(dtype).clamp(min=torch.finfo(dtype).min)
