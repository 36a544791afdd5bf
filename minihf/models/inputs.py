"""What a model is given, checked once at its entrance; and small steps that many heads share."""

import torch
from torch import Tensor


def check_batch(input_ids: Tensor | None, inputs_embeds: Tensor | None) -> tuple[int, int]:
    """(B, T) of a batch of ids or of embeddings.

    Raises:
        ValueError: both or neither came, or another shape.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError(
            "a model reads input_ids (batch, tokens) or inputs_embeds (batch, tokens, channels): pass one of them"
        )
    if input_ids is None:
        if inputs_embeds.dim() != 3:
            raise ValueError(
                f"inputs_embeds has shape {tuple(inputs_embeds.shape)}, expected (batch, tokens, channels)"
            )
        return inputs_embeds.shape[0], inputs_embeds.shape[1]
    if input_ids.dim() != 2:
        raise ValueError(
            f"input_ids has shape {tuple(input_ids.shape)}, expected (batch, tokens). One text is a batch of one: "
            "input_ids[None], or tokenizer(text, return_tensors='pt')"
        )
    return input_ids.shape[0], input_ids.shape[1]


def check_length(tokens: int, limit: int) -> None:
    """A model with learned positions has one for each of `limit` tokens, and no more."""
    if tokens > limit:
        raise ValueError(
            f"{tokens} tokens, but the model has {limit} positions: shorten the text (tokenizer(..., truncation=True)) "
            "or cut it into pieces"
        )


def flatten_choices(*inputs: Tensor | None) -> list[Tensor | None]:
    """(B, choices, …) -> (B * choices, …): the choices become texts of their own."""
    return [x if x is None else x.flatten(0, 1) for x in inputs]


def last_tokens(x: Tensor, logits_to_keep: int | Tensor) -> Tensor:
    """The tokens that logits are wanted of: the last `logits_to_keep` (0: all), or those at the indices. (B, T, C)"""
    if isinstance(logits_to_keep, int):
        return x[:, -logits_to_keep:] if logits_to_keep else x
    return x[:, logits_to_keep]


def check_choices(input_ids: Tensor | None, inputs_embeds: Tensor | None) -> int:
    """How many choices (B, choices, T) or (B, choices, T, C) come."""
    x, shape = (input_ids, "input_ids (batch, choices, tokens)"), 3
    if input_ids is None:
        x, shape = (inputs_embeds, "inputs_embeds (batch, choices, tokens, channels)"), 4
    if x[0] is None or x[0].dim() != shape:
        raise ValueError(f"expected {x[1]}, got {None if x[0] is None else tuple(x[0].shape)}")
    return x[0].shape[1]


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
