"""What `generate` gives with `return_dict_in_generate=True`, and the record that is kept for it step by step."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from minihf.nn.cache import Cache
from minihf.nn.output import Output

# scores            what each token was chosen from, processed: for each new token (rows, V)
# logits            as the model gave them
# attentions, hidden_states, cross_attentions
#                   for each new token a tuple, one entry a layer: (rows, H, Q, K), (rows, Q, C). The first new token's
#                   are the prompt's too, Q = its length; then Q = 1 with a cache
# sequences_scores  of the beams that are returned: log-probability / length ** length_penalty
# beam_indices      the row of `scores` that each new token was chosen from, (sequences, new); -1 after the end


@dataclass(eq=False)
class GenerateDecoderOnlyOutput(Output):
    sequences: Tensor | None = None  # (B, T)
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    attentions: tuple[tuple[Tensor, ...], ...] | None = None
    hidden_states: tuple[tuple[Tensor, ...], ...] | None = None
    past_key_values: Cache | None = None


@dataclass(eq=False)
class GenerateEncoderDecoderOutput(Output):
    sequences: Tensor | None = None  # (B, T), of the decoder
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[tuple[Tensor, ...], ...] | None = None
    cross_attentions: tuple[tuple[Tensor, ...], ...] | None = None
    decoder_hidden_states: tuple[tuple[Tensor, ...], ...] | None = None
    past_key_values: Cache | None = None


@dataclass(eq=False)
class GenerateBeamDecoderOnlyOutput(Output):
    sequences: Tensor | None = None
    sequences_scores: Tensor | None = None  # (sequences,)
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    beam_indices: Tensor | None = None
    attentions: tuple[tuple[Tensor, ...], ...] | None = None
    hidden_states: tuple[tuple[Tensor, ...], ...] | None = None
    past_key_values: Cache | None = None


@dataclass(eq=False)
class GenerateBeamEncoderDecoderOutput(Output):
    sequences: Tensor | None = None
    sequences_scores: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    beam_indices: Tensor | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[tuple[Tensor, ...], ...] | None = None
    cross_attentions: tuple[tuple[Tensor, ...], ...] | None = None
    decoder_hidden_states: tuple[tuple[Tensor, ...], ...] | None = None
    past_key_values: Cache | None = None


PER_STEP = ("attentions", "hidden_states", "decoder_attentions", "cross_attentions", "decoder_hidden_states")
ONCE = ("encoder_attentions", "encoder_hidden_states")


@dataclass
class Record:
    """What each step left, of what was asked for.

    Attributes:
        asked: the settings "output_scores", "output_logits", "output_hidden_states", "output_attentions" that are True.
        copies: rows a text: what the model gave for the prompt, it gave once for all of them.
    """

    asked: tuple[str, ...] = ()
    copies: int = 1
    steps: dict[str, list[Any]] = field(default_factory=dict)
    once: dict[str, Any] = field(default_factory=dict)

    def add(self, output: Any, logits: Tensor, scores: Tensor) -> None:
        """Of one step: the model's output, the logits (rows, V) and what became of them."""
        if "output_scores" in self.asked:
            self.steps.setdefault("scores", []).append(scores.clone())
        if "output_logits" in self.asked:
            self.steps.setdefault("logits", []).append(logits.clone())
        for name in ONCE:
            if self.asks(name) and getattr(output, name, None) is not None:
                self.once.setdefault(name, getattr(output, name))
        for name in PER_STEP:
            layers = getattr(output, name, None)
            if self.asks(name) and layers is not None:
                if self.copies > 1 and name not in self.steps:
                    layers = tuple(x.repeat_interleave(self.copies, dim=0) for x in layers)
                self.steps.setdefault(name, []).append(layers)

    def asks(self, name: str) -> bool:
        """Of hidden states and attentions."""
        return ("output_attentions" if name.endswith("attentions") else "output_hidden_states") in self.asked

    def output(self, kind: type[Output], **more: Any) -> Output:
        """The record as one of the outputs above."""
        found = {**self.once, **{name: tuple(steps) for name, steps in self.steps.items()}, **more}
        return kind(**{f.name: found[f.name] for f in fields(kind) if f.name in found})


def part(output: Any, select: Callable[[str, Tensor], Tensor]) -> SimpleNamespace:
    """A model's output with a part of its hidden states and weights: `select(name, x)`, some rows or some tokens."""
    given = {name: getattr(output, name, None) for name in PER_STEP}
    layers = {name: tuple(select(name, x) for x in layers) for name, layers in given.items() if layers is not None}
    return SimpleNamespace(**{name: getattr(output, name, None) for name in ONCE}, **layers)


def output_kind(*, beams: bool, encoder: bool) -> type[Output]:
    if encoder:
        return GenerateBeamEncoderDecoderOutput if beams else GenerateEncoderDecoderOutput
    return GenerateBeamDecoderOnlyOutput if beams else GenerateDecoderOnlyOutput


def compute_transition_scores(
    model: nn.Module,
    sequences: Tensor,
    scores: tuple[Tensor, ...],
    beam_indices: Tensor | None = None,
    normalize_logits: bool = False,
) -> Tensor:
    """The score of each token that was chosen: (sequences, new), 0 after a beam's end.

    Args:
        model: not needed; there because it is a method of models.
        sequences, scores, beam_indices: what `generate` gave; `beam_indices` None: without beams.
        normalize_logits: log-softmax first. Scores of beams are log-probabilities already.

    A beam's token scores sum to `sequences_scores` times its length to the power of `length_penalty`.
    """
    if not scores:  # nothing was to be written
        return torch.empty(len(sequences), 0, device=sequences.device)
    table = torch.stack(scores, dim=1)  # (rows, steps, V)
    if normalize_logits:
        table = table.log_softmax(-1)
    if beam_indices is None:
        beam_indices = torch.arange(len(table), device=table.device)[:, None].expand(-1, len(scores))
    ended = beam_indices < 0
    new = int((~ended).sum(1).max())
    ended, rows = ended[:, :new], beam_indices[:, :new].clamp(min=0).long()
    chosen = sequences[:, sequences.size(1) - new :]
    steps = torch.arange(new, device=table.device)
    return table[rows, steps, chosen].masked_fill(ended, 0)
