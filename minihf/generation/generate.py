"""`model.generate`: the arguments settled and checked once, then the loop."""

import logging
from typing import Any

import torch
from torch import Tensor, nn

from minihf.generation.config import GenerationConfig, check_names, settle
from minihf.generation.decode import decode, drawn, most_probable
from minihf.generation.processors import sampling_processors
from minihf.generation.stopping import at_token

logger = logging.getLogger(__name__)
DEFAULT_NEW_TOKENS = 20


def generate(
    model: nn.Module,
    inputs: Tensor | None = None,
    generation_config: GenerationConfig | None = None,
    *,
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    token_type_ids: Tensor | None = None,
    **settings: Any,
) -> Tensor:
    """Continue each prompt of a batch.

    Args:
        model: a causal language model.
        inputs, input_ids: two names of the prompts (B, T), shorter ones padded on the left. None: `bos_token_id`.
        generation_config: settings, over the model's own.
        attention_mask: 1 = real, 0 = padding (B, T). None: where the pad token is not an end token too, pad tokens are
            taken for padding; else nothing is.
        token_type_ids: (B, T), for models that have them.
        settings: the fields of `GenerationConfig`; they win over both configs.

    Returns:
        The prompts and what follows them (B * num_return_sequences, T + new). Rows that ended early are padded.

    Raises:
        ValueError, TypeError: an argument is unknown, makes no sense, or asks for more than the model can do.
    """
    check_names(settings)
    if generation_config is not None and not isinstance(generation_config, GenerationConfig):
        raise TypeError(f"generation_config takes a GenerationConfig, not a {type(generation_config).__name__}")
    config = settle(model.generation_config, generation_config, settings)
    config.check_other()
    if inputs is not None and input_ids is not None:
        raise ValueError("generate got its prompts twice, as inputs and as input_ids: pass one of them")
    input_ids = inputs if input_ids is None else input_ids
    if input_ids is None:
        if config.bos_token_id is None:
            raise ValueError("generate got no input_ids, and there is no bos_token_id to begin with: pass one of them")
        input_ids = torch.tensor([[config.bos_token_id]])
    if not isinstance(input_ids, Tensor):
        raise TypeError(f"generate takes ids as a tensor (batch, tokens), got a {type(input_ids).__name__}")
    if input_ids.dim() != 2 or input_ids.dtype not in (torch.int64, torch.int32) or input_ids.numel() == 0:
        raise ValueError(
            f"generate takes ids of shape (batch, tokens), at least one token; got {tuple(input_ids.shape)} of "
            f"{input_ids.dtype}. One text: input_ids[None], or tokenizer(text, return_tensors='pt')"
        )
    input_ids = input_ids.to(model.device)
    mask = prompt_mask(input_ids, attention_mask, config)
    steps = new_tokens(model, input_ids.shape[1], config)
    copies = config.num_return_sequences or 1
    if token_type_ids is not None and token_type_ids.shape != input_ids.shape:
        raise ValueError(
            f"token_type_ids has shape {tuple(token_type_ids.shape)}, expected that of input_ids, "
            f"{tuple(input_ids.shape)}"
        )
    if copies > 1:
        input_ids, mask, token_type_ids = (
            x if x is None else x.repeat_interleave(copies, dim=0) for x in (input_ids, mask, token_type_ids)
        )
    ends = config.end_tokens
    new = decode(
        model,
        input_ids,
        mask,
        steps=steps,
        choose=drawn if config.do_sample else most_probable,
        processors=sampling_processors(config) if config.do_sample else [],
        stop=at_token(ends, input_ids.device) if ends else None,
        pad=config.pad_token_id if config.pad_token_id is not None or not ends else ends[0],
        use_cache=config.use_cache is not False,
        token_type_ids=token_type_ids,
    )
    return torch.cat([input_ids, *(chosen[:, None] for chosen in new)], dim=1)


def prompt_mask(ids: Tensor, mask: Tensor | None, config: GenerationConfig) -> Tensor | None:
    """The mask of the prompts, or None where nothing is padded: the model is faster without one."""
    if mask is None:
        if config.pad_token_id is None or config.pad_token_id in config.end_tokens:
            return None
        mask = (ids != config.pad_token_id).long()
    if mask.shape != ids.shape:
        raise ValueError(
            f"attention_mask has shape {tuple(mask.shape)}, expected that of input_ids, {tuple(ids.shape)}"
        )
    mask = mask.to(ids.device)
    if mask.all():
        return None
    if not mask[:, -1].all():
        logger.warning(
            "a prompt ends with padding, which its continuation would follow: set tokenizer.padding_side = 'left'"
        )
    return mask


def new_tokens(model: nn.Module, prompt: int, config: GenerationConfig) -> int:
    """How many tokens to write at the most."""
    limit = getattr(model, "position_limit", None)
    if config.max_new_tokens is not None:
        steps = config.max_new_tokens
    elif config.max_length is not None:
        if config.max_length <= prompt:
            raise ValueError(
                f"the prompt has {prompt} tokens, and max_length={config.max_length} counts them too: raise it, or set "
                "max_new_tokens"
            )
        steps = config.max_length - prompt
    else:
        steps = DEFAULT_NEW_TOKENS if limit is None else max(min(DEFAULT_NEW_TOKENS, limit - prompt), 1)
    # The last token is chosen, but not read: it needs no position.
    if limit is not None and prompt + steps - 1 > limit:
        raise ValueError(
            f"{prompt} tokens of prompt and {steps} new ones pass the model's {limit} positions: shorten the prompt "
            "(its last tokens matter most), or lower max_new_tokens"
        )
    return steps
