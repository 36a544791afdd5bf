"""What `generate` is given to go on from, checked once and brought into one form."""

import logging
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from minihf.generation.config import GenerationConfig
from minihf.nn.cache import Cache

logger = logging.getLogger(__name__)


@dataclass
class Prompts:
    """
    Attributes:
        ids: what is continued, (B, P); of an encoder-decoder, what its decoder begins with. (B, 0) after embeddings.
        mask: 1 = real, 0 = padding, (B, P), embeddings and cached tokens included; None where nothing is padded.
        context: what goes to the encoder, where there is one.
        source: the ids that the encoder reads, if it reads ids; without an encoder, those of the prompts.
    """

    ids: Tensor
    mask: Tensor | None = None
    token_type_ids: Tensor | None = None
    inputs_embeds: Tensor | None = None
    cache: Cache | None = None
    context: dict[str, Any] | None = None
    source: Tensor | None = field(default=None, repr=False)

    @property
    def before(self) -> int:
        """How many tokens the model reads that are not among the ids."""
        return 0 if self.inputs_embeds is None else self.inputs_embeds.size(1)

    def repeated(self, copies: int) -> Tensor:
        """The ids, each row `copies` times: (B * copies, P)"""
        return self.ids.repeat_interleave(copies, dim=0)


def prompts_of_decoder(
    model: nn.Module,
    config: GenerationConfig,
    input_ids: Tensor | None,
    attention_mask: Tensor | None,
    token_type_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    cache: Cache | None,
) -> Prompts:
    """Of a model without an encoder."""
    if inputs_embeds is not None:
        embeds = checked_embeds(inputs_embeds, model)
        ids = torch.empty(len(embeds), 0, dtype=torch.long, device=embeds.device)
        if input_ids is not None and input_ids.numel():
            raise ValueError("generate got input_ids and inputs_embeds: pass the prompts once")
        mask = checked_mask(attention_mask, embeds.shape[:2], "inputs_embeds", model)
        return Prompts(ids, mask, inputs_embeds=embeds, cache=cache)
    if input_ids is None:
        if config.bos_token_id is None:
            raise ValueError("generate got no input_ids, and there is no bos_token_id to begin with: pass one of them")
        input_ids = torch.tensor([[config.bos_token_id]])
    ids = checked_ids(input_ids, model)
    if attention_mask is None and config.pad_token_id is not None and config.pad_token_id not in config.end_tokens:
        attention_mask = (ids != config.pad_token_id).long()
    mask = checked_mask(attention_mask, ids.shape, "input_ids", model)
    if token_type_ids is not None and token_type_ids.shape != ids.shape:
        raise ValueError(
            f"token_type_ids has shape {tuple(token_type_ids.shape)}, expected that of input_ids, {tuple(ids.shape)}"
        )
    check_cache(cache, ids, "input_ids")
    return Prompts(ids, mask, token_type_ids, cache=cache, source=ids)


def prompts_of_both(
    model: nn.Module,
    config: GenerationConfig,
    input_ids: Tensor | None,
    attention_mask: Tensor | None,
    inputs_embeds: Tensor | None,
    encoder_outputs: Any,
    decoder_input_ids: Tensor | None,
    decoder_attention_mask: Tensor | None,
    cache: Cache | None,
) -> Prompts:
    """Of an encoder-decoder: what the encoder reads, and what the decoder begins with."""
    given = {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "encoder_outputs": encoder_outputs}
    given = {name: x for name, x in given.items() if x is not None}
    source = None
    if "input_ids" in given and "inputs_embeds" in given:
        raise ValueError("generate got input_ids and inputs_embeds: pass the encoder's text once")
    if encoder_outputs is not None:
        state = encoder_outputs[0] if hasattr(encoder_outputs, "__len__") and len(encoder_outputs) else None
        if not isinstance(state, Tensor) or state.dim() != 3:
            raise TypeError("encoder_outputs begin with a state (texts, tokens, channels): model.get_encoder()(...)")
        check_channels(state, "encoder_outputs", model)
        shape = state.shape[:2]
        source = given.pop("input_ids", None)
        given.pop("inputs_embeds", None)
    elif inputs_embeds is not None:
        given["inputs_embeds"] = checked_embeds(inputs_embeds, model)
        shape = inputs_embeds.shape[:2]
    else:
        if input_ids is None:
            raise ValueError("generate got nothing for the encoder to read: pass input_ids, or tokenizer(text, ...)")
        source = given["input_ids"] = checked_ids(input_ids, model)
        shape = source.shape
        if attention_mask is None and config.pad_token_id is not None and config.pad_token_id not in config.end_tokens:
            attention_mask = (source != config.pad_token_id).long()
    mask = checked_mask(attention_mask, shape, "the encoder's text", model, warn=False)
    ids = decoder_start(config, shape[0], decoder_input_ids, model)
    check_cache(cache, ids, "decoder_input_ids")
    own = decoder_attention_mask  # the start token may have been put in front
    if isinstance(own, Tensor) and own.shape == (len(ids), ids.size(1) - 1):
        own = torch.cat([own.new_ones(len(own), 1), own], dim=1)
    return Prompts(
        ids,
        checked_mask(own, ids.shape, "decoder_input_ids", model),
        cache=cache,
        context={**given, "attention_mask": mask},
        source=source,
    )


def decoder_start(config: GenerationConfig, texts: int, ids: Tensor | None, model: nn.Module) -> Tensor:
    """What the decoder begins with, (B, P): its start token, and what the caller wants after it."""
    start = config.decoder_start_token_id
    start = config.bos_token_id if start is None else start
    if start is None:
        raise ValueError("neither decoder_start_token_id nor bos_token_id is known: pass decoder_start_token_id")
    start = torch.tensor(start, device=model.device)
    if start.dim() == 1 and len(start) != texts:
        raise ValueError(f"decoder_start_token_id has {len(start)} entries for {texts} texts: pass one each, or an int")
    start = start.view(-1, 1).expand(texts, 1)
    if ids is None:
        return start
    ids = checked_ids(ids, model, "decoder_input_ids")
    if len(ids) != texts:
        raise ValueError(f"decoder_input_ids has {len(ids)} rows for {texts} texts of the encoder")
    return torch.cat([start, ids], dim=1) if (ids[:, :1] != start).all() else ids


def checked_ids(ids: Any, model: nn.Module, name: str = "ids") -> Tensor:
    if not isinstance(ids, Tensor):
        raise TypeError(f"generate takes {name} as a tensor (batch, tokens), got a {type(ids).__name__}")
    if ids.dim() != 2 or ids.dtype not in (torch.int64, torch.int32) or ids.numel() == 0:
        raise ValueError(
            f"generate takes {name} of shape (batch, tokens), at least one token; got {tuple(ids.shape)} of "
            f"{ids.dtype}. One text: input_ids[None], or tokenizer(text, return_tensors='pt')"
        )
    return ids.to(model.device)


def check_cache(cache: Any, ids: Tensor, of: str) -> None:
    if cache is None:
        return
    if not isinstance(cache, Cache):
        raise TypeError(f"past_key_values takes a minihf.nn.cache.Cache, not a {type(cache).__name__}")
    if cache.length >= ids.size(1):
        raise ValueError(
            f"past_key_values holds {cache.length} tokens, and {of} has {ids.size(1)}: pass all ids, those in the "
            "cache and at least one new one"
        )


def checked_embeds(embeds: Tensor, model: nn.Module) -> Tensor:
    if not isinstance(embeds, Tensor) or embeds.dim() != 3 or embeds.numel() == 0:
        got = tuple(embeds.shape) if isinstance(embeds, Tensor) else type(embeds).__name__
        raise ValueError(f"inputs_embeds takes a tensor (batch, tokens, channels), at least one token; got {got}")
    check_channels(embeds, "inputs_embeds", model)
    return embeds.to(model.device)


def check_channels(x: Tensor, name: str, model: nn.Module) -> None:
    table = model.get_input_embeddings()
    if isinstance(table, nn.Embedding) and (x.size(-1) != table.weight.size(1) or not x.is_floating_point()):
        raise ValueError(
            f"{name} has {x.size(-1)} channels of {x.dtype}: expected {table.weight.size(1)} of {table.weight.dtype}"
        )


def checked_mask(mask: Tensor | None, shape: Any, of: str, model: nn.Module, warn: bool = True) -> Tensor | None:
    """The mask of the prompts, or None where nothing is padded: the model is faster without one."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        raise TypeError(f"the mask of {of} is a {type(mask).__name__}, expected a tensor {tuple(shape)}")
    if mask.shape != torch.Size(shape):
        raise ValueError(f"the mask of {of} has shape {tuple(mask.shape)}, expected that of {of}, {tuple(shape)}")
    mask = mask.to(model.device)
    if mask.all():
        return None
    if warn and not mask[:, -1].all():
        logger.warning(
            "a prompt ends with padding, which its continuation would follow: set tokenizer.padding_side = 'left'"
        )
    return mask
