"""The loop that writes a text: run the model, shape the logits, choose a token, append it, until every row is done.

It is a generator, so that streaming is iterating it, and `generate` is gathering what it yields.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from minihf.generation.processors import Processor
from minihf.generation.stopping import StopRule
from minihf.nn.bare import bare
from minihf.nn.cache import Cache
from minihf.nn.positions import positions_from_mask

Choice = Callable[[Tensor], Tensor]


def most_probable(logits: Tensor) -> Tensor:
    """(B, V) -> (B,)"""
    return logits.argmax(-1)


def drawn(logits: Tensor) -> Tensor:
    """(B, V) -> (B,), at random, each token as often as its probability says."""
    return torch.multinomial(logits.softmax(-1), 1).squeeze(-1)


@torch.inference_mode()
def decode(
    model: nn.Module,
    ids: Tensor,
    mask: Tensor | None,
    *,
    steps: int,
    choose: Choice = most_probable,
    processors: Sequence[Processor] = (),
    stop: StopRule | None = None,
    pad: int | None = None,
    use_cache: bool = True,
    token_type_ids: Tensor | None = None,
) -> Iterator[Tensor]:
    """Yield the next ids (B,), again and again: inference tensors, to be cloned by who wants to train on them.

    Args:
        model: gives `.logits` of the last token; with a cache, from the new tokens alone. Fastest in eval mode.
        ids: the prompts (B, T).
        mask: 1 = real, 0 = padding, on the left, (B, T); None: nothing is padded.
        steps: how often, at the most.
        processors: what is done to the float32 logits first, one after the other.
        choose: from the processed logits to a token.
        stop, pad: a rule that says which rows are done; they are filled with `pad`, and the loop ends when all are.
        use_cache: False computes every token anew: the oracle of the cached path.
        token_type_ids: of the prompts (B, T); new tokens are of the last one's type.
    """
    cache = Cache() if use_cache else None
    light = bare(model) if use_cache else model  # for one token, the machinery costs more than the mathematics
    call = partial(model, return_dict=True, output_hidden_states=False, output_attentions=False)
    first = getattr(model, "first_position", 0)  # RoBERTa's begin after its pad token's id
    arguments = inspect.signature(getattr(model, "forward", model)).parameters.values()
    counts = any(a.name == "position_ids" or a.kind == a.VAR_KEYWORD for a in arguments)  # BART's decoder takes none
    done = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    new = ids
    for _ in range(steps):
        optional = {} if token_type_ids is None else {"token_type_ids": token_type_ids[:, -new.shape[1] :]}
        if mask is not None and counts:
            optional["position_ids"] = first + positions_from_mask(mask)[:, -new.shape[1] :]
        output = call(
            new,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=use_cache,
            logits_to_keep=1,
            **optional,
        )
        logits = output.logits[:, -1].float()
        for process in processors:
            logits = process(ids, logits)
        chosen = choose(logits)
        if stop is not None:
            chosen = chosen.masked_fill(done, pad)
        ids = torch.cat([ids, chosen[:, None]], dim=1)
        yield chosen
        if stop is not None:
            done = done | stop(ids)
            if done.all():
                return
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        if token_type_ids is not None:
            token_type_ids = torch.cat([token_type_ids, token_type_ids[:, -1:]], dim=1)
        new = chosen[:, None] if use_cache else ids
        call = call if light is model else light
