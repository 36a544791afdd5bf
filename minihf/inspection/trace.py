"""Generation with the lid off: at each step, what could have come, what each processor made of it, and what came.

The texts are those of `generate`, by its own loops: what is added to the processors looks, and changes nothing. Of a
beam search there is the tree, too: every beam that ran, where it came from, and what became of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minihf.generation import Processor
from minihf.generation.beam_search import NEVER, Ended, Hypothesis
from minihf.generation.generate import finished, searched, written
from minihf.generation.task import Task, prepare
from minihf.inspection import trace_picture, trace_text
from minihf.inspection.words import word
from minihf.models.auto import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
from minihf.models.base import Model
from minihf.nn.output import Output
from minihf.tokenization import AutoTokenizer

# Ways of writing whose steps are others: no row of scores from which one token is chosen.
OTHERS = ("penalty_alpha", "force_words_ids", "constraints", "prompt_lookup_num_tokens")


@dataclass
class Look:
    """One row at one step: the candidates that were among the best at any stage, the likeliest in the end first.

    Attributes:
        step: 1 is the first new token.
        row: of the batch; of beams, text * num_beams + its rank at this step.
        total: the log-probability of the beam so far; 0 without beams.
        tokens: the candidates.
        scores: theirs at each stage, (stages, candidates): what the model gave (logits; of beams, log-probabilities),
            and what each processor made of it. -inf: taken away.
        probabilities: the softmax of each stage over the whole vocabulary, (stages, candidates).
        chosen: the token; of beams, those with which it goes on or ends: several, or none.
    """

    step: int
    row: int
    total: float
    tokens: list[int]
    scores: Tensor
    probabilities: Tensor
    chosen: list[int]


@dataclass
class Node:
    """A token of the tree: a beam as it was after this step, or one that ended with it.

    Attributes:
        text: the number of the prompt.
        step: 1 is the first new token.
        token: the one that was added.
        score: the log-probability of all tokens so far.
        parent: the node that it goes on from, an index of `Trace.nodes`; None: the prompt.
        parent_row: the row of that, at this step.
        row: its own at the next step; None: it does not go on.
        final: its score if it ended, score / step ** length_penalty; None: it did not.
        rank: its place among the best of its text in the end, 0 the first; None: it is not one of them.
    """

    text: int
    step: int
    token: int
    score: float
    parent: int | None
    parent_row: int
    row: int | None = None
    final: float | None = None
    rank: int | None = None


@dataclass
class Trace:
    """What `trace_generation` gives. Print it, or `draw` it.

    Attributes:
        result: what `generate` gives.
        prompts: what was continued, ids of each row; of an encoder-decoder, what its decoder began with.
        stages: the names of the columns of `Look.scores`: "model", then each processor's.
        looks: of each step, each row that was not at its end.
        nodes: of a beam search, the tree of each text, parents first.
        beams: how many; 1: no beam search.
        copies: how many rows a text has.
        returned: how many texts are returned for each prompt.
    """

    result: Tensor | Output
    prompts: Tensor
    stages: list[str]
    beams: int
    copies: int
    returned: int
    tokenizer: Any
    looks: list[Look] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)

    def __str__(self) -> str:
        """The tree of each text; without beams, the table."""
        if self.beams == 1:
            return self.table()
        return "\n\n".join(self.tree(text) for text in range(len(self.prompts) // self.copies))

    def word(self, token: int) -> str:
        """A token as it is shown."""
        return word(self.tokenizer, token)

    def line(self, ids: Sequence[int]) -> str:
        """Several tokens as a text, on one line."""
        if self.tokenizer is None:
            return " ".join(self.word(token) for token in ids)
        return " ".join(self.tokenizer.decode(ids, skip_special_tokens=True).split())

    def table(self, row: int | None = None) -> str:
        """For each step and row (or of this row alone), the probabilities of the candidates, stage by stage."""
        return trace_text.table(self, row)

    def tree(self, text: int = 0) -> str:
        """The hypotheses of one text, a token a line. The best goes straight down, what branches off is indented.

        Raises:
            ValueError: there was no beam search, or no such text.
        """
        self.check_text(text)
        return trace_text.tree(self, text)

    def draw(self, path: str | Path, *, text: int = 0) -> None:
        """A picture, PNG (or what the path ends with): the tree of one text; without beams, the steps of one row.

        Raises:
            ModuleNotFoundError: there is no matplotlib.
            ValueError: there is no such text.
        """
        if self.beams > 1:
            self.check_text(text)
        elif not 0 <= text < len(self.prompts):
            raise ValueError(f"there is no row {text}: the rows are 0 to {len(self.prompts) - 1}")
        trace_picture.draw(self, path, text)

    def check_text(self, text: int) -> None:
        if self.beams == 1:
            raise ValueError("there is no tree without beams: set num_beams, or look at the table")
        texts = len(self.prompts) // self.copies
        if not 0 <= text < texts:
            raise ValueError(f"there is no text {text}: the texts are 0 to {texts - 1}")


def trace_generation(
    model: Model,
    inputs: Tensor | str | Sequence[str] | None = None,
    tokenizer: Any = None,
    *,
    top: int = 5,
    **settings: Any,
) -> Trace:
    """Generate, and keep what each step chose from.

    Args:
        model: one that can generate.
        inputs: the prompts as ids (B, T), or as text; None: they are among the settings.
        tokenizer: for text, and to show tokens as more than numbers.
        top: how many of the best candidates are kept at each stage; one that was chosen is kept besides.
        settings: all else that `generate` takes.

    Raises:
        ValueError, TypeError: `generate` would raise it; or the decoding is none that is traced: these are greedy
            search, sampling, and beam search, drawn or not.
    """
    if not model.can_generate:
        raise TypeError(
            f"{type(model).__name__} has no language model head to generate with; load it with AutoModelForCausalLM"
        )
    model.require_values("trace_generation")
    if top < 1:
        raise ValueError(f"top is how many candidates are kept at each stage, 1 or more, not {top}")
    if inputs is not None and not isinstance(inputs, Tensor):
        if tokenizer is None:
            raise ValueError("the prompts are text: pass the tokenizer too, or ids")
        # What a decoder continues must stand next to what it writes.
        side = {} if model.config.is_encoder_decoder else {"padding_side": "left"}
        texts = [inputs] if isinstance(inputs, str) else list(inputs)
        batch = tokenizer(texts, padding=len(texts) > 1, return_tensors="pt", return_attention_mask=True, **side)
        inputs = batch["input_ids"].to(model.device)
        settings.setdefault("attention_mask", batch["attention_mask"].to(model.device))
    if settings.get("assistant_model") is not None:
        raise ValueError("an assistant changes no greedy text, and its steps are not traced: leave assistant_model out")
    task = prepare(model, inputs, tokenizer=tokenizer, **settings)
    for name in OTHERS:
        if getattr(task.config, name):
            raise ValueError(f"{name} asks for a way of decoding that is not traced: leave it out")
    if (task.config.num_beam_groups or 1) > 1:
        raise ValueError("beams in groups are not traced: leave num_beam_groups out")

    watch = Watch(task, top, tokenizer)
    if task.beams > 1:
        watch.trace.result = searched(task)
        watch.rank()
    else:
        sequences = task.ids
        for chosen in written(task):
            watch.chose(chosen)
            sequences = torch.cat([sequences, chosen[:, None]], dim=1)
        watch.trace.result = finished(task, sequences)
    return watch.trace


class Watch:
    """Listens to the processors of a task, and to its choices."""

    def __init__(self, task: Task, top: int, tokenizer: Any):
        config, beams = task.config, task.beams
        names = ["model", *(name_of(process) for process in task.processors)]
        wanted = config.num_return_sequences or 1
        self.trace = Trace(task.ids, task.ids, names, beams, beams if beams > 1 else wanted, wanted, tokenizer)
        self.top, self.step = top, 0
        self.length_penalty, self.early_stopping = config.length_penalty, config.early_stopping
        self.stages: list[Tensor] = []  # of this step, (rows, V) each
        self.done = torch.zeros(len(task.ids), dtype=torch.bool)
        self.at: list[int | None] = [None] * len(task.ids)  # row -> its node
        self.totals = [0.0 if row % beams == 0 else NEVER for row in range(len(task.ids))]
        self.over = [False] * (len(task.ids) // beams)
        self.ended: list[Ended] = []
        task.processors = [self.first, *(self.heard(process) for process in task.processors)]
        if beams > 1:
            task.watch = self.searched
        elif task.stop is not None and task.pad is not None:
            stop = task.stop

            def stops(ids: Tensor) -> Tensor:
                found = stop(ids)
                self.done = self.done | found.cpu()
                return found

            task.stop = stops

    def first(self, ids: Tensor, scores: Tensor) -> Tensor:
        self.step += 1
        self.stages = [scores.clone()]
        return scores

    def heard(self, process: Processor) -> Processor:
        def listened(ids: Tensor, scores: Tensor) -> Tensor:
            scores = process(ids, scores)
            self.stages.append(scores.clone())  # the next one may write into it
            return scores

        return listened

    def chose(self, tokens: Tensor) -> None:
        """Without beams: the next token of each row, (B,)."""
        chosen = {row: [token] for row, token in enumerate(tokens.tolist()) if not self.done[row]}
        self.look(chosen)

    def look(self, chosen: dict[int, list[int]]) -> None:
        """Of these rows: the best of each stage, and what was chosen."""
        scores = torch.stack(self.stages, dim=1)  # (rows, stages, V)
        best = scores.topk(min(self.top, scores.size(-1)))
        for row, own in chosen.items():
            tokens = best.indices[row][best.values[row] > -torch.inf].tolist()
            tokens = torch.tensor([*dict.fromkeys(own + tokens)], device=scores.device)
            here = scores[row, :, tokens]  # (stages, candidates)
            order = torch.tensor(sorted(range(len(tokens)), key=lambda i: here[:, i].tolist()[::-1], reverse=True))
            order = order.to(tokens.device)
            shares = scores[row].softmax(-1)[:, tokens].nan_to_num(0.0)
            total = 0.0 if self.trace.beams == 1 else self.totals[row]
            self.trace.looks.append(
                Look(self.step, row, total, tokens[order].tolist(), here[:, order].cpu(), shares[:, order].cpu(), own)
            )

    def searched(
        self, best: Tensor, rows: Tensor, tokens: Tensor, stopped: Tensor, chosen: Tensor, ended: list[Ended]
    ) -> None:
        """`watch` of `beam_search`."""
        self.ended = ended
        beams, nodes = self.trace.beams, self.trace.nodes
        at, totals, went = [*self.at], [*self.totals], {}
        alive = [row for row in range(len(self.at)) if self.totals[row] > NEVER / 2 and not self.over[row // beams]]
        columns = [x.tolist() for x in (best, rows, tokens, stopped)]
        finish = bool(stopped.all())  # the last step: nothing goes on, though there are always some that would
        for text, places in enumerate(chosen.tolist()):
            if self.over[text]:
                continue
            for rank, (score, parent, token, stops) in enumerate(zip(*(x[text] for x in columns), strict=True)):
                ends = bool(stops) and rank < beams
                goes_on = rank in places and not finish
                if not ends and not goes_on:
                    continue
                node = Node(text, self.step, token, score, self.at[parent], parent)
                went.setdefault(parent, []).append(token)
                if ends:
                    node.final = score / self.step**self.length_penalty
                if goes_on:
                    node.row = text * beams + places.index(rank)
                    at[node.row], totals[node.row] = len(nodes), score + bool(stops) * NEVER
                nodes.append(node)
            own = ended[text]
            self.over[text] = not own.open or (own.full and self.early_stopping is True)
        self.look({row: went.get(row, []) for row in alive})
        self.at, self.totals = at, totals

    def rank(self) -> None:
        """The search is over: which of the nodes are its best texts?"""
        places = {(n.text, n.step, n.parent_row, n.token): n for n in self.trace.nodes if n.final is not None}
        prompt = self.trace.prompts.size(1)
        for text, own in enumerate(self.ended):
            for rank, h in enumerate(own.best):
                places[last_of(text, h, prompt)].rank = rank


def last_of(text: int, h: Hypothesis, prompt: int) -> tuple[int, int, int, int]:
    """(text, step, parent's row, token) of the last token of a hypothesis."""
    return text, h.ids.numel() - prompt, int(h.rows[-1]), int(h.ids[-1])


def name_of(process: Processor) -> str:
    """Of the library's own, the function that made it; of the caller's, its own name or its class's."""
    name = getattr(process, "__qualname__", type(process).__qualname__)
    ours = getattr(process, "__module__", "").startswith("minihf.generation.")
    return name.split(".")[0] if ours else name.split(".")[-1]


def run_command(target: str, text: str, *, png: str | None = None, seed: int = 0, top: int = 5, **settings: Any) -> int:
    """`minihf trace`: prints, and gives the exit status 0.

    Raises:
        ValueError, OSError: no such checkpoint, one that writes nothing, or settings that make no sense.
    """
    config = AutoConfig.from_pretrained(target)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model, tokenizer = kind.from_pretrained(target).eval(), AutoTokenizer.from_pretrained(target)
    torch.manual_seed(seed)
    trace = trace_generation(model, text, tokenizer, top=top, **settings)
    print(trace)
    if png is not None:
        trace.draw(png)
    return 0
