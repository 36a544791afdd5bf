"""What models return: plain records with the reference's field names.

A field is read by attribute, `out.logits`, by key, `out["logits"]`, or by its place among the fields that are there:
with labels `out[0]` is the loss, without them the logits. A field that was not asked for is None, and skipped by index.

In training with labels a language model's logits are there when they are read, and cost nothing before.
"""

from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from minihf.nn.cache import Cache
from minihf.nn.output import Output, WhenRead

# The last fields are recorded on request, in every output:
#   hidden_states      the input of each layer, then the last (normed) output: a tuple of (B, T, C)
#   attentions         the attention weights of each layer, each row summing to 1: a tuple of (B, H, Q, K)
#   cross_attentions   likewise, of a decoder's layers to the encoder's output


@dataclass(eq=False)
class BaseModelOutput(Output):
    last_hidden_state: Tensor | None = None  # (B, T, C)
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


def encoder_output(given: Output | tuple | list) -> BaseModelOutput:
    """What an encoder gave before, however it is handed on: its record, or a tuple that begins with the state.

    Raises:
        TypeError: it begins with something else than a state (B, S, C).
    """
    if isinstance(given, BaseModelOutput):
        return given
    state, hidden_states, attentions = (*given[:3], None, None, None)[:3]
    if not isinstance(state, Tensor) or state.dim() != 3:
        got = tuple(state.shape) if isinstance(state, Tensor) else type(state).__name__
        raise TypeError(
            f"encoder_outputs begin with {got}, expected a state (texts, tokens, channels): pass what "
            "model.get_encoder()(...) returns, or (state,)"
        )
    return BaseModelOutput(state, hidden_states=hidden_states, attentions=attentions)


@dataclass(eq=False)
class BaseModelOutputWithPooling(Output):
    last_hidden_state: Tensor | None = None  # (B, T, C)
    pooler_output: Tensor | None = None  # (B, C): one vector a text, made from its first token
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class CausalLMOutput(Output):
    loss: Tensor | None = None
    logits: Tensor | None = WhenRead()  # (B, T, V): of the next token
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class MoeModelOutput(Output):
    last_hidden_state: Tensor | None = None  # (B, T, C)
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    router_logits: tuple[Tensor, ...] | None = None  # one a layer, (B * T, experts)


@dataclass(eq=False)
class MoeCausalLMOutput(Output):
    loss: Tensor | None = None  # with a share of aux_loss, where that is there
    aux_loss: Tensor | None = None  # how unevenly the experts are used
    logits: Tensor | None = WhenRead()  # (B, T, V): of the next token
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    router_logits: tuple[Tensor, ...] | None = None  # one a layer, (B * T, experts)


@dataclass(eq=False)
class MaskedLMOutput(Output):
    loss: Tensor | None = None
    logits: Tensor | None = WhenRead()  # (B, T, V): of the token itself
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class PreTrainingOutput(Output):
    loss: Tensor | None = None  # the sum of both heads' losses
    prediction_logits: Tensor | None = WhenRead()  # (B, T, V)
    seq_relationship_logits: Tensor | None = None  # (B, 2): the second text follows the first, or is a random one
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class SequenceClassifierOutput(Output):
    loss: Tensor | None = None
    logits: Tensor | None = None  # (B, N)
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class TokenClassifierOutput(Output):
    loss: Tensor | None = None
    logits: Tensor | None = None  # (B, T, N)
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class MultipleChoiceOutput(Output):
    loss: Tensor | None = None
    logits: Tensor | None = None  # (B, choices)
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class QuestionAnsweringOutput(Output):
    loss: Tensor | None = None
    start_logits: Tensor | None = None  # (B, T): the answer begins here
    end_logits: Tensor | None = None  # (B, T): the answer ends here
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class DoubleHeadsOutput(Output):
    loss: Tensor | None = None
    mc_loss: Tensor | None = None
    logits: Tensor | None = WhenRead()  # (B, choices, T, V)
    mc_logits: Tensor | None = None  # (B, choices)
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


# Of an encoder-decoder: what is recorded of either side, and what the encoder gave, (B, S, C).


@dataclass(eq=False)
class Seq2SeqModelOutput(Output):
    last_hidden_state: Tensor | None = None  # (B, T, C), the decoder's
    past_key_values: Cache | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None

    def rest(self) -> list[Any]:
        """All fields but the first, absent ones too: the last fields of each head's output."""
        return [getattr(self, f.name) for f in fields(self)[1:]]


@dataclass(eq=False)
class Seq2SeqLMOutput(Output):
    loss: Tensor | None = None
    logits: Tensor | None = WhenRead()  # (B, T, V): of the next token
    past_key_values: Cache | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class Seq2SeqSequenceClassifierOutput(Output):
    loss: Tensor | None = None
    logits: Tensor | None = None  # (B, N)
    past_key_values: Cache | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class Seq2SeqQuestionAnsweringOutput(Output):
    loss: Tensor | None = None
    start_logits: Tensor | None = None  # (B, T), over the decoder's tokens
    end_logits: Tensor | None = None  # (B, T)
    past_key_values: Cache | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None
