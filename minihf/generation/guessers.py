"""Who guesses how a text goes on, for assisted decoding: a small model, or the text itself.

How many guesses are made, and how sure a small model must be of them, follows from how the last ones went, as in the
reference: so the same draws are made in the same order, and drawn texts are equal under one seed.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from minihf.generation.config import GenerationConfig
from minihf.generation.decode import drawn, most_probable
from minihf.generation.processors import Processor
from minihf.generation.prompts import Prompts
from minihf.generation.reader import Reader
from minihf.generation.truncations import truncations


class Draft:
    """Guesses of a small model, each of which it must be sure of to go on.

    Args:
        reader: the small model, with a cache that is croppable.
        settings: `num_assistant_tokens`, its `_schedule`, and `assistant_confidence_threshold`.
        processors: those of the model that it guesses for.
    """

    def __init__(
        self,
        reader: Reader,
        settings: GenerationConfig,
        *,
        sample: bool = False,
        ends: Sequence[int] = (),
        processors: Sequence[Processor] = (),
    ):
        self.reader, self.sample, self.ends, self.processors = reader, sample, ends, processors
        self.schedule, self.number = settings.num_assistant_tokens_schedule, settings.num_assistant_tokens
        self.threshold = settings.assistant_confidence_threshold
        self.sure: list[float] = []  # of each guess, how sure it was,
        self.right: list[bool] = []  # and whether it was right

    def guess(self, ids: Tensor, most: int) -> tuple[Tensor, Tensor | None]:
        T, rows = ids.size(1), []
        if most < 1:
            return ids.new_empty(0), None
        if self.reader.started:
            self.reader.crop(min(self.reader.cache.length - self.reader.before, T - 1))
        while len(rows) < min(self.number, most):
            scores = self.reader(ids)
            for process in self.processors:
                scores = process(ids, scores)
            chosen = drawn(scores) if self.sample else most_probable(scores)
            ids = torch.cat([ids, chosen[:, None]], dim=1)
            rows.append(scores)
            self.sure.append(float(scores.softmax(-1)[0, chosen]))
            if int(chosen) in self.ends or (self.threshold and self.sure[-1] < self.threshold):
                break
        return ids[0, T:], torch.cat(rows)

    def learn(self, guessed: int, right: int) -> None:
        if self.schedule != "constant":
            self.number = self.number + 2 if guessed == right else max(1, self.number - 1)
        if self.schedule == "heuristic":  # which lasts
            self.reader.model.generation_config.num_assistant_tokens = self.number
        self.right += [True] * right
        if len(self.sure) > len(self.right):
            self.right.append(False)
        del self.sure[len(self.right) :]  # nobody knows of those after the first that was wrong
        if self.threshold and len(self.sure) > 5 and 0 < sum(self.right) < len(self.right):
            self.threshold = best_threshold(self.sure, self.right)


def best_threshold(sure: list[float], right: list[bool]) -> float:
    """Which would have cost least: a right guess that is not made is three times as bad as a wrong one that is."""
    order = sorted(zip(sure, right, strict=True), reverse=True)
    positive, hits, costs = sum(right), 0, {}
    for made, (threshold, hit) in enumerate(order, start=1):
        hits += hit
        costs[threshold] = (made - hits) / (len(right) - positive) + 3 * (1 - hits / positive)  # of equals, the last's
    return min(costs, key=costs.__getitem__)


class Lookup:
    """Guesses from the text itself: what followed its last words where they stand for the first time.

    Args:
        number: how many tokens to guess.
        longest: the most last tokens to look for; fewer are looked for if there is no such place.
        vocab: how many tokens there are.
        limit: the model reads no more ids than so many.
        ends: no guess is made of one of these, nor after it.
        processors: a guess that they forbid is not made.
    """

    def __init__(
        self,
        number: int,
        longest: int,
        vocab: int,
        *,
        limit: int | None = None,
        ends: Sequence[int] = (),
        processors: Sequence[Processor] = (),
    ):
        self.number, self.longest, self.vocab = number, longest, vocab
        self.limit, self.ends, self.processors = limit, ends, processors

    def guess(self, ids: Tensor, most: int) -> tuple[Tensor, None]:
        row = ids[0].tolist()
        T = len(row)
        room = self.number if self.limit is None else self.limit - T  # else as many as ever, that draws are the same
        for size in range(min(self.longest, T - 1), 0, -1) if most > 0 else ():
            for start in range(size, T):
                if row[start - size : start] == row[T - size :]:
                    found = self.allowed(ids, row[start : start + self.number])
                    if found:
                        end = next((i for i, token in enumerate(found) if token in self.ends), len(found))
                        return ids.new_tensor(found[: min(end, room)]), None
        return ids.new_empty(0), None

    def learn(self, guessed: int, right: int) -> None:
        pass

    def allowed(self, ids: Tensor, tokens: list[int]) -> list[int]:
        """Those before the first that the processors forbid."""
        for i, token in enumerate(tokens):
            scores = torch.ones(1, self.vocab, device=ids.device)
            for process in self.processors:
                scores = process(ids, scores)
            if scores[0, token] <= torch.finfo(scores.dtype).min:
                return tokens[:i]
            ids = torch.cat([ids, ids.new_tensor([[token]])], dim=1)
        return tokens


def check_guessing(assistant: nn.Module | None, config: GenerationConfig, prompts: Prompts) -> None:
    """Can somebody guess for this call? ValueError if not."""
    name = "prompt_lookup_num_tokens" if assistant is None else "assistant_model"
    if assistant is not None and config.prompt_lookup_num_tokens is not None:
        raise ValueError("assistant_model and prompt_lookup_num_tokens both guess tokens: pass one of the two")
    texts = len(prompts.ids) * (config.num_return_sequences or 1)
    if texts > 1:
        raise ValueError(f"{name} guesses for one text at a time, not for {texts}: generate them one by one")
    for wrong, remedy in (
        ((config.num_beams or 1) > 1, "not for beams: set num_beams=1"),
        (bool(config.penalty_alpha), "not for contrastive search: set penalty_alpha=None"),
        (config.use_cache is False, "and checks its guesses with a cache: leave use_cache out"),
        (config.cache_implementation == "static", "and takes some back, which a static cache cannot: leave that out"),
    ):
        if wrong:
            raise ValueError(f"{name} guesses for greedy and sampled texts, {remedy}")


def draft_for(
    model: nn.Module,
    assistant: nn.Module,
    config: GenerationConfig,
    drafting: GenerationConfig,
    prompts: Prompts,
    processors: list[Processor],
) -> Draft:
    """`assistant` as the one who guesses for `model`, or a ValueError that says why it cannot.

    Args:
        config, drafting: the settings of the call, and those of its guesses.
    """
    if assistant.config.is_encoder_decoder != model.config.is_encoder_decoder:
        raise ValueError("assistant_model and the model must both have an encoder, or neither")
    own, other = (m.get_output_embeddings().weight.size(0) for m in (assistant, model))
    if own != other:
        raise ValueError(f"assistant_model knows {own} tokens, the model {other}: it must be one of the same tokenizer")
    if prompts.inputs_embeds is not None or (prompts.context is not None and prompts.source is None):
        raise ValueError("assistant_model cannot read embeddings or states of another model: pass input_ids")
    if prompts.cache is not None:
        raise ValueError("assistant_model has not read what past_key_values hold: leave them out")
    context = prompts.context and {"input_ids": prompts.source, "attention_mask": prompts.context["attention_mask"]}
    reader = Reader(assistant, prompts.mask, token_type_ids=prompts.token_type_ids, context=context)
    reader.cache.croppable = True
    # The reference tempers and cuts off twice what guesses are drawn from; the text is right with any guesses.
    again = truncations(config) if config.do_sample else []
    sample, ends = bool(config.do_sample), config.end_tokens
    return Draft(reader, drafting, sample=sample, ends=ends, processors=processors + again)


def lookup_for(model: nn.Module, config: GenerationConfig, prompts: Prompts, processors: list[Processor]) -> Lookup:
    limit = getattr(model, "position_limit", None)
    return Lookup(
        config.prompt_lookup_num_tokens,
        config.max_matching_ngram_size or 2,
        model.get_output_embeddings().weight.size(0),
        limit=None if limit is None else limit - prompts.before,
        ends=config.end_tokens,
        processors=processors,
    )
