"""Processors that say what must come, and what must not."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minihf.generation import Processor


def marked(tokens: Tensor, vocab: int) -> Tensor:
    """Tokens (N,) as a bool (V,); those beyond the vocabulary are nowhere."""
    inside = torch.where((tokens >= 0) & (tokens < vocab), tokens, vocab)
    return tokens.new_zeros(vocab + 1, dtype=torch.bool).index_fill_(0, inside, True)[:vocab]


def suppressed(tokens: Sequence[int], device: torch.device | str, at: int | None = None) -> Processor:
    """Never these tokens; with `at`, not after so many."""
    tokens = torch.tensor([*tokens], device=device, dtype=torch.long)

    def process(ids: Tensor, logits: Tensor) -> Tensor:
        if at is not None and ids.shape[1] != at:
            return logits
        return logits.masked_fill(marked(tokens, logits.shape[-1]), -torch.inf)

    return process


def no_end_before(length: int, ends: list[int], device: torch.device | str) -> Processor:
    """No end token until the text, its prompt included, has this length."""
    no_end = suppressed(ends, device)
    return lambda ids, logits: no_end(ids, logits) if ids.shape[1] < length else logits


def forced(length: int, tokens: list[int], device: torch.device | str) -> Processor:
    """After so many tokens, one of these and no other, all as likely."""
    largest, tokens = max(tokens), torch.tensor(tokens, device=device)

    def process(ids: Tensor, logits: Tensor) -> Tensor:
        if ids.shape[1] != length:
            return logits
        if largest >= logits.shape[-1]:
            raise ValueError(f"the token {largest} is to be forced: there are {logits.shape[-1]} tokens")
        return torch.full_like(logits, -torch.inf).index_fill_(1, tokens, 0.0)

    return process


def allowed_only(allowed: Callable[[int, Tensor], list[int]], beams: int) -> Processor:
    """Only the tokens that `allowed(number of the text, its ids (T,))` gives (arXiv 2010.00904).

    Where others left none of them to any beam of a text, they are forced.
    """

    if not callable(allowed):
        raise TypeError(f"prefix_allowed_tokens_fn takes a callable (text, ids) -> tokens, not {allowed!r}")

    def process(ids: Tensor, logits: Tensor) -> Tensor:
        shut = torch.full_like(logits, -torch.inf)
        for row, text in enumerate(ids):
            tokens = allowed(row // beams, text)
            if tokens is None:
                raise ValueError("prefix_allowed_tokens_fn answered None: it returns the tokens that may follow")
            if len(tokens) == 0:
                raise ValueError(
                    f"prefix_allowed_tokens_fn allows no token for text {row // beams} after {text.tolist()}: "
                    "at an end, allow the end token"
                )
            try:
                shut[row, tokens] = 0.0
            except IndexError as error:
                raise ValueError(
                    f"prefix_allowed_tokens_fn allows a token that is none for text {row // beams} after "
                    f"{text.tolist()}: there are {logits.size(1)}"
                ) from error
        out = logits + shut
        none = out.amax(-1).isneginf().view(-1, beams).all(-1)  # (B,) -> (texts, beams) -> (texts,)
        return torch.where(none.repeat_interleave(beams)[:, None], shut, out)

    return process


def finite(ids: Tensor, logits: Tensor) -> Tensor:
    """NaN to 0, infinities to the largest numbers."""
    return logits.nan_to_num(nan=0.0)
