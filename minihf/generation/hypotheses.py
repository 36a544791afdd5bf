"""What group and constrained beam search keep of texts that ended, as the releases did that had these searches.

It is not quite what plain beam search does today: a text that ends is kept without regard to what else ends at the same
step, a text is over when no running beam can do better, and then the beams that still run count as texts too. Whichever
end token a text ended with, it is shown with the first one.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from minihf.generation.beam_search import NEVER, Hypothesis
from minihf.generation.stopping import StopRule


@dataclass
class Finished:
    """The `most` best texts of one search, in the order in which they came."""

    most: int
    texts: list[Hypothesis] = field(default_factory=list)
    closed: bool = False

    def offer(self, new: Hypothesis) -> None:
        if len(self.texts) < self.most:
            self.texts.append(new)
        elif new.score > min(h.score for h in self.texts):
            self.texts.append(new)
            del self.texts[min(range(len(self.texts)), key=lambda i: self.texts[i].score)]

    def close(self, best: float, step: int, steps: int, length_penalty: float, early_stopping: bool | str) -> None:
        """Is it over, if the best candidate of this step has this log-probability?"""
        if len(self.texts) == self.most and not self.closed:
            length = steps if early_stopping == "never" and length_penalty > 0 else step
            worst = min(h.score for h in self.texts)
            self.closed = early_stopping is True or worst >= best / length**length_penalty


@dataclass
class Candidates:
    """The best continuations of the beams of each text, best first.

    Attributes:
        totals: their log-probabilities, (B, K).
        rows: which rows of the ids they go on from, (B, K).
        tokens: with which token, (B, K).
        stopped: which of them are at their end, bool (B, K).
        ids: their ids, (B, K, T), those that ended with the first end token.
        going: places (B, n) of the best n that are not at their end; where there are too few, the best of the others.
    """

    totals: Tensor
    rows: Tensor
    tokens: Tensor
    stopped: Tensor
    ids: Tensor
    going: Tensor


def candidates_of(
    scores: Tensor, totals: Tensor, rows: Tensor, ids: Tensor, ends: list[int], stop: StopRule | None
) -> Candidates:
    """
    Args:
        scores: log-probabilities of what follows each beam, (B, n, V).
        totals: of the beams themselves, (B, n).
        rows: which rows of the ids they are, (B, n).
        ids: (rows, T).
    """
    n, V = scores.shape[1:]
    best, places = (scores + totals[:, :, None]).flatten(1).topk(max(2, 1 + len(ends)) * n)  # (B, K)
    rows, tokens = rows.gather(1, places // V), places % V
    texts = torch.cat([ids[rows], tokens[:, :, None]], dim=2)
    stopped = tokens < 0 if stop is None else stop(texts.flatten(0, 1)).view_as(tokens)
    if ends:
        texts[:, :, -1].masked_fill_(torch.isin(tokens, tokens.new_tensor(ends)), ends[0])
    going = stopped.int().sort(dim=1, stable=True).indices[:, :n]
    return Candidates(best, rows, tokens, stopped, texts, going)


def running(c: Candidates) -> Tensor:
    """The log-probabilities of those that go on, (B, n); of those that only fill up, next to nothing."""
    return (c.totals + c.stopped * NEVER).gather(1, c.going)


def ranked(texts: list[Hypothesis]) -> list[Hypothesis]:
    """Best first; of equals, the later ones."""
    return sorted(texts, key=lambda h: h.score)[::-1]
