"""A model as a decode loop sees it: it is shown the texts so far, and says what may come next.

What differs between models is seen to here, once for all ways of decoding: a cache or none, positions where prompts are
padded, token types, an encoder that is run once, prompts that are embeddings, several rows that begin with one prompt.
"""

import inspect
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from minihf.fast.graphs import has_our_classes
from minihf.fast.prepacked import packed_linear, packs
from minihf.nn.bare import bare, is_heard, modules_of
from minihf.nn.beams import BeamCache, SharedContext
from minihf.nn.cache import Cache
from minihf.nn.masks import encoder_mask
from minihf.nn.positions import positions_from_mask


class Reader:
    """Call it with the ids so far (B, T), again and again; it reads what it has not read yet.

    Args:
        model: fastest in eval mode.
        mask: 1 = real, 0 = padding, of the prompts (texts, P); None: nothing is padded.
        use_cache: False computes every token anew: the oracle of the cached path.
        cache: what was read before of the same texts, if anything.
        token_type_ids: of the prompts (texts, P); new tokens are of the last one's type.
        inputs_embeds: prompts as embeddings (texts, P, C); the ids are then those of new tokens alone.
        context: what goes to the encoder: `input_ids` or `inputs_embeds`, or `encoder_outputs`, and `attention_mask`.
            None: there is no encoder.
        copies: how many rows of the ids are of one text, side by side. The prompt is read once for all of them.
        beams: these rows will change places (see `follow`), and share one row of the cache.
        rows, steps: how many rows the ids have, and how often they will come: is it worth packing weights for them?
        record: what to ask the model for besides: "output_hidden_states", "output_attentions".

    Attributes:
        output: what the model gave last.
    """

    def __init__(
        self,
        model: nn.Module,
        mask: Tensor | None = None,
        *,
        use_cache: bool = True,
        cache: Cache | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        context: dict[str, Any] | None = None,
        copies: int = 1,
        beams: bool = False,
        rows: int = 1,
        steps: int = 1,
        record: tuple[str, ...] = (),
    ):
        self.model, self.mask, self.token_type_ids = model, mask, token_type_ids
        self.cache = (Cache() if cache is None else cache) if use_cache else None
        self.embeds, self.context, self.copies, self.beams = inputs_embeds, context, copies, beams
        self.before = 0 if inputs_embeds is None else inputs_embeds.size(1)  # tokens that are not among the ids
        self.parents: Tensor | None = None  # rows whose place the next ids take
        self.started, self.output = False, None
        asked = {name: name in record for name in ("output_hidden_states", "output_attentions")}
        self.call = partial(model, return_dict=True, use_cache=use_cache, **asked)
        # For one token, the machinery of modules costs more than the mathematics.
        self.light = model
        if use_cache and not record:
            swap = getattr(model, "decoding_weights", None)  # see minihf.fast.weights
            if swap is None and packs(model, rows, steps):
                swap = partial(packed_linear, rows=rows)
            self.light = bare(model, swap)
        arguments = inspect.signature(getattr(model, "forward", model)).parameters.values()
        names = {a.name for a in arguments}
        anything = any(a.kind == a.VAR_KEYWORD for a in arguments)
        self.counts = context is None and ("position_ids" in names or anything)  # BART's decoder takes none
        self.keeps = "logits_to_keep" in names or anything
        self.first_position = getattr(model, "first_position", 0)  # RoBERTa's begin after its pad token's id

    def __call__(self, ids: Tensor, last: int = 1) -> Tensor:
        """(B, T) -> logits of what follows the last token, float32 (B, V); of the `last` tokens, (B, last, V)."""
        if self.started or self.copies == 1:
            logits = self.read(ids, last)
        else:
            logits = self.read(ids[:: self.copies], last).repeat_interleave(self.copies, dim=0)
            self.multiply()
        return (logits[:, -1] if last == 1 else logits[:, -last:]).float()

    def follow(self, rows: Tensor) -> None:
        """Row i of the ids goes on from where row `rows[i]` was, (B,)."""
        if isinstance(self.cache, BeamCache):
            self.parents = rows
        elif self.cache is not None:
            self.cache.reorder(rows)

    def crop(self, length: int) -> None:
        """Go back to the first `length` ids of what was read last."""
        drop = self.cache.length - self.before - length
        if drop > 0 and isinstance(self.cache.counted, Tensor):
            real = self.ids[:, length : length + drop] != self.model.config.pad_token_id
            self.cache.counted = self.cache.counted - real.sum(-1, keepdim=True)
        self.cache.crop(self.before + length)

    def unrolled(self) -> Cache | None:
        """The cache, with a row for each row of the ids."""
        return self.cache.unrolled() if isinstance(self.cache, BeamCache) else self.cache

    def read(self, ids: Tensor, last: int) -> Tensor:
        if isinstance(self.cache, BeamCache):
            self.cache.reorder(self.parents)
            self.parents = None
        past = 0 if self.cache is None else self.cache.length
        self.ids = ids
        new = ids[:, max(past - self.before, 0) :]
        mask = self.extended(self.before + ids.size(1))
        arguments = self.of_decoder(new, mask, past, last) if self.context is None else self.of_both(new, mask)
        output = self.output = self.call(past_key_values=self.cache, **arguments)
        if not self.started:
            self.started = True
            if self.light is not self.model:
                self.call = partial(self.light, use_cache=True)
            if self.context is not None:  # the encoder has been run
                state, hidden = output.encoder_last_hidden_state, self.context.get("attention_mask")
                hidden = ready(hidden, state) if self.is_unheard else hidden
                self.context = {"encoder_outputs": (state,), "attention_mask": hidden}
        return output.logits

    def extended(self, tokens: int) -> Tensor | None:
        """The mask of the prompts, and ones for what came after."""
        if self.mask is not None and self.mask.size(1) < tokens:
            ones = self.mask.new_ones(len(self.mask), tokens - self.mask.size(1))
            self.mask = torch.cat([self.mask, ones], dim=1)
        return self.mask if self.mask is None else self.mask[:, :tokens]

    def of_decoder(self, new: Tensor, mask: Tensor | None, past: int, last: int) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        if self.embeds is None or past:
            arguments["input_ids"], tokens = new, new.size(1)
        elif new.size(1):  # without a cache: embeddings first, then ids
            arguments["inputs_embeds"] = torch.cat([self.embeds, self.model.get_input_embeddings()(new)], dim=1)
            tokens = arguments["inputs_embeds"].size(1)
        else:
            arguments["inputs_embeds"], tokens = self.embeds, self.before
        arguments["attention_mask"] = self.told(mask, tokens)
        if self.keeps:
            arguments["logits_to_keep"] = last
        if self.token_type_ids is not None:
            types = self.token_type_ids
            types = torch.cat([types, types[:, -1:].expand(-1, past + tokens - types.size(1))], dim=1)
            arguments["token_type_ids"] = types[:, past:]
        if isinstance(self.cache, BeamCache):
            arguments["attention_mask"] = self.cache
        if self.counts and mask is not None:
            arguments["position_ids"] = self.first_position + positions_from_mask(mask)[:, -tokens:]
        elif self.counts and isinstance(self.cache, BeamCache):
            arguments["position_ids"] = torch.full((1, 1), self.first_position + past, device=new.device)
        return arguments

    def next_position(self) -> Tensor:
        """Of the token that follows what was read, (B or 1, 1)."""
        past = self.cache.length
        if self.mask is None or not self.counts:
            return torch.full((1, 1), self.first_position + past, device=self.ids.device)
        return self.first_position + positions_from_mask(self.extended(past + 1))[:, -1:]

    def of_each_token(self) -> dict[str, Any]:
        """What a step of one token is told beside ids, cache, mask and position: the same each time."""
        more: dict[str, Any] = {"logits_to_keep": 1} if self.keeps else {}
        if self.token_type_ids is not None:
            more["token_type_ids"] = self.token_type_ids[:, -1:]
        return more

    def of_both(self, new: Tensor, mask: Tensor | None) -> dict[str, Any]:
        mask = self.cache if isinstance(self.cache, BeamCache) else self.told(mask, new.size(1))
        return {**self.context, "decoder_input_ids": new, "decoder_attention_mask": mask}

    def told(self, mask: Tensor | None, tokens: int) -> Tensor | None:
        """For one token, the mask in the form that our models make of it, (B, 1, 1, K): given (B, K), they would ask at
        each whether any is padding, and a GPU would have to be waited for."""
        return mask if mask is None or tokens != 1 or not self.is_unheard else mask.bool()[:, None, None, :]

    @cached_property
    def is_unheard(self) -> bool:
        """The modules are our own, and nobody else hears what they are given."""
        return has_our_classes(self.model) and not any(map(is_heard, modules_of(self.model)))

    def multiply(self) -> None:
        """From one row a text to `copies` rows."""
        logits = self.output.logits
        rows = torch.arange(len(logits), device=logits.device).repeat_interleave(self.copies)
        shared = self.beams and self.cache is not None and len(self.cache.layers) > 0
        if shared:
            self.cache = BeamCache(self.cache, self.copies, self.mask)
        elif self.cache is not None:
            self.cache.reorder(rows)
        if self.context is not None:
            (state,), hidden = self.context.values()
            if shared:
                hidden = SharedContext(ready(hidden, state), self.copies)
            else:
                state, hidden = state.index_select(0, rows), hidden if hidden is None else hidden.index_select(0, rows)
            self.context = {"encoder_outputs": (state,), "attention_mask": hidden}
        self.mask, self.token_type_ids, self.embeds = (
            x if x is None else x.index_select(0, rows) for x in (self.mask, self.token_type_ids, self.embeds)
        )


def ready(mask: Tensor | None, state: Tensor) -> Tensor | None:
    """The mask of what an encoder gave, (B, S, C), as a decoder's layers take it: asks now whether any is padding."""
    return encoder_mask(mask, (len(state), 1, 1, state.size(1)), dtype=state.dtype)
