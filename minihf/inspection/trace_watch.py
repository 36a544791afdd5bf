"""The ears of `trace_generation`: what is put around the processors and the stop rule of a task, and into its loop.

Nothing is changed, and nothing is drawn: a loop says what it has decided, and this writes it down. Loops that write
token by token say, besides, what they compared or guessed; those of beams, which candidates ended and which go on.
"""

from typing import Any

import torch
from torch import Tensor

from minihf.generation import Processor
from minihf.generation.beam_search import NEVER, Ended, Hypothesis
from minihf.generation.constraints import Progress
from minihf.generation.hypotheses import Finished, ranked
from minihf.generation.task import Task
from minihf.inspection.trace_record import Look, Node, Trace


class Watch:
    """Listens to the processors of a task, and to its choices.

    Beams in groups are so many searches, one after the other at each step: those of text t are numbered t * groups + g.
    """

    def __init__(self, task: Task, top: int, tokenizer: Any):
        config, beams, groups = task.config, task.beams, task.config.num_beam_groups or 1
        names = ["model", *(name_of(process) for process in task.processors)]
        wanted = config.num_return_sequences or 1
        copies = beams if beams > 1 else wanted
        self.trace = Trace(task.ids, task.ids, names, beams, groups, copies, wanted, tokenizer)
        self.top, self.step, self.config = top, 0, config
        self.calls: list[list[Tensor]] = []  # of the processors, not looked at yet: the stages of each, (rows, V)
        task.processors = [self.first, *(self.heard(process) for process in task.processors)]
        if beams > 1:
            self.size, rows = beams // groups, len(task.ids)
            self.at: list[int | None] = [None] * rows  # row -> its node
            self.totals = [0.0 if row % self.size == 0 else NEVER for row in range(rows)]
            self.ended: list[Ended | Finished] = [Ended()] * (rows // self.size)
            self.over = [False] * len(self.ended)
            self.group = groups - 1  # the one that was searched last
            task.watch = self.searched
            return
        self.last: dict[int, int] = {}  # row -> the step with which it ended
        self.facts: list[dict[str, Any]] = []  # about the next tokens
        if task.guesser is not None:
            task.watch = self.guessed
        elif config.penalty_alpha:
            task.watch = self.compared
        if task.stop is not None and task.pad is not None:
            stop = task.stop

            def stops(ids: Tensor) -> Tensor:
                found = stop(ids)
                for row in found.nonzero().flatten().tolist():
                    self.last.setdefault(row, ids.size(1) - self.trace.prompts.size(1))
                return found

            task.stop = stops

    # All

    def first(self, ids: Tensor, scores: Tensor) -> Tensor:
        self.calls.append([scores.clone()])
        return scores

    def heard(self, process: Processor) -> Processor:
        def listened(ids: Tensor, scores: Tensor) -> Tensor:
            scores = process(ids, scores)
            self.calls[-1].append(scores.clone())  # the next one may write into it
            return scores

        return listened

    def look(
        self, row: int, total: float, stages: Tensor, chosen: list[int], compared: Tensor | None = None, **facts: Any
    ) -> None:
        """One row, (stages, V): the best of each stage, what was chosen, and what was refused."""
        every = stages if compared is None else torch.cat([stages, compared[1:].nan_to_num(-torch.inf)])
        best = every.topk(min(self.top, every.size(-1)))
        tokens = chosen + facts.get("refused", [])[:1] + best.indices[best.values > -torch.inf].tolist()
        tokens = torch.tensor([*dict.fromkeys(tokens)], device=stages.device)
        here = every[:, tokens].T.flip(-1).tolist()  # what decides, first
        order = sorted(range(len(tokens)), key=here.__getitem__, reverse=True)
        tokens = tokens[order]
        shares = stages.softmax(-1)[:, tokens].nan_to_num(0.0).cpu()
        if compared is not None:
            facts["compared"] = compared[:, tokens].cpu()
        look = Look(self.step, row, total, tokens.tolist(), stages[:, tokens].cpu(), shares, chosen, **facts)
        self.trace.looks.append(look)

    # Token by token

    def chose(self, tokens: Tensor) -> None:
        """The next token of each row, (B,)."""
        self.step += 1
        scores = torch.stack(self.calls.pop(0), dim=1)  # (B, stages, V)
        facts = self.facts.pop(0) if self.facts else {}
        for row, token in enumerate(tokens.tolist()):
            if self.step <= self.last.get(row, self.step):
                own = {"compared": facts["compared"][row]} if "compared" in facts else facts
                self.look(row, 0.0, scores[row], [token], **own)

    def compared(self, tokens: Tensor, likeness: Tensor, values: Tensor) -> None:
        """`watch` of `contrastive_search`."""
        found = torch.stack([likeness, values], dim=1).to(self.calls[-1][0].dtype)  # (B, 2, k)
        every = found.new_full((*found.shape[:2], self.calls[-1][0].size(-1)), torch.nan)
        self.facts = [{"compared": every.scatter(2, tokens[:, None].expand_as(found), found)}]

    def guessed(self, guesses: Tensor, right: int) -> None:
        """`watch` of `assisted`."""
        self.calls = self.calls[-len(guesses) - 1 :]  # what came of guesses that were refused is nobody's
        self.facts = [{"guessed": True}] * right + [{"guessed": False, "refused": guesses[right:].tolist()}]

    # Beams

    def searched(
        self,
        candidates: tuple[Tensor, Tensor, Tensor, Tensor],
        going: tuple[Tensor, Tensor, Tensor],
        ended: list[Ended] | list[Finished],
        progress: list[Progress] | None = None,
    ) -> None:
        """`watch` of the beam searches."""
        groups, size = self.trace.groups, self.size
        self.group = (self.group + 1) % groups
        self.step += self.group == 0
        self.ended[self.group :: groups] = ended
        scores = torch.stack(self.calls.pop(0), dim=1)  # (texts * size, stages, V)
        if isinstance(ended[0], Ended) and candidates[-1].all():  # the last step, with which it ends all texts
            going = tuple(x[:, :0] for x in going)
        for text, own in enumerate(ended):
            if not self.over[text * groups + self.group]:
                here = scores[text * size : (text + 1) * size]
                ends, goes = ([*zip(*(x[text].tolist() for x in each), strict=True)] for each in (candidates, going))
                self.grow(text, here, ends[:size], goes, progress)
                self.over[text * groups + self.group] = self.is_over(own)

    def grow(
        self, text: int, scores: Tensor, best: list[tuple], going: list[tuple], progress: list[Progress] | None
    ) -> None:
        """One step of one search: of its best candidates those that end, and those of all that go on."""
        nodes, new = self.trace.nodes, {}  # (row, token) -> node

        def node_of(score: float, row: int, token: int) -> Node:
            after = None if progress is None else progress[row].after(token)
            node = Node(text, self.step, token, score, self.at[row], row, self.group, after)
            return new.setdefault((row, token), node)

        for score, row, token, stopped in best:
            if stopped and (progress is None or progress[row].completed):
                node_of(score, row, token).final = self.final(score)
        first = (text * self.trace.groups + self.group) * self.size
        for row, (total, parent, token) in enumerate(going, start=first):
            node_of(total, parent, token).row = row
        for row, stages in enumerate(scores, start=first):
            if self.totals[row] > NEVER / 2:
                self.look(row, self.totals[row], stages, [token for parent, token in new if parent == row])
        number = {key: i for i, key in enumerate(new, start=len(nodes))}
        for row, (total, *key) in enumerate(going, start=first):
            self.at[row], self.totals[row] = number[tuple(key)], total
        nodes += new.values()

    def final(self, score: float) -> float:
        return score / self.step**self.config.length_penalty

    def is_over(self, own: Ended | Finished) -> bool:
        if isinstance(own, Finished):
            return own.closed
        return not own.open or (own.full and self.config.early_stopping is True)

    def rank(self) -> None:
        """The search is over: which of the nodes are its best texts?"""
        groups, ends, prompt = self.trace.groups, self.config.end_tokens, self.trace.prompts.size(1)
        places: dict[tuple[int, int, int, int], list[Node]] = {}  # (text, step, parent's row, token as it is shown)
        for node in self.trace.nodes:
            own, token = self.ended[node.text * groups + node.group], node.token
            if isinstance(own, Finished):
                token = ends[0] if token in ends else token
                runs = node.row is not None and node.step == self.step and node.score > NEVER / 2 and not own.closed
                if runs and (node.progress is None or node.progress.completed):  # to the last step: a text, too
                    node.final = self.final(node.score)
            places.setdefault((node.text, node.step, node.parent_row, token), []).append(node)
        for text in range(len(self.ended) // groups):
            for rank, h in enumerate(best_of(self.ended[text * groups : (text + 1) * groups])):
                found = places[text, h.ids.numel() - prompt, int(h.rows[-1]), int(h.ids[-1])]
                node = min(found, key=lambda node: (node.rank is not None, node.final != h.score))  # of several ends
                node.rank, node.final = rank, h.score


def best_of(searches: list[Ended] | list[Finished]) -> list[Hypothesis]:
    """The texts of one prompt, best first."""
    if isinstance(searches[0], Ended):
        return searches[0].best
    return ranked([h for own in searches for h in own.texts])


def name_of(process: Processor) -> str:
    """Of the library's own, the function that made it; of the caller's, its own name or its class's."""
    name = getattr(process, "__qualname__", type(process).__qualname__)
    ours = getattr(process, "__module__", "").startswith("minihf.generation.")
    return name.split(".")[0] if ours else name.split(".")[-1]
