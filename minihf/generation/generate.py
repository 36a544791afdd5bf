"""`model.generate`: the arguments settled and checked once, then one of the loops."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minihf.generation.beam_search import Hypothesis, beam_search
from minihf.generation.config import GenerationConfig, check_names, settle
from minihf.generation.decode import decode, drawn, most_probable
from minihf.generation.guidance import guidance
from minihf.generation.outputs import Record, output_kind
from minihf.generation.processors import Processor, processors_for
from minihf.generation.prompts import Prompts, prompts_of_both, prompts_of_decoder
from minihf.generation.reader import Reader
from minihf.generation.stopping import StopRule, stop_for
from minihf.generation.streaming import streaming
from minihf.nn.cache import Cache
from minihf.nn.output import Output

DEFAULT_NEW_TOKENS = 20
FLAGS = ("output_scores", "output_logits", "output_hidden_states", "output_attentions")


def generate(model: nn.Module, *args: Any, streamer: Any = None, **kwargs: Any) -> Tensor | Output:
    """Continue each prompt of a batch.

    Args:
        model: a language model, with an encoder or without.
        args, kwargs: those of `prepare`: prompts, and the fields of `GenerationConfig`, which win over both configs.
        streamer: is given each new token, `put((B,))`, after the prompts, and told the `end()`.

    Returns:
        The prompts and what follows them (B * num_return_sequences, T + new); of an encoder-decoder, the decoder's
        start token and what follows it; after `inputs_embeds`, new tokens only. Rows that ended early are padded. With
        `return_dict_in_generate`, one of the outputs of `minihf.generation.outputs`.

    Raises:
        ValueError, TypeError: an argument is unknown, makes no sense, or asks for more than the model can do.
    """
    task = prepare(model, *args, **kwargs)
    if streamer is not None and task.beams > 1:
        raise ValueError("a streamer shows a text as it is written, and beams are many: set num_beams=1")
    if task.beams > 1:
        return searched(task)
    if streamer is None:
        new = list(written(task))
    else:
        new = []
        with streaming(streamer):
            streamer.put(task.ids.cpu())
            for chosen in written(task):
                new.append(chosen)
                streamer.put(chosen.cpu())
    sequences = torch.cat([task.ids, *(chosen[:, None] for chosen in new)], dim=1)
    return finished(task, sequences)


def stream(model: nn.Module, *args: Any, **kwargs: Any) -> Iterator[Tensor]:
    """The loop of `generate` itself, greedy or sampled: yields the next token of each row, (B,), as it is chosen."""
    task = prepare(model, *args, **kwargs)
    if task.beams > 1:
        raise ValueError("beams are many texts, of which one is chosen at the end: set num_beams=1 to stream")
    yield from written(task)


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
    watch: Callable[..., None] | None = None  # of `beam_search`

    @property
    def beams(self) -> int:
        return self.config.num_beams or 1


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
            taken for padding; else nothing is.
        token_type_ids: (B, T), for models that have them.
        inputs_embeds: prompts as embeddings (B, T, C), instead of ids.
        past_key_values: what the model has read of these prompts before; `input_ids` are all ids, read or not.
        encoder_outputs: what the encoder gave before, so that it is not run.
        decoder_input_ids, decoder_attention_mask: what the decoder begins with, (B, T).
        negative_prompt_ids, negative_prompt_attention_mask: for `guidance_scale`: away from what follows these.
        tokenizer: needed for `stop_strings`.
        settings: the fields of `GenerationConfig`.
    """
    started = time.monotonic()
    check_names(settings)
    if generation_config is not None and not isinstance(generation_config, GenerationConfig):
        raise TypeError(f"generation_config takes a GenerationConfig, not a {type(generation_config).__name__}")
    config = settle(model.generation_config, generation_config, settings)
    config.check_other()
    if inputs is not None and input_ids is not None:
        raise ValueError("generate got its prompts twice, as inputs and as input_ids: pass one of them")
    ids = inputs if input_ids is None else input_ids
    if model.config.is_encoder_decoder:
        prompts = prompts_of_both(
            model, config, ids, attention_mask, inputs_embeds, encoder_outputs, decoder_input_ids,
            decoder_attention_mask, past_key_values,
        )  # fmt: skip
    else:
        prompts = prompts_of_decoder(
            model, config, ids, attention_mask, token_type_ids, inputs_embeds, past_key_values
        )
    steps = settle_lengths(model, prompts, config)
    beams, copies = config.num_beams or 1, config.num_return_sequences or 1
    rows = beams if beams > 1 else copies
    device, ends = prompts.ids.device, config.end_tokens
    asked = tuple(name for name in FLAGS if getattr(config, name)) if config.return_dict_in_generate else ()
    record = Record(asked, rows)
    guide = None
    if config.guidance_scale not in (None, 1):
        guide = guidance(
            model,
            config.guidance_scale,
            negative_prompt_ids=negative_prompt_ids,
            negative_prompt_attention_mask=negative_prompt_attention_mask,
            use_cache=config.use_cache is not False,
        )
    pad = config.pad_token_id if config.pad_token_id is not None or not ends else ends[0]
    return Task(
        config,
        Reader(
            model,
            prompts.mask,
            use_cache=config.use_cache is not False,
            cache=prompts.cache,
            token_type_ids=prompts.token_type_ids,
            inputs_embeds=prompts.inputs_embeds,
            context=prompts.context,
            copies=rows,
            beams=beams > 1,
            rows=rows * len(prompts.ids),
            steps=steps,
            record=tuple(name for name in asked if name in ("output_hidden_states", "output_attentions")),
        ),
        prompts.repeated(rows),
        steps,
        processors_for(
            config,
            prompt=prompts.ids.size(1),
            steps=steps,
            beams=beams,
            mask=prompts.mask,
            encoder_ids=prompts.source,
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
            guidance=guide,
            own=logits_processor or (),
            device=device,
        ),
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
    )


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
    # The last token is chosen, but not read: it needs no position.
    if limit is not None and read + steps - 1 > limit:
        raise ValueError(
            f"{read} tokens of prompt and {steps} new ones pass the model's {limit} positions: shorten the prompt "
            "(its last tokens matter most), or lower max_new_tokens"
        )
    config.max_new_tokens, config.max_length = steps, prompt + steps
    if config.min_length:
        config.min_length = max(config.min_length - prompts.before, 0)
    return steps


def written(task: Task) -> Iterator[Tensor]:
    return decode(
        task.reader,
        task.ids,
        steps=task.steps,
        choose=drawn if task.config.do_sample else most_probable,
        processors=task.processors,
        stop=task.stop,
        pad=task.pad,
        record=task.record,
    )


def searched(task: Task) -> Tensor | Output:
    config = task.config
    found = beam_search(
        task.reader,
        task.ids,
        beams=task.beams,
        steps=task.steps,
        ends=len(config.end_tokens),
        sample=bool(config.do_sample),
        processors=task.processors,
        stop=task.stop,
        length_penalty=config.length_penalty,
        early_stopping=config.early_stopping,
        record=task.record,
        watch=task.watch,
    )
    best = [h for hypotheses in found for h in hypotheses[: config.num_return_sequences or 1]]
    pad = config.pad_token_id if config.pad_token_id is not None else next(iter(config.end_tokens), -1)
    return finished(task, together([h.ids for h in best], pad), best)


def together(rows: list[Tensor], fill: int) -> Tensor:
    """Rows of several lengths, filled up on the right: (rows, longest)"""
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fill)


def finished(task: Task, sequences: Tensor, best: list[Hypothesis] | None = None) -> Tensor | Output:
    if task.record is None:
        return sequences
    more: dict[str, Any] = {"sequences": sequences}
    if task.reader.cache is not None:
        more["past_key_values"] = task.reader.unrolled()
    if best is not None:
        more["beam_indices"] = together([h.rows for h in best], -1)
        if task.config.output_scores:
            more["sequences_scores"] = torch.tensor([h.score for h in best], device=sequences.device)
    kind = output_kind(beams=best is not None, encoder=task.reader.context is not None)
    return task.record.output(kind, **more)
