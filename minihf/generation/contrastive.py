"""Contrastive search (arXiv 2202.06417): of the k most probable tokens, one that does not repeat what is there.

Language models give tokens of a text like vectors, and greedy texts go round in circles. So each candidate is read, and
the search takes the one with the greatest

    (1 - alpha) * probability - alpha * likeness

where likeness is the greatest cosine between its last hidden state and that of any token before it. The k candidates
of a text are k beams, of which one goes on.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minihf.generation.outputs import Record, part
from minihf.generation.processors import Processor
from minihf.generation.reader import Reader
from minihf.generation.stopping import StopRule


@torch.inference_mode()
def contrastive_search(
    reader: Reader,
    ids: Tensor,
    *,
    candidates: int,
    alpha: float,
    steps: int,
    processors: Sequence[Processor] = (),
    stop: StopRule | None = None,
    pad: int | None = None,
    record: Record | None = None,
    watch: Callable[..., None] | None = None,
) -> Iterator[Tensor]:
    """Yield the next ids (B,), again and again.

    Args:
        reader: the model, with `copies=candidates, beams=True`, asked for hidden states.
        ids: the prompts (B, T).
        candidates: k, how many tokens to compare.
        alpha: 0 is greedy search, 1 looks at the likeness alone.
        steps, processors, stop, pad, record: as in `decode`.
        watch: is shown of each step the candidates, their likeness, and the values that decide, all (B, k).
    """
    B, k = len(ids), candidates
    texts, done = torch.arange(B, device=ids.device), torch.zeros(B, dtype=torch.bool, device=ids.device)
    real = None if reader.mask is None else reader.mask.bool()[:, None]  # (B, 1, P)
    for step in range(steps):
        if step == 0:
            logits = reader(ids.repeat_interleave(k, dim=0))[::k]  # (B, V)
            if k > logits.size(1):
                raise ValueError(f"top_k={k} candidates: there are {logits.size(1)} tokens")
            output, states = reader.output, directions(reader.output)  # states (B, P, C)
        scores = logits
        for process in processors:
            scores = process(ids, scores)
        if record is not None:
            record.add(output, logits, scores)

        probabilities, tokens = scores.softmax(-1).topk(k)  # (B, k)
        following = reader(torch.cat([ids.repeat_interleave(k, dim=0), tokens.view(-1, 1)], dim=1))  # (B k, V)
        new = directions(reader.output).view(B, k, -1)  # (B k, 1, C) -> (B, k, C)
        cosines = new @ states.transpose(1, 2)  # (B, k, T)
        if real is not None:
            cosines[:, :, : real.size(2)].masked_fill_(~real, -torch.inf)
        likeness = cosines.amax(-1)
        values = (1 - alpha) * probabilities - alpha * likeness
        values = values.masked_fill(probabilities == 0, -torch.inf)  # never what a processor forbids
        best = values.argmax(-1)
        if watch is not None:
            watch(tokens, likeness, values)

        rows = texts * k + best
        logits, output = following[rows], part(reader.output, lambda _, x, rows=rows: x[rows])
        states = torch.cat([states, new[texts, best][:, None]], dim=1)
        reader.follow(rows.repeat_interleave(k))
        chosen = tokens[texts, best]
        if pad is not None and stop is not None:
            chosen = chosen.masked_fill(done, pad)
        ids = torch.cat([ids, chosen[:, None]], dim=1)
        if stop is not None:
            done = done | stop(ids)
        over = step == steps - 1 or bool(done.all())
        if over and record is not None:  # as after any other search, all is read but the last token
            reader.cache = reader.unrolled()
            reader.cache.reorder(rows)
            reader.cache.crop(reader.cache.length - 1)
        yield chosen
        if over:
            return


def directions(output: Any) -> Tensor:
    """The last layer's states, each of length 1: (rows, T, C)"""
    states = output.hidden_states if "hidden_states" in output else output.decoder_hidden_states
    return F.normalize(states[-1], dim=-1, eps=0)
