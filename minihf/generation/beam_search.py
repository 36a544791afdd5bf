"""Beam search: at each step, of all continuations of n beams, the n best go on.

A beam that ends leaves the search and is kept if it is among the n best ended ones, by

    log-probability / (number of new tokens) ** length_penalty

Which candidates count, and when the search is over, is the reference's; it differs between libraries. Until n have
ended, empty texts that score -1e9 are in their places, and where fewer can be found (a grammar that allows two texts),
these are what is returned: prompts with nothing after them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from minihf.generation.drawing import draw
from minihf.generation.outputs import Record
from minihf.generation.processors import Processor
from minihf.generation.reader import Reader
from minihf.generation.stopping import StopRule

NEVER = -1e9  # added to a score that is not to win


@dataclass
class Hypothesis:
    """A text that ended: its score, its ids (T,), and the row that each of its new tokens was chosen from."""

    score: float
    ids: Tensor
    rows: Tensor


@dataclass
class Ended:
    """Of one prompt: the texts that are its best so far, best first."""

    best: list[Hypothesis] = field(default_factory=list)
    open: bool = True  # may a running beam still become one of them?
    full: bool = False  # are there as many as beams?


class Finalists:
    """The `beams` best texts of each prompt that ended.

    Args:
        prompts: (B, T).
        steps, length_penalty, early_stopping: as `beam_search` has them.

    Attributes:
        texts: of each prompt, best first: ids (T,), and the row that each new token was chosen from.
        scores: theirs, (B, n).
        found: whether they ended, bool (B, n); what did not only fills up.
        open: whether a running beam may still become one of them, bool (B, 1).
    """

    def __init__(self, prompts: Tensor, beams: int, steps: int, length_penalty: float, early_stopping: bool | str):
        self.scores = torch.full((len(prompts), beams), NEVER, device=prompts.device)
        self.found = torch.zeros_like(self.scores, dtype=torch.bool)
        self.open = torch.ones_like(self.found[:, :1])
        self.texts = [[(prompt, prompt[:0])] * beams for prompt in prompts]
        self.early, self.length_penalty = early_stopping is True, length_penalty
        self.longest = steps if early_stopping == "never" and length_penalty > 0 else None

    def add(self, step: int, best: Tensor, stopped: Tensor, running: Tensor, ids: Tensor, trails: Tensor) -> bool:
        """The candidates of a step: is the search over?

        Args:
            best, stopped: their log-probabilities, and 1 where they stopped, (B, K). Of these the first n may count.
            running: the best log-probability of those that go on, (B, 1).
            ids, trails: (B * K, ...).
        """
        beams, stopped = self.scores.size(1), stopped.bool()
        ending = stopped.clone()
        ending[:, beams:] = False
        closed = self.found.all(1, keepdim=True) & self.early
        offered = best / step**self.length_penalty + closed * NEVER + ~self.open * NEVER + ~ending * NEVER
        self.scores, places = torch.cat([self.scores, offered], dim=1).topk(beams)
        self.found = torch.cat([self.found, ending], dim=1).gather(1, places)
        full = self.found.all(1, keepdim=True)
        hope = running / (self.longest or step) ** self.length_penalty
        self.open = self.open & (hope > self.scores[:, -1:].where(self.found, NEVER)).any(1, keepdim=True)
        facts = [places, self.open, full, stopped.all(1, keepdim=True)]
        told = torch.cat(facts, dim=1).tolist()  # the step's one wait
        for text, row in enumerate(told):
            own, first = self.texts[text], text * best.size(1) - beams
            self.texts[text] = [own[i] if i < beams else (ids[first + i], trails[first + i]) for i in row[:beams]]
        still_open, all_full, all_stopped = zip(*(row[beams:] for row in told), strict=True)
        return not any(still_open) or (self.early and all(all_full)) or all(all_stopped)

    def scored(self) -> list[list[Hypothesis]]:
        return [
            [Hypothesis(score, *text) for score, text in zip(own, texts, strict=True)]
            for own, texts in zip(self.scores.tolist(), self.texts, strict=True)
        ]

    def by_text(self) -> list[Ended]:
        """As those who watch want to see it."""
        return [
            Ended([h for h, there in zip(texts, found, strict=True) if there], is_open, all(found))
            for texts, found, (is_open,) in zip(self.scored(), self.found.tolist(), self.open.tolist(), strict=True)
        ]


@torch.inference_mode()
def beam_search(
    reader: Reader,
    ids: Tensor,
    *,
    beams: int,
    steps: int,
    ends: int = 0,
    sample: bool = False,
    processors: Sequence[Processor] = (),
    stop: StopRule | None = None,
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
    record: Record | None = None,
    watch: Callable[..., None] | None = None,
) -> list[list[Hypothesis]]:
    """The `beams` best continuations of each prompt, best first.

    Args:
        reader: the model, with `copies=beams, beams=True`.
        ids: the prompts, each `beams` times in a row: (B * beams, T).
        steps: how many tokens, at the most.
        ends: how many end tokens there are. Of (ends + 1) * beams candidates, `beams` at least do not end.
        sample: draw the candidates, rather than take the best.
        processors: what is done to the log-probabilities, one after the other.
        stop: says of each candidate (N, T) whether it has ended.
        length_penalty: above 0, long texts gain.
        early_stopping: when is the search over for a prompt? True: when `beams` texts have ended. False: when, besides,
            the best running beam would not be one of them if it ended now. "never": when it cannot become one.
        record: keeps what else was asked for.
        watch: is shown each step as it was decided: of the candidates the log-probabilities, rows, tokens and whether
            they stopped, each (B, kept); the first three of those that go on, (B, n); and B of `Ended`.
    """
    texts = len(ids) // beams
    kept = max(2, 1 + ends) * beams
    first = torch.arange(0, len(ids), beams, device=ids.device)[:, None]  # (B, 1), each text's first row
    # All beams are the same at first: of one alone, candidates are taken.
    totals = torch.full((texts, beams), NEVER, device=ids.device)
    totals[:, 0] = 0
    trail = ids.new_empty(len(ids), 0)  # the row that each new token was chosen from
    ended = Finalists(ids[::beams], beams, steps, length_penalty, early_stopping)
    for step in range(1, steps + 1):
        logits = reader(ids)
        scores = logits.log_softmax(-1)
        for process in processors:
            scores = process(ids, scores)
        if record is not None:
            record.add(reader.output, logits, scores)

        V = scores.size(1)
        totals = (scores.view(texts, beams, V) + totals[:, :, None]).flatten(1)  # (B, n * V)
        best, places = drawn(totals, kept) if sample else totals.topk(kept)  # (B, kept)
        rows = (first + places // V).flatten()
        candidates = torch.cat([ids[rows], (places % V).view(-1, 1)], dim=1)  # (B * kept, T + 1)
        trails = torch.cat([trail[rows], rows[:, None]], dim=1)
        if step == steps:
            stopped = torch.ones_like(best)
        else:
            stopped = torch.zeros_like(best) if stop is None else stop(candidates).view(texts, kept).to(best.dtype)

        totals, chosen = (best + stopped * NEVER).topk(beams)
        over = ended.add(step, best, stopped, totals[:, :1], candidates, trails)
        if watch is not None:
            every = (best, rows.view_as(best), places % V)
            watch((*every, stopped), (totals, *(x.gather(1, chosen) for x in every[1:])), ended.by_text())
        if over:
            break
        chosen = (chosen + torch.arange(texts, device=ids.device)[:, None] * kept).flatten()
        ids, trail = candidates[chosen], trails[chosen]
        reader.follow(rows[chosen])
    if steps == 0:
        return [[Hypothesis(0.0, ids[row], trail[row])] * beams for row in range(0, len(ids), beams)]
    return ended.scored()


def drawn(totals: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """(B, N) log-probabilities -> `kept` of them, at random without repetition, and their places."""
    places = draw(totals.softmax(-1), kept)
    return totals.gather(1, places), places
