"""The loop that writes a text: run the model, shape the logits, choose a token, append it, until every row is done.

It is a generator, so that streaming is iterating it, and `generate` is gathering what it yields.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from minihf.generation.drawing import draw
from minihf.generation.outputs import Record
from minihf.generation.processors import Processor
from minihf.generation.reader import Reader
from minihf.generation.stopping import StopRule

Choice = Callable[[Tensor], Tensor]


def most_probable(scores: Tensor) -> Tensor:
    """(B, V) -> (B,)"""
    return scores.argmax(-1)


def drawn(scores: Tensor) -> Tensor:
    """(B, V) -> (B,), at random, each token as often as its probability says."""
    return draw(scores.softmax(-1)).squeeze(-1)


@torch.inference_mode()
def decode(
    reader: Reader,
    ids: Tensor,
    *,
    steps: int,
    choose: Choice = most_probable,
    processors: Sequence[Processor] = (),
    stop: StopRule | None = None,
    pad: int | None = None,
    record: Record | None = None,
) -> Iterator[Tensor]:
    """Yield the next ids (B,), again and again: inference tensors, to be cloned by who wants to train on them.

    Args:
        reader: the model, and what it reads beside the ids.
        ids: the prompts (B, T).
        steps: how often, at the most.
        processors: what is done to the float32 logits first, one after the other.
        choose: from the processed logits to a token.
        stop: says which rows are done; the loop ends when all are.
        pad: what rows that are done are filled with; None: they go on.
        record: keeps what else was asked for.
    """
    done = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    for _ in range(steps):
        logits = scores = reader(ids)
        for process in processors:
            scores = process(ids, scores)
        if record is not None:
            record.add(reader.output, logits, scores)
        chosen = choose(scores)
        if pad is not None and stop is not None:
            chosen = chosen.masked_fill(done, pad)
        ids = torch.cat([ids, chosen[:, None]], dim=1)
        yield chosen
        if stop is not None:
            done = done | stop(ids)
            if done.all():
                return
