"""Beam search: at each step, of all continuations of n beams, the n best go on.

A beam that ends leaves the search and is kept if it is among the n best ended ones, by

    log-probability / (number of new tokens) ** length_penalty

Which candidates count, and when the search is over, is the reference's; it differs between libraries.
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
    """The best texts that ended, of one prompt, best first."""

    most: int
    best: list[Hypothesis] = field(default_factory=list)
    open: bool = True  # may a running beam still become one of them?

    @property
    def full(self) -> bool:
        """Of texts that were really found: where tokens are fewer than beams, some go on from a beam that never was."""
        return len(self.best) == self.most and self.best[-1].score > NEVER

    def add(self, new: list[Hypothesis]) -> None:
        self.best = sorted(self.best + new, key=lambda h: -h.score)[: self.most]


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
    ended = [Ended(beams) for _ in range(texts)]
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
        for text, (values, stops) in enumerate(torch.stack([best, stopped], dim=1).tolist()):  # the step's one wait
            own = ended[text]
            if own.open and not (own.full and early_stopping is True):
                at = text * kept  # its first candidate
                own.add([
                    Hypothesis(values[rank] / step**length_penalty, candidates[at + rank], trails[at + rank])
                    for rank in range(beams)
                    if stops[rank]
                ])
            length = steps if early_stopping == "never" and length_penalty > 0 else step
            hope = max(value + end * NEVER for value, end in zip(values, stops, strict=True)) / length**length_penalty
            own.open = own.open and hope > (own.best[-1].score if own.full else NEVER)
        if watch is not None:
            every = (best, rows.view_as(best), places % V)
            watch((*every, stopped), (totals, *(x.gather(1, chosen) for x in every[1:])), ended)
        if not any(own.open for own in ended) or (early_stopping is True and all(own.full for own in ended)):
            break
        if stopped.all():
            break
        chosen = (chosen + torch.arange(texts, device=ids.device)[:, None] * kept).flatten()
        ids, trail = candidates[chosen], trails[chosen]
        reader.follow(rows[chosen])
    if steps == 0:
        return [[Hypothesis(0.0, ids[row], trail[row])] * beams for row in range(0, len(ids), beams)]
    return [own.best for own in ended]


def drawn(totals: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """(B, N) log-probabilities -> `kept` of them, at random without repetition, and their places."""
    places = draw(totals.softmax(-1), kept)
    return totals.gather(1, places), places
