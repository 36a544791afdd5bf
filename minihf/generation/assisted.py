"""Assisted decoding (arXiv 2211.17192, 2302.01318): guess some tokens cheaply, and check them all at once.

To read eight tokens takes a model hardly longer than to read one. So somebody quick guesses how the text goes on: a
small model of the same tokens, or a look at what followed the same words earlier in the text. The model reads all
guesses in one go, which gives what it would have chosen after each. It keeps those that are right, and its own choice
after the last of them. So the text is what it would have been; drawn texts follow the same distribution.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from minihf.generation.decode import drawn, most_probable
from minihf.generation.drawing import draw
from minihf.generation.outputs import Record, part
from minihf.generation.processors import Processor
from minihf.generation.reader import Reader
from minihf.generation.stopping import StopRule


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
    watch: Callable[..., None] | None = None,
) -> Iterator[Tensor]:
    """Yield the next ids (1,), again and again: several come at once.

    Args:
        reader: the model, with a cache that is croppable.
        ids: the prompt (1, T).
        sample: draw, rather than take the most probable.
        ends: no token that was guessed is kept after one of these.
        steps, processors, stop, record: as in `decode`.
        watch: is shown each time the guesses (n,), and how many of them were right.
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
        if watch is not None:
            watch(guesses, len(chosen) - 1)
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
    return torch.cat([guesses[:m], draw(rest)])


def of_token(i: int, n: int) -> Callable[[str, Tensor], Tensor]:
    """Of states (1, Q, C) or weights (1, H, Q, K) that were read with n guesses, those from which token i was chosen,
    as they are when tokens are read one by one."""

    def select(name: str, x: Tensor) -> Tensor:
        own = x.size(-2) - n  # how many were read before the guesses
        x = x[..., :own, :] if i == 0 else x[..., own + i - 1 : own + i, :]
        return x[..., : x.size(-1) - n + i] if name in ("attentions", "decoder_attentions") else x

    return select
