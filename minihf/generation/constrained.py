"""Constrained beam search: among the beams of a text there are always some that bring a wanted word nearer.

Of a beam search's candidates few would begin the word "pies" by themselves. So at each step, each beam is also
continued with the tokens that bring its constraints a step further, and the candidates are put into banks by how far
they have come. The n that go on are the best of each bank, then the second best of each, and so on: those that are far
have a place, and so have those that are probable. (Dynamic beam allocation, arXiv 1804.06609.)
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from minihf.generation.beam_search import NEVER, Hypothesis
from minihf.generation.constraints import Constraint, Progress
from minihf.generation.hypotheses import Finished, candidates_of, ranked, running
from minihf.generation.outputs import Record
from minihf.generation.processors import Processor
from minihf.generation.reader import Reader
from minihf.generation.stopping import StopRule

Going = tuple[int, int, float]  # the row it goes on from, the token, its log-probability


@torch.inference_mode()
def constrained_beam_search(
    reader: Reader,
    ids: Tensor,
    *,
    constraints: list[Constraint],
    beams: int,
    wanted: int = 1,
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
    """The best continuations of each prompt that hold what the constraints want, best first.

    What the prompt holds counts. Where so few of the beams that run to the last step hold all that fewer than `wanted`
    do, the others count as texts too, if they are better.

    Args:
        wanted: how many of the texts will be shown.
        ends: the end tokens.
        pad: what a text writes that is at its end.
        others: as in `beam_search`; `watch` is shown B of `Finished`, and how far the beams had come before this step.
    """
    B = len(ids) // beams
    rows = torch.arange(len(ids), device=ids.device).view(B, beams)
    totals = torch.full((B, beams), NEVER, device=ids.device)
    totals[:, 0] = 0  # all beams are the same at first
    trail = ids.new_empty(len(ids), 0)
    progress = [Progress.at_start(constraints)] * len(ids)
    for token in range(ids.size(1)):
        progress = [p.after(t) for p, t in zip(progress, ids[:, token].tolist(), strict=True)]
    finished = [Finished(beams) for _ in range(B)]
    alive, step = [True] * len(ids), 0
    for step in range(1, steps + 1):
        logits = reader(ids)
        scores = logits.log_softmax(-1)
        for process in processors:
            scores = process(ids, scores)
        if record is not None:
            record.add(reader.output, logits, scores)

        found = candidates_of(scores.view(B, beams, -1), totals, rows, ids, ends, stop)
        values, stops, parents = found.totals.tolist(), found.stopped.tolist(), found.rows.tolist()
        going = [x.gather(1, found.going).tolist() for x in (found.rows, found.tokens, found.stopped)]  # each (B, n)
        sums = running(found).tolist()
        texts, every = ids.tolist(), scores + totals.view(-1, 1)  # (rows, V)
        following: list[Going] = []
        for b, text in enumerate(finished):
            if text.closed:
                following += [(row, pad, 0.0) for row in rows[b].tolist()]
                continue
            for k in range(beams):
                if stops[b][k] and progress[parents[b][k]].completed:
                    row = found.rows[b, k]
                    trace = torch.cat([trail[row], row[None]])
                    text.offer(Hypothesis(values[b][k] / step**length_penalty, found.ids[b, k], trace))
            best = list(zip(going[0][b], going[1][b], sums[b], strict=True))
            alive[b * beams : (b + 1) * beams] = [not stopped for stopped in going[2][b]]
            if any(alive[b * beams : (b + 1) * beams]):
                following += balanced(best, rows[b].tolist(), texts, every, progress)
            else:
                following += best
            text.close(values[b][0], step, steps, length_penalty, early_stopping)
        from_row = ids.new_tensor([row for row, _, _ in following])
        tokens = ids.new_tensor([token for _, token, _ in following])
        totals = totals.new_tensor([total for _, _, total in following]).view(B, beams)
        if watch is not None:
            every = (found.totals, found.rows, found.tokens, found.stopped)
            watch(every, (totals, from_row.view(B, beams), tokens.view(B, beams)), finished, progress)
        progress = [progress[row].after(token) for row, token, _ in following]
        ids = torch.cat([ids[from_row], tokens[:, None]], dim=1)
        trail = torch.cat([trail[from_row], from_row[:, None]], dim=1)
        if all(text.closed for text in finished) or not any(alive):
            break
        reader.follow(from_row)

    for b, text in enumerate(finished):
        if text.closed:
            continue
        last = [
            (progress[row].completed, Hypothesis(total / max(step, 1) ** length_penalty, ids[row], trail[row]))
            for row, total in zip(rows[b].tolist(), totals[b].tolist(), strict=True)
        ]
        whole = [h for completed, h in last if completed]
        for hypothesis in whole if len(whole) >= wanted else whole + [h for completed, h in last if not completed]:
            text.offer(hypothesis)
    return [ranked(text.texts) for text in finished]


def balanced(
    best: list[Going], rows: list[int], texts: list[list[int]], every: Tensor, progress: list[Progress]
) -> list[Going]:
    """Of the best candidates and those that bring the constraints further, as many as go on.

    Args:
        best: the candidates of a plain beam search.
        rows: of this text's beams.
        texts: the ids so far, of all rows.
        every: log-probabilities with each next token, (rows, V).
        progress: of all rows.
    """
    known = {(*texts[row], token) for row, token, _ in best}
    pushed: list[Going] = []
    for row in rows:
        for token in progress[row].advance() if not progress[row].completed else ():
            if token >= every.size(1):
                raise ValueError(f"a constraint wants the token {token}: there are {every.size(1)} tokens")
            if (*texts[row], token) not in known:
                known.add((*texts[row], token))
                pushed.append((row, token, float(every[row, token])))
    if not pushed:
        return best
    every_one = best + pushed
    banks = torch.tensor([progress[row].after(token).bank for row, token, _ in every_one])
    sums = torch.tensor([total for _, _, total in every_one])
    order = (banks * 100 + sums).sort(descending=True, stable=True).indices.tolist()  # banks first
    rank, ranks = 0, [0]  # in its bank
    for one, other in pairwise(order):
        rank = rank + 1 if banks[one] == banks[other] else 0
        ranks.append(rank)
    chosen = sorted(range(len(order)), key=ranks.__getitem__)[: len(best)]
    return [every_one[order[i]] for i in chosen]
