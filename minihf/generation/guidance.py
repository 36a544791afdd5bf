"""Classifier-free guidance for text (arXiv 2306.17806): away from what the model would say without the prompt.

log p = log p(next | text) + (scale − 1) · (log p(next | text) − log p(next | negative prompt, what was written))
"""

from typing import Any

import torch
from torch import Tensor, nn

from minihf.generation import Processor
from minihf.generation.penalties import rows_like
from minihf.nn.cache import Cache


def guidance(
    model: nn.Module,
    scale: float,
    *,
    negative_prompt_ids: Tensor | None = None,
    negative_prompt_attention_mask: Tensor | None = None,
    use_cache: bool = True,
) -> Processor:
    """A processor that runs the model a second time at each step; it is made for one call of `generate`.

    Args:
        model: a causal language model.
        scale: 1 changes nothing; 1.5 is usual.
        negative_prompt_ids: what the second run reads in place of the prompts (B, N); None: their last token alone.
        negative_prompt_attention_mask: (B, N), 1 = real, 0 = padding; None: nothing is padded.
        use_cache: False computes every token anew.

    Raises:
        ValueError: a model with an encoder, or a mask of another shape.
    """
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise ValueError(f"guidance_scale={scale} is for causal language models: leave it out, or set it to 1")
    negative, padding = negative_prompt_ids, negative_prompt_attention_mask
    if padding is not None and (negative is None or padding.shape != negative.shape):
        shape = None if negative is None else tuple(negative.shape)
        raise ValueError(f"negative_prompt_attention_mask is {tuple(padding.shape)}, negative_prompt_ids {shape}")
    past: dict[str, Any] = {}  # the prompt's length, what the second run has read, and its cache

    def process(ids: Tensor, logits: Tensor) -> Tensor:
        start = past.setdefault("start", ids.shape[1])
        text = ids[:, start - 1 :] if negative is None else torch.cat([rows_like(negative, ids), ids[:, start:]], dim=1)
        mask = None
        if padding is not None:
            mask = torch.ones_like(text)
            mask[:, : padding.shape[1]] = rows_like(padding, ids)
        # After a beam search has moved its rows, the text is another one: all of it is read again.
        follows = "read" in past and torch.equal(past["read"], text[:, :-1])
        cache = past["cache"] if follows else Cache() if use_cache else None
        output = model(
            text[:, -1:] if follows and use_cache else text,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=use_cache,
            return_dict=True,
        )
        past["read"], past["cache"] = text, cache
        without = output.logits[:, -1].float().log_softmax(-1)
        return scale * (logits.log_softmax(-1) - without) + without

    return process
