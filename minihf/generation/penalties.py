"""Processors that look back: what is already there, in the text or in the encoder's, changes what is likely next."""

import torch
from torch import Tensor

from minihf.generation import Processor


def sequence_bias(biases: dict[tuple[int, ...], float], device: torch.device | str) -> Processor:
    """Add a bias to the last token of a sequence where the text ends with the tokens before it; -inf forbids it."""
    by_length: dict[int, list[tuple[int, ...]]] = {1: []}  # first the single tokens, then as they come
    for sequence in biases:
        by_length.setdefault(len(sequence), []).append(sequence)
    # For each length: what comes before (N, length - 1), the last tokens (N,), their biases (N,).
    groups = [
        (
            torch.tensor([s[:-1] for s in group], device=device).long(),
            torch.tensor([s[-1] for s in group], device=device),
            torch.tensor([biases[s] for s in group], dtype=torch.float32, device=device),
        )
        for group in by_length.values()
        if group
    ]
    largest = max((max(s) for s in biases), default=-1)

    def process(ids: Tensor, logits: Tensor) -> Tensor:
        if largest >= logits.shape[-1]:
            raise ValueError(f"a sequence with a bias has the token {largest}: there are {logits.shape[-1]} tokens")
        bias = torch.zeros_like(logits)
        for before, last, values in groups:
            n, T = before.shape[1], ids.shape[1]
            if n <= T:
                fits = (ids[:, None, T - n :] == before).all(-1)  # (B, 1, n), (N, n) -> (B, N)
                bias.index_add_(1, last, torch.where(fits, values, 0.0))
        return logits + bias

    return process


def bad_words(words: list[list[int]], ends: list[int], device: torch.device | str) -> Processor:
    """Forbid the last token of each word where the text ends with those before it; an end token alone stays allowed."""
    forbid = sequence_bias({tuple(word): -torch.inf for word in words if word not in [[end] for end in ends]}, device)
    return lambda ids, logits: forbid(ids, logits)


def repetition(penalty: float, mask: Tensor | None = None) -> Processor:
    """Make the tokens of the text less likely: positive logits divided by the penalty, negative ones multiplied.

    Args:
        penalty: as in CTRL (arXiv 1909.05858), 1.2 there.
        mask: of the prompts (B, T): tokens of the padding before them do not count.
    """
    starts = None if mask is None else (mask != 0).int().argmax(1, keepdim=True)  # (B, 1)

    def process(ids: Tensor, logits: Tensor) -> Tensor:
        if starts is not None:  # in place of padding stands the last token, which counts in any case
            positions = torch.arange(ids.shape[1], device=ids.device)
            ids = torch.where(positions < rows_like(starts, logits), ids[:, -1:], ids)
        return scaled(logits, ids, penalty)

    return process


def encoder_repetition(penalty: float, encoder_ids: Tensor) -> Processor:
    """Make the encoder's tokens more likely, as `repetition` makes its own less."""
    return lambda ids, logits: scaled(logits, rows_like(encoder_ids, logits), 1 / penalty)


def scaled(logits: Tensor, ids: Tensor, penalty: float) -> Tensor:
    """Of the logits (B, V), those of ids (B, N) away from the good."""
    picked = logits.gather(1, ids)
    return logits.scatter(1, ids, torch.where(picked < 0, picked * penalty, picked / penalty))


def no_repeat_ngram(size: int, encoder_ids: Tensor | None = None) -> Processor:
    """Forbid each token that would end an n-gram that is already there: in the text, or in the encoder's."""

    def process(ids: Tensor, logits: Tensor) -> Tensor:
        T, source = ids.shape[1], ids if encoder_ids is None else rows_like(encoder_ids, logits)
        if size > T + 1 or source.shape[1] < size:
            return logits
        there = source.unfold(1, size, 1)  # (B, S) -> (B, S - size + 1, size)
        begun = ids[:, None, T - size + 1 :]  # (B, 1, size - 1)
        same = (there[..., :-1] == begun).all(-1)
        V = logits.shape[-1]
        out = torch.where(same, there[..., -1], V)  # of what is not the same, the end goes to a column beyond
        table = logits.new_zeros(len(logits), V + 1, dtype=torch.bool).scatter_(1, out, True)
        return logits.masked_fill(table[:, :V], -torch.inf)

    return process


def exponential_decay(start: int, factor: float, ends: list[int], device: torch.device | str) -> Processor:
    """Past a length, let the end tokens' logits grow by |logit| · (factor^(tokens past it) − 1)."""
    tokens = torch.tensor(ends, device=device)

    def process(ids: Tensor, logits: Tensor) -> Tensor:
        past = ids.shape[1] - start
        if past <= 0:
            return logits
        ending = logits[:, tokens]  # (B, ends)
        growth = (ending.abs() * (factor**past - 1)).masked_fill(~ending.isfinite(), 0.0)
        return logits.index_copy(1, tokens, ending + growth)

    return process


def rows_like(x: Tensor, logits: Tensor) -> Tensor:
    """One row a text (B', …) -> one row a beam (B, …)."""
    return x if len(x) == len(logits) else x.repeat_interleave(len(logits) // len(x), dim=0)
