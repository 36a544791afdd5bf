"""What a model is given, checked once at its entrance; and small steps that many heads share."""

import torch
from torch import Tensor

from minihf.nn.losses import IGNORED


def check_batch(input_ids: Tensor | None, inputs_embeds: Tensor | None) -> tuple[int, int]:
    """(B, T) of a batch of ids or of embeddings.

    Raises:
        TypeError: no tensor came. ValueError: both or neither came, or another shape, or no token at all.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError(
            "a model reads input_ids (batch, tokens) or inputs_embeds (batch, tokens, channels): pass one of them"
        )
    x = inputs_embeds if input_ids is None else input_ids
    if not isinstance(x, Tensor):
        raise TypeError(
            f"a model reads tensors, got a {type(x).__name__}: tokenizer(text, return_tensors='pt') makes them"
        )
    if input_ids is None and x.dim() != 3:
        raise ValueError(f"inputs_embeds has shape {tuple(x.shape)}, expected (batch, tokens, channels)")
    if input_ids is not None and (x.dim() != 2 or x.dtype not in (torch.int64, torch.int32)):
        raise ValueError(
            f"input_ids has shape {tuple(x.shape)}, expected (batch, tokens), and is {x.dtype}, expected int64. One "
            "text is a batch of one: input_ids[None], or tokenizer(text, return_tensors='pt')"
        )
    if x.shape[1] == 0:
        raise ValueError(f"a text of no tokens came, shape {tuple(x.shape)}: a model reads at least one")
    return x.shape[0], x.shape[1]


def check_length(tokens: int, limit: int) -> None:
    """A model with learned positions has one for each of `limit` tokens, and no more."""
    if tokens > limit:
        raise ValueError(
            f"{tokens} tokens, but the model has {limit} positions: shorten the text (tokenizer(..., truncation=True)) "
            "or cut it into pieces"
        )


def check_span_labels(num_labels: int) -> None:
    """A question answering head has two logits a token."""
    if num_labels != 2:
        raise ValueError(
            f"num_labels={num_labels}: a question answering head has 2, begin and end. Load it with num_labels=2"
        )


def flatten_choices(*inputs: Tensor | None) -> list[Tensor | None]:
    """(B, choices, …) -> (B * choices, …): the choices become texts of their own. What is (…, T) already stays."""
    return [x if x is None or x.dim() < 3 else x.flatten(0, 1) for x in inputs]


def last_tokens(x: Tensor, logits_to_keep: int | Tensor) -> Tensor:
    """The tokens that logits are wanted of: the last `logits_to_keep` (0: all), or those at the indices. (B, T, C)"""
    if isinstance(logits_to_keep, int):
        return x[:, -logits_to_keep:] if logits_to_keep else x
    return x[:, logits_to_keep]


def check_choices(input_ids: Tensor | None, inputs_embeds: Tensor | None) -> int:
    """How many choices (B, choices, T) or (B, choices, T, C) come; ValueError where another shape does."""
    x = inputs_embeds if input_ids is None else input_ids
    expected = (
        "inputs_embeds (batch, choices, tokens, channels)"
        if input_ids is None
        else "input_ids (batch, choices, tokens)"
    )
    if x is None:
        raise ValueError("expected input_ids (batch, choices, tokens) or inputs_embeds with channels besides, got None")
    if x.dim() != (4 if input_ids is None else 3):
        raise ValueError(f"expected {expected}, got {tuple(x.shape)}")
    return x.shape[1]


def last_real(x: Tensor, input_ids: Tensor | None, pad_token_id: int | None) -> Tensor:
    """Of each text, what stands at its last token that is not padding: (B, T, N) -> (B, N).

    Padding is known by its id, as in the reference; with embeddings, or without a pad token, the last token is taken.

    Raises:
        ValueError: several texts and no pad token: their ends cannot be told.
    """
    if pad_token_id is None and len(x) > 1:
        raise ValueError(
            "a batch of several texts needs a pad token to find where each ends: set model.config.pad_token_id = "
            "tokenizer.pad_token_id (with tokenizer.pad_token = tokenizer.eos_token, if it has none)"
        )
    if pad_token_id is None or input_ids is None:
        return x[:, -1]
    places = torch.arange(input_ids.shape[1], device=x.device)
    last = (places * (input_ids != pad_token_id)).argmax(-1)  # (B, T) -> (B,)
    return x[torch.arange(len(x), device=x.device), last]


def shift_right(ids: Tensor, start: int | None, pad: int | None) -> Tensor:
    """A start token, then the ids without the last; -100, which is no id, becomes the pad token. (B, T) -> (B, T)"""
    if start is None or pad is None:
        raise ValueError(
            f"decoder_start_token_id={start} and pad_token_id={pad}: to make the decoder's ids, the config needs both. "
            "Set them, or pass decoder_input_ids"
        )
    shifted = torch.cat([ids.new_full((len(ids), 1), start), ids[:, :-1]], dim=1)
    return shifted.masked_fill(shifted == IGNORED, pad)


def at_last_end(x: Tensor, input_ids: Tensor, end: int | list | None) -> Tensor:
    """Of each text, what stands at its last end token: (B, T, C) -> (B, C)

    Raises:
        ValueError: a text has none, or another number than the others: pairs of texts and single ones are mixed, or an
            end was cut off.
    """
    if not isinstance(end, int):
        raise ValueError(f"eos_token_id={end!r} in the config: expected one id, at which the answer is read")
    if x.shape[:2] != input_ids.shape:
        raise ValueError(
            f"decoder inputs are {tuple(x.shape[:2])}, input_ids {tuple(input_ids.shape)}: the answer is read from the "
            "decoder at the place of their last end token, so they must be of the same shape"
        )
    ends = input_ids == end  # (B, T)
    counts = ends.sum(-1).tolist()
    if 0 in counts or len(set(counts)) > 1:
        raise ValueError(f"the texts have {counts} end tokens (id {end}): each must have one, and all as many")
    places = torch.arange(ends.shape[1], device=ends.device)
    return x[torch.arange(len(x), device=x.device), (places * ends).argmax(-1)]
