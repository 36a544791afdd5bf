"""One call of `generate`, settled: its arguments checked once, and brought into the form that the loops take."""

import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from minihf.fast.tapes import taped
from minihf.generation.assisted import Guesser
from minihf.generation.checks import check_tokens
from minihf.generation.config import GenerationConfig, check_names, settle
from minihf.generation.group_beams import Diversity
from minihf.generation.guessers import check_guessing, draft_for, lookup_for
from minihf.generation.guidance import guidance
from minihf.generation.outputs import Record
from minihf.generation.processors import Processor, processors_for
from minihf.generation.prompts import Prompts, prompts_of_both, prompts_of_decoder
from minihf.generation.reader import Reader
from minihf.generation.static import StaticReader
from minihf.generation.stopping import StopRule, stop_for
from minihf.generation.taped import TapedReader
from minihf.nn.cache import Cache
from minihf.nn.static_cache import StaticCache

DEFAULT_NEW_TOKENS = 20
FLAGS = ("output_scores", "output_logits", "output_hidden_states", "output_attentions")


@dataclass
class Task:
    """One call of `generate`, settled."""

    config: GenerationConfig
    reader: Reader
    ids: Tensor  # (rows, P)
    steps: int
    processors: list[Processor]
    stop: StopRule | None
    pad: int | None
    record: Record | None
    diversity: Diversity | None = None
    guesser: Guesser | None = None
    watch: Callable[..., None] | None = None  # is shown each step: see the loops

    @property
    def beams(self) -> int:
        return self.config.num_beams or 1

    @property
    def constrained(self) -> bool:
        return self.config.constraints is not None or self.config.force_words_ids is not None


def prepare(
    model: nn.Module,
    inputs: Tensor | None = None,
    generation_config: GenerationConfig | None = None,
    logits_processor: Sequence[Processor] | None = None,
    stopping_criteria: Sequence[Callable] | None = None,
    prefix_allowed_tokens_fn: Callable[[int, Tensor], list[int]] | None = None,
    *,
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    token_type_ids: Tensor | None = None,
    inputs_embeds: Tensor | None = None,
    past_key_values: Cache | None = None,
    encoder_outputs: Any = None,
    decoder_input_ids: Tensor | None = None,
    decoder_attention_mask: Tensor | None = None,
    negative_prompt_ids: Tensor | None = None,
    negative_prompt_attention_mask: Tensor | None = None,
    tokenizer: Any = None,
    assistant_model: nn.Module | None = None,
    **settings: Any,
) -> Task:
    """
    Args:
        inputs, input_ids: two names of the prompts (B, T), shorter ones padded on the left; of an encoder-decoder, of
            what its encoder reads. None: `bos_token_id`.
        generation_config: settings, over the model's own.
        logits_processor: further `(ids (B, T), scores (B, V)) -> scores`, after those of the settings.
        stopping_criteria: further `(ids (B, T), scores) -> bool (B,) or bool`, True where a text is at its end.
        prefix_allowed_tokens_fn: (number of the text, its ids (T,)) -> the ids that may follow.
        attention_mask: 1 = real, 0 = padding (B, T). None: where the pad token is not an end token too, pad tokens are
            taken for padding (an encoder's, too, as in 4.51); else nothing is.
        token_type_ids: (B, T), for models that have them.
        inputs_embeds: prompts as embeddings (B, T, C), instead of ids.
        past_key_values: what the model has read of these prompts before; `input_ids` are all ids, read or not. Or a
            `StaticCache`, whose memory and CUDA graph are used (again), whatever it held.
        encoder_outputs: what the encoder gave before, so that it is not run.
        decoder_input_ids, decoder_attention_mask: what the decoder begins with, (B, T).
        negative_prompt_ids, negative_prompt_attention_mask: for `guidance_scale`: away from what follows these.
        tokenizer: needed for `stop_strings`.
        assistant_model: a smaller model of the same tokenizer, which guesses tokens ahead (one text at a time).
        settings: the fields of `GenerationConfig`.
    """
    started = time.monotonic()
    check_names(settings, ARGUMENTS)
    if generation_config is not None and not isinstance(generation_config, GenerationConfig):
        kind = type(generation_config)
        name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
        raise TypeError(f"generation_config takes a GenerationConfig of minihf, not a {name}")
    config = settle(model.generation_config, generation_config, settings)
    if isinstance(past_key_values, StaticCache):
        static, past_key_values, config.cache_implementation = past_key_values, None, "static"
        if config.max_cache_len not in (None, static.tokens):
            raise ValueError(
                f"max_cache_len={config.max_cache_len}, and a StaticCache of {static.tokens} came: pass one of them"
            )
    elif config.cache_implementation == "static":
        static = StaticCache(config.max_cache_len)
    else:
        static = None
    config.check_other()
    head = getattr(model, "get_output_embeddings", lambda: None)()
    check_tokens(config, head.out_features if isinstance(head, nn.Linear) else None)
    if inputs is not None and input_ids is not None:
        raise ValueError("generate got its prompts twice, as inputs and as input_ids: pass one of them")
    negative = {
        "negative_prompt_ids": negative_prompt_ids,
        "negative_prompt_attention_mask": negative_prompt_attention_mask,
    }
    for name, given in {"token_type_ids": token_type_ids, **negative}.items():
        if given is not None and not isinstance(given, Tensor):
            raise TypeError(f"{name} takes a tensor (batch, tokens), got a {type(given).__name__}")
    known = {"token_type_ids", "kwargs"}
    if token_type_ids is not None and known.isdisjoint(inspect.signature(model.forward).parameters):
        raise ValueError(f"{type(model).__name__} has no token_type_ids: leave them out")
    ids = inputs if input_ids is None else input_ids
    if model.config.is_encoder_decoder:
        prompts = prompts_of_both(
            model, config, ids, attention_mask, inputs_embeds, encoder_outputs, decoder_input_ids,
            decoder_attention_mask, past_key_values,
        )  # fmt: skip
    else:
        of_encoder = {"encoder_outputs": encoder_outputs, "decoder_input_ids": decoder_input_ids}
        for name, given in {**of_encoder, "decoder_attention_mask": decoder_attention_mask}.items():
            if given is not None:
                raise ValueError(
                    f"{name} is for models with an encoder, and {type(model).__name__} has none: leave it out"
                )
        prompts = prompts_of_decoder(
            model, config, ids, attention_mask, token_type_ids, inputs_embeds, past_key_values
        )
    guessed = assistant_model is not None or config.prompt_lookup_num_tokens is not None
    if guessed:
        check_guessing(assistant_model, config, prompts)
    if config.penalty_alpha and prompts.cache is not None:
        raise ValueError("contrastive search compares with all hidden states, which past_key_values do not hold")
    steps = settle_lengths(model, prompts, config)
    beams, groups = config.num_beams or 1, config.num_beam_groups or 1
    contrastive = bool(config.penalty_alpha)
    copies = config.top_k if contrastive else config.num_return_sequences or 1
    rows = beams if beams > 1 else copies
    device, ends = prompts.ids.device, config.end_tokens
    asked = tuple(name for name in FLAGS if getattr(config, name)) if config.return_dict_in_generate else ()
    record = Record(asked, 1 if contrastive else rows)
    guide = None
    for name, given in negative.items():
        if given is not None and config.guidance_scale is None:
            raise ValueError(f"{name} takes guidance_scale, which says how far away from it: set it above 1")
    if config.guidance_scale not in (None, 1):
        if prompts.inputs_embeds is not None and negative_prompt_ids is None:
            raise ValueError(
                "guidance_scale goes away from the prompt's last id, and embeddings came: pass negative_prompt_ids"
            )
        guide = guidance(model, config.guidance_scale, **negative, use_cache=config.use_cache is not False)
    pad = config.pad_token_id if config.pad_token_id is not None or not ends else ends[0]
    diversity = Diversity(config.diversity_penalty) if groups > 1 else None
    processors = processors_for(
        config,
        prompt=prompts.ids.size(1),
        steps=steps,
        beams=beams // groups,
        mask=prompts.mask,
        encoder_ids=prompts.source,
        prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
        guidance=guide,
        diversity=diversity,
        own=logits_processor or (),
        device=device,
    )
    recorded = [name for name in asked if name in ("output_hidden_states", "output_attentions")]
    token_by_token = not (contrastive or guessed or recorded)
    token_by_token = token_by_token and config.use_cache is not False and not config.disable_compile
    kind = Reader
    if static is not None:
        how = {"compile_config": config.compile_config, "captured": not config.disable_compile}
        kind = partial(StaticReader, static=static, **how)
    elif token_by_token and config.cache_implementation is None and taped(model, device, steps):
        kind = TapedReader
    reader = kind(
        model,
        prompts.mask,
        use_cache=config.use_cache is not False,
        cache=prompts.cache,
        token_type_ids=prompts.token_type_ids,
        inputs_embeds=prompts.inputs_embeds,
        context=prompts.context,
        copies=rows,
        beams=beams > 1 or contrastive,
        rows=rows * len(prompts.ids),
        steps=steps,
        record=(*recorded, "output_hidden_states") if contrastive else tuple(recorded),
    )
    guesser = None
    if assistant_model is not None:
        drafting = settle(assistant_model.generation_config, generation_config, settings)
        guesser = draft_for(model, assistant_model, config, drafting, prompts, processors)
    elif guessed:
        guesser = lookup_for(model, config, prompts, processors)
    if guessed:
        reader.cache.croppable = True
    return Task(
        config,
        reader,
        prompts.ids if contrastive else prompts.repeated(rows),
        steps,
        processors,
        stop_for(
            config,
            device=device,
            tokenizer=tokenizer,
            own=stopping_criteria or (),
            started=started,
            scores=record.steps.setdefault("scores", []) if "output_scores" in asked else None,
        ),
        pad if ends else None,
        record if config.return_dict_in_generate else None,
        diversity,
        guesser,
    )


ARGUMENTS = ("streamer", *inspect.signature(prepare).parameters)  # a slip of the pen may have meant one of these


def settle_lengths(model: nn.Module, prompts: Prompts, config: GenerationConfig) -> int:
    """How many tokens to write at the most; `max_length` and `min_length` of the config then count as the ids do."""
    limit, prompt = getattr(model, "position_limit", None), prompts.ids.size(1)
    read = prompt + prompts.before
    if config.max_new_tokens is not None:
        steps = config.max_new_tokens
    elif config.max_length is not None:
        if config.max_length <= read:
            raise ValueError(
                f"the prompt has {read} tokens, and max_length={config.max_length} counts them too: raise it, or set "
                "max_new_tokens"
            )
        steps = config.max_length - read
    else:
        steps = DEFAULT_NEW_TOKENS if limit is None else max(min(DEFAULT_NEW_TOKENS, limit - read), 1)
    # The last token is chosen, but not read (save by contrastive search): it needs no position.
    if limit is not None and read + steps - (0 if config.penalty_alpha else 1) > limit:
        raise ValueError(
            f"{read} tokens of prompt and {steps} new ones pass the model's {limit} positions: shorten the prompt "
            "(its last tokens matter most), or lower max_new_tokens"
        )
    config.max_new_tokens, config.max_length = steps, prompt + steps
    if config.min_length:
        config.min_length = max(config.min_length - prompts.before, 0)
    return steps
