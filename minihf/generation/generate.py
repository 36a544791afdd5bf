"""`model.generate`: the arguments settled and checked once, then one of the loops."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from minihf.generation.assisted import assisted
from minihf.generation.beam_search import Hypothesis, beam_search
from minihf.generation.constrained import constrained_beam_search
from minihf.generation.constraints import constraints_of
from minihf.generation.contrastive import contrastive_search
from minihf.generation.decode import decode, drawn, most_probable
from minihf.generation.group_beams import group_beam_search
from minihf.generation.outputs import output_kind
from minihf.generation.streaming import streaming
from minihf.generation.task import Task, prepare
from minihf.nn.output import Output


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
    with streaming(streamer):  # whoever waits for the text hears of an error, too
        task = prepare(model, *args, **kwargs)
        if streamer is not None and task.beams > 1:
            raise ValueError("a streamer shows a text as it is written, and beams are many: set num_beams=1")
        if task.beams > 1:
            return searched(task)
        if streamer is not None:
            streamer.put(task.ids.cpu())
        new = []
        for chosen in written(task):
            new.append(chosen)
            if streamer is not None:
                streamer.put(chosen.cpu())
    return finished(task, torch.cat([task.ids, *(chosen[:, None] for chosen in new)], dim=1))


def stream(model: nn.Module, *args: Any, **kwargs: Any) -> Iterator[Tensor]:
    """The loop of `generate` itself, greedy or sampled: yields the next token of each row, (B,), as it is chosen."""
    task = prepare(model, *args, **kwargs)
    if task.beams > 1:
        raise ValueError("beams are many texts, of which one is chosen at the end: set num_beams=1 to stream")
    yield from written(task)


def written(task: Task) -> Iterator[Tensor]:
    """Texts that grow token by token: greedy or drawn, with guesses, or by contrastive search."""
    config = task.config
    common = {"steps": task.steps, "processors": task.processors, "stop": task.stop, "record": task.record}
    if task.guesser is not None:
        sample, ends = bool(config.do_sample), config.end_tokens
        return assisted(task.reader, task.ids, task.guesser, sample=sample, ends=ends, watch=task.watch, **common)
    if config.penalty_alpha:
        settings = {"candidates": config.top_k, "alpha": config.penalty_alpha}
        return contrastive_search(task.reader, task.ids, pad=task.pad, watch=task.watch, **settings, **common)
    choose = drawn if config.do_sample else most_probable
    return decode(task.reader, task.ids, choose=choose, pad=task.pad, **common)


def searched(task: Task) -> Tensor | Output:
    """Texts that are found among beams."""
    config, ends = task.config, task.config.end_tokens
    pad = config.pad_token_id if config.pad_token_id is not None else next(iter(ends), -1)
    length_penalty = 1.0 if config.length_penalty is None else config.length_penalty
    if length_penalty * math.log(max(task.steps, 1)) > 700:  # e**709 is the largest number
        raise ValueError(f"length_penalty={length_penalty} is too large for {task.steps} tokens: 0 to 5 is usual")
    common = {
        "beams": task.beams,
        "steps": task.steps,
        "processors": task.processors,
        "stop": task.stop,
        "length_penalty": length_penalty,
        "early_stopping": config.early_stopping,
        "record": task.record,
        "watch": task.watch,
    }
    if task.diversity is not None:
        groups = {"groups": config.num_beam_groups, "diversity": task.diversity}
        found = group_beam_search(task.reader, task.ids, ends=ends, pad=pad, **groups, **common)
    elif task.constrained:
        wishes = {"constraints": constraints_of(config), "wanted": config.num_return_sequences or 1}
        found = constrained_beam_search(task.reader, task.ids, ends=ends, pad=pad, **wishes, **common)
    else:
        found = beam_search(task.reader, task.ids, ends=len(ends), sample=bool(config.do_sample), **common)
    best = [h for hypotheses in found for h in hypotheses[: config.num_return_sequences or 1]]
    return finished(task, together([h.ids for h in best], pad), best)


def together(rows: list[Tensor], fill: int) -> Tensor:
    """Rows of several lengths, filled up on the right: (rows, longest)"""
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fill)


def finished(task: Task, sequences: Tensor, best: list[Hypothesis] | None = None) -> Tensor | Output:
    if task.record is None:
        return sequences
    more: dict[str, Any] = {"sequences": sequences}
    if (cache := task.reader.unrolled()) is not None:
        more["past_key_values"] = cache
    if best is not None:
        more["beam_indices"] = together([h.rows for h in best], -1)
        if task.config.output_scores:
            more["sequences_scores"] = torch.tensor([h.score for h in best], device=sequences.device)
    kind = output_kind(beams=best is not None, encoder=task.reader.context is not None)
    return task.record.output(kind, **more)
