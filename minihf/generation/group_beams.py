"""Diverse beam search (arXiv 1610.02424): groups of beams, each kept away from what those before it chose.

Beams tend to differ in a word or two. Here they search in groups, one after the other at each step; a token that beams
of earlier groups chose at this step loses `diversity_penalty` for each of them.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minihf.generation.beam_search import NEVER, Hypothesis
from minihf.generation.hypotheses import Finished, candidates_of, ranked, running
from minihf.generation.outputs import Record
from minihf.generation.processors import Processor
from minihf.generation.reader import Reader
from minihf.generation.stopping import StopRule


class Diversity:
    """A processor: a token loses `penalty` for each time that it was chosen at this step.

    Attributes:
        chosen: the tokens that earlier groups chose for each text, (B, N).
    """

    def __init__(self, penalty: float):
        self.penalty = penalty
        self.chosen: Tensor | None = None

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """(B * size, V) -> (B * size, V), `size` beams of a group."""
        B, V = len(self.chosen), scores.size(1)
        counts = scores.new_zeros(B, V).scatter_add_(1, self.chosen, scores.new_ones(self.chosen.shape))
        return scores - self.penalty * counts.repeat_interleave(len(scores) // B, dim=0)


@torch.inference_mode()
def group_beam_search(
    reader: Reader,
    ids: Tensor,
    *,
    beams: int,
    groups: int,
    diversity: Diversity,
    steps: int,
    ends: list[int],
    pad: int,
    processors: Sequence[Processor] = (),
    stop: StopRule | None = None,
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
    record: Record | None = None,
    watch: Callable[..., None] | None = None,
) -> list[list[Hypothesis]]:
    """The best continuations of each prompt, of all groups, best first.

    Args:
        beams, groups: how many beams in all, a multiple of how many groups.
        diversity: one of the processors; it is told what the earlier groups chose.
        ends: the end tokens.
        pad: what a group writes that is at its end.
        others: as in `beam_search`. Processors see one group at a time, (B * beams / groups, T), and so does `watch`,
            with B of `Finished`.
    """
    B, size = len(ids) // beams, beams // groups
    rows = torch.arange(len(ids), device=ids.device).view(B, groups, size)
    totals = torch.full((B, groups, size), NEVER, device=ids.device)
    totals[:, :, 0] = 0  # all beams of a group are the same at first
    trail = ids.new_empty(len(ids), 0)
    finished = [[Finished(size) for _ in range(groups)] for _ in range(B)]
    alive = torch.ones(B, groups, size, dtype=torch.bool, device=ids.device)
    for step in range(1, steps + 1):
        logits = reader(ids)
        scores = logits.log_softmax(-1)
        chosen = ids.new_empty(B, 0)
        parents, nexts = torch.empty_like(rows), torch.empty_like(rows)
        for g in range(groups):
            own = rows[:, g].flatten()
            diversity.chosen, shaped = chosen, scores[own]
            for process in processors:
                shaped = process(ids[own], shaped)
            scores[own] = shaped

            found = candidates_of(shaped.view(B, size, -1), totals[:, g], rows[:, g], ids, ends, stop)
            values, stops = found.totals.tolist(), found.stopped.tolist()
            over = torch.tensor([text[g].closed for text in finished], device=ids.device)[:, None]
            for b, text in enumerate(finished):
                if text[g].closed:
                    continue
                for k in range(size):
                    if stops[b][k]:
                        row = found.rows[b, k]
                        trace = torch.cat([trail[row], row[None]])
                        text[g].offer(Hypothesis(values[b][k] / step**length_penalty, found.ids[b, k], trace))
                text[g].close(values[b][0], step, steps, length_penalty, early_stopping)
            totals[:, g] = running(found).masked_fill(over, 0)
            alive[:, g] = ~found.stopped.gather(1, found.going)
            parents[:, g] = torch.where(over, rows[:, g], found.rows.gather(1, found.going))
            nexts[:, g] = found.tokens.gather(1, found.going).masked_fill(over, pad)
            chosen = torch.cat([chosen, nexts[:, g]], dim=1)
            if watch is not None:
                every = (found.totals, found.rows, found.tokens, found.stopped)
                watch(every, (totals[:, g], parents[:, g], nexts[:, g]), [text[g] for text in finished])
        if record is not None:
            record.add(reader.output, logits, scores)
        ids = torch.cat([ids[parents.flatten()], nexts.view(-1, 1)], dim=1)
        trail = torch.cat([trail[parents.flatten()], parents.view(-1, 1)], dim=1)
        if all(group.closed for text in finished for group in text) or not alive.any():
            break
        reader.follow(parents.flatten())
    for b, text in enumerate(finished):
        for g, group in enumerate(text):
            for row, total, on in zip(rows[b, g].tolist(), totals[b, g].tolist(), alive[b, g].tolist(), strict=True):
                if on and not group.closed:
                    group.offer(Hypothesis(total / max(steps, 1) ** length_penalty, ids[row], trail[row]))
    return [ranked([h for group in text for h in group.texts]) for text in finished]
