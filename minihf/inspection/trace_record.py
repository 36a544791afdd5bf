"""What is kept of a generation that was watched: looks, and of beams the nodes of the tree."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from minihf.generation.constraints import Progress
from minihf.inspection import trace_picture, trace_text
from minihf.inspection.words import word
from minihf.nn.output import Output


@dataclass
class Look:
    """One row at one step: the candidates that were among the best at any stage, the likeliest in the end first.

    Attributes:
        step: 1 is the first new token.
        row: of the batch; of beams, text * num_beams + its rank at this step, behind the beams of earlier groups.
        total: the log-probability of the beam so far; 0 without beams.
        tokens: the candidates.
        scores: theirs at each stage, (stages, candidates): what the model gave (logits; of beams, log-probabilities),
            and what each processor made of it. -inf: taken away.
        probabilities: the softmax of each stage over the whole vocabulary, (stages, candidates).
        chosen: the token; of beams, those with which it goes on or ends: several, or none.
        compared: of contrastive search, (2, candidates): the greatest cosine with what is there, and the score that
            decides. NaN: not one of the k that were compared. Then the best of this score stand first.
        guessed: where tokens are guessed ahead, was this one? False: it is the model's own.
        refused: guesses for this place and those after it, of which the first was not what the model chose.
    """

    step: int
    row: int
    total: float
    tokens: list[int]
    scores: Tensor
    probabilities: Tensor
    chosen: list[int]
    compared: Tensor | None = None
    guessed: bool | None = None
    refused: list[int] = field(default_factory=list)


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
        group: of beams in groups, the number of its own.
        progress: of constrained beams, how far the text has come with what it must hold.
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
    group: int = 0
    progress: Progress | None = None
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
        nodes: of a beam search, the tree of each text, parents first; of beams in groups, a tree a group.
        beams: how many; 1: no beam search.
        groups: how many they are in.
        copies: how many rows a text has.
        returned: how many texts are returned for each prompt.
    """

    result: Tensor | Output
    prompts: Tensor
    stages: list[str]
    beams: int
    groups: int
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
        """For each step and row (or of this row alone), the probabilities of the candidates, stage by stage.

        ▸ marks what was chosen, ✗ a guess that was refused, · what a processor took away. Of contrastive search the
        last columns are no probabilities, but a cosine and the score that decides.
        """
        return trace_text.table(self, row)

    def tree(self, text: int = 0) -> str:
        """The hypotheses of one text, a token a line. The best goes straight down, what branches off is indented.

        Of beams in groups there is a tree a group. Of constrained beams, `1 of 2` constraints are fulfilled; + says
        that the next one is begun.

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
