"""Assisted decoding (arXiv 2211.17192, 2302.01318): guess some tokens cheaply, and check them all at once.

To read eight tokens takes a model hardly longer than to read one. So somebody quick guesses how the text goes on: a
small model of the same tokens, or a look at what followed the same words earlier in the text. The model reads all
guesses in one go, which gives what it would have chosen after each. It keeps those that are right, and its own choice
after the last of them. So the text is what it would have been; drawn texts follow the same distribution.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from minihf.generation.config import GenerationConfig
from minihf.generation.decode import drawn, most_probable
from minihf.generation.outputs import Record, part
from minihf.generation.processors import Processor
from minihf.generation.prompts import Prompts
from minihf.generation.reader import Reader
from minihf.generation.stopping import StopRule
from minihf.generation.truncations import truncations


class Guesser(Protocol):
    def guess(self, ids: Tensor, most: int) -> tuple[Tensor, Tensor | None]:
        """(1, T) -> guesses (n,), of which `most` are of use, and what they were drawn from, (n, V), if they were."""

    def learn(self, guessed: int, right: int) -> None:
        """So many of the last guesses were right."""


@torch.inference_mode()
def assisted(
    reader: Reader,
    ids: Tensor,
    guesser: Guesser,
    *,
    steps: int,
    sample: bool = False,
    ends: Sequence[int] = (),
    processors: Sequence[Processor] = (),
    stop: StopRule | None = None,
    record: Record | None = None,
) -> Iterator[Tensor]:
    """Yield the next ids (1,), again and again: several come at once.

    Args:
        reader: the model, with a cache that is croppable.
        ids: the prompt (1, T).
        sample: draw, rather than take the most probable.
        ends: no token that was guessed is kept after one of these.
        steps, processors, stop, record: as in `decode`.
    """
    last = ids.size(1) + steps
    while (T := ids.size(1)) < last:
        guesses, drafts = guesser.guess(ids, last - T - 1)
        n = len(guesses)
        text = torch.cat([ids, guesses[None]], dim=1)
        logits = reader(text, n + 1).view(n + 1, -1)  # (n + 1, V): of what follows the text, and each guess
        rows = []
        for i, row in enumerate(logits.split(1)):
            for process in processors:
                row = process(text[:, : T + i], row)
            rows.append(row)
        scores = torch.cat(rows)
        if sample and drafts is not None:
            chosen = accepted(guesses, drafts, scores)
        else:
            chosen = drawn(scores) if sample else most_probable(scores)
            chosen = chosen[: agreeing(guesses == chosen[:n]) + 1]
        new = chosen.tolist()
        new = new[: min(last - T, next((i + 1 for i, token in enumerate(new) if token in ends), len(new)))]
        guesser.learn(n, len(new) - 1)
        for i in range(len(new)):
            if record is not None:
                record.add(part(reader.output, of_token(i, n)), logits[i : i + 1], scores[i : i + 1])
            ids = torch.cat([ids, chosen[None, i : i + 1]], dim=1)
            over = stop is not None and bool(stop(ids).all())
            if over or i == len(new) - 1:
                reader.crop(ids.size(1) - 1)
            yield chosen[i : i + 1]
            if over:
                return


def agreeing(right: Tensor) -> int:
    """How many are right before the first that is not: (n,) bools."""
    return int(right.cumprod(0).sum())


def accepted(guesses: Tensor, drafts: Tensor, scores: Tensor) -> Tensor:
    """Speculative sampling: tokens (m + 1,), the first m of which were guessed, as if drawn from `scores` one by one.

    A guess x drawn from q is kept with probability min(1, p(x) / q(x)). At the first that is not, a token is drawn from
    max(0, p - q) instead: what q gives too seldom.

    Args:
        guesses: (n,)
        drafts: what they were drawn from, (n, V).
        scores: what the model gives in their place and after them, (n + 1, V).
    """
    p, q = scores.softmax(-1), drafts.softmax(-1)
    at = torch.arange(len(guesses), device=guesses.device)
    ratio = p[at, guesses] / q[at, guesses]
    m = agreeing(torch.rand_like(ratio) <= ratio)
    rest = p[m]
    if m < len(guesses):
        rest = (rest - q[m]).clamp(min=0)
        rest = rest / rest.sum()
    return torch.cat([guesses[:m], torch.multinomial(rest, 1)])


def of_token(i: int, n: int) -> Callable[[str, Tensor], Tensor]:
    """Of states (1, Q, C) or weights (1, H, Q, K) that were read with n guesses, those from which token i was chosen,
    as they are when tokens are read one by one."""

    def select(name: str, x: Tensor) -> Tensor:
        own = x.size(-2) - n  # how many were read before the guesses
        x = x[..., :own, :] if i == 0 else x[..., own + i - 1 : own + i, :]
        return x[..., : x.size(-1) - n + i] if name in ("attentions", "decoder_attentions") else x

    return select


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
