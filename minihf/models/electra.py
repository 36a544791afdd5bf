"""ELECTRA (arXiv 2003.10555): an encoder that learns by telling which words of a text were replaced.

What is special: two models are trained together. A small generator fills in masked words, as BERT does; the
discriminator says of every token whether the generator put it there. All tokens teach, not only the masked ones, and
the discriminator is what is used afterwards.

Embeddings may be narrower than the layers (E and C): then one linear layer widens them, once. There is no pooler. The
blocks are BERT's.

Module paths are those of the published checkpoints.
"""

import logging
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minihf.fast.packed import pack, unpack
from minihf.models.base import Model
from minihf.models.config import Config
from minihf.models.inputs import (
    check_batch,
    check_choices,
    check_length,
    check_span_labels,
    flatten_choices,
    last_tokens,
)
from minihf.models.outputs import (
    BaseModelOutput,
    CausalLMOutput,
    MaskedLMOutput,
    MultipleChoiceOutput,
    QuestionAnsweringOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from minihf.nn.activations import ACTIVATIONS
from minihf.nn.attention import ENCODER_IMPLEMENTATIONS, attend, merge_heads, split_heads
from minihf.nn.cache import Cache
from minihf.nn.dropout import Dropout
from minihf.nn.linear import Linear
from minihf.nn.losses import classification_loss, cross_entropy, next_tokens, replaced_token_loss, span_loss
from minihf.nn.masks import decoder_mask, encoder_mask
from minihf.nn.words import predict_words

logger = logging.getLogger(__name__)


@dataclass(init=False)
class ElectraConfig(Config):
    model_type: ClassVar[str] = "electra"
    attn_implementations: ClassVar = ENCODER_IMPLEMENTATIONS

    vocab_size: int = 30522
    embedding_size: int = 128
    """Of the word, position and type embeddings."""
    hidden_size: int = 256
    num_hidden_layers: int = 12
    num_attention_heads: int = 4
    intermediate_size: int = 1024
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    summary_type: str = "first"
    """What the multiple-choice head reads: "first", "last" (as "cls_index"), "mean"; padding included."""
    summary_use_proj: bool = True
    summary_activation: str | None = "gelu"
    summary_last_dropout: float = 0.1
    pad_token_id: int | None = 0
    use_cache: bool = True
    """A decoder returns the keys and values of its tokens."""
    classifier_dropout: float | None = None
    """Before a classification head; None: `hidden_dropout_prob`."""
    is_decoder: bool = False
    """Every token sees itself and earlier ones only."""
    add_cross_attention: bool = False
    """A decoder's layers also attend to `encoder_hidden_states`."""
    bos_token_id: int | None = None
    eos_token_id: int | list | None = None

    def check(self) -> None:
        self.require_choice("is_encoder_decoder", [False])
        self.require_sizes("vocab_size", "embedding_size", "hidden_size", "num_attention_heads", "intermediate_size")
        self.require_sizes("max_position_embeddings", "type_vocab_size")
        self.require_layers("num_hidden_layers")
        self.require_multiple("hidden_size", of="num_attention_heads")
        self.require_probabilities("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
        self.require_probabilities("summary_last_dropout")
        self.require_magnitudes("layer_norm_eps", "initializer_range")
        self.require_token_ids("pad_token_id")
        self.require_choice("hidden_act", ACTIVATIONS)
        self.require_choice("position_embedding_type", ["absolute"])
        self.require_choice("summary_type", ["first", "last", "mean", "cls_index"])
        self.require_choice("summary_activation", [None, "", *ACTIVATIONS])
        self.require_choice("summary_proj_to_labels", [False])
        self.require_choice("summary_first_dropout", [0])
        if self.add_cross_attention and not self.is_decoder:
            raise ValueError("add_cross_attention=True needs is_decoder=True")

    @property
    def head_dropout(self) -> float:
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout


class ElectraEmbeddings(nn.Module):
    def __init__(self, config: ElectraConfig):
        super().__init__()
        E = config.embedding_size
        self.word_embeddings = nn.Embedding(config.vocab_size, E, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, E)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, E)
        self.LayerNorm = nn.LayerNorm(E, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, words: Tensor, types: Tensor, positions: Tensor) -> Tensor:
        x = words + self.token_type_embeddings(types) + self.position_embeddings(positions)
        return self.dropout(self.LayerNorm(x))  # (B, T, E)


class ElectraSelfAttention(nn.Module):
    """Of its own tokens, or, with `context`, of a decoder's tokens to an encoder's output."""

    def __init__(self, config: ElectraConfig, layer: int, *, causal: bool = False):
        super().__init__()
        self.config, self.layer, self.causal = config, layer, causal
        self.query = Linear(config.hidden_size, config.hidden_size)
        self.key = Linear(config.hidden_size, config.hidden_size)
        self.value = Linear(config.hidden_size, config.hidden_size)
        self.dropout = Dropout(config.attention_probs_dropout_prob)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        cache: Cache | None = None,
        context: Tensor | None = None,
        impl: str | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        heads = self.config.num_attention_heads
        q = split_heads(self.query(x), heads)
        if context is None:
            k, v = split_heads(self.key(x), heads), split_heads(self.value(x), heads)
            if cache is not None:
                k, v = cache.update(self.layer, k, v)
        elif cache is not None and self.layer in cache.cross:
            k, v = cache.cross[self.layer]
        else:
            k, v = split_heads(self.key(context), heads), split_heads(self.value(context), heads)
            if cache is not None:
                cache.cross[self.layer] = k, v
        dropout = self.dropout.p if self.training else 0.0
        impl = impl or self.config.attn_implementation
        x, weights = attend(q, k, v, mask, causal=self.causal, dropout=dropout, impl=impl)
        return merge_heads(x), weights


class ElectraOutput(nn.Module):
    """The end of each sublayer: LayerNorm(residual + Dropout(W x + b))."""

    def __init__(self, config: ElectraConfig, in_features: int):
        super().__init__()
        self.dense = Linear(in_features, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class ElectraLayer(nn.Module):
    def __init__(self, config: ElectraConfig, layer: int):
        super().__init__()
        C = config.hidden_size
        attention = ElectraSelfAttention(config, layer, causal=config.is_decoder)
        self.attention = nn.ModuleDict({"self": attention, "output": ElectraOutput(config, C)})
        if config.add_cross_attention:
            attention = ElectraSelfAttention(config, layer)
            self.crossattention = nn.ModuleDict({"self": attention, "output": ElectraOutput(config, C)})
        self.intermediate = nn.ModuleDict({"dense": Linear(C, config.intermediate_size)})
        self.output = ElectraOutput(config, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        cache: Cache | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        a, _ = self.attention["self"](x, mask, cache)
        x = self.attention["output"](a, x)
        if context is not None:
            a, _ = self.crossattention["self"](x, context_mask, cache, context)
            x = self.crossattention["output"](a, x)
        return self.output(self.activation(self.intermediate["dense"](x)), x)


class ElectraDiscriminatorPredictions(nn.Module):
    """Of each token one logit: above 0, it was replaced."""

    def __init__(self, config: ElectraConfig):
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.dense_prediction = Linear(config.hidden_size, 1)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.dense_prediction(self.activation(self.dense(x))).squeeze(-1)  # (B, T, C) -> (B, T)


class ElectraGeneratorPredictions(nn.Module):
    """Back to the embeddings' width; the activation is GELU, whatever `hidden_act` says."""

    def __init__(self, config: ElectraConfig):
        super().__init__()
        self.dense = Linear(config.hidden_size, config.embedding_size)
        self.LayerNorm = nn.LayerNorm(config.embedding_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(F.gelu(self.dense(x)))  # (B, T, C) -> (B, T, E)


class ElectraClassificationHead(nn.Module):
    """Logits of a text, from its first token, [CLS]; with GELU where BERT's pooler has tanh."""

    def __init__(self, config: ElectraConfig):
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.dropout = Dropout(config.head_dropout)
        self.out_proj = Linear(config.hidden_size, config.num_labels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.dense(self.dropout(x[:, 0])))  # (B, T, C) -> (B, C)
        return self.out_proj(self.dropout(x))  # (B, N)


class ElectraSummary(nn.Module):
    """One vector a text, (B, T, C) -> (B, C)."""

    def __init__(self, config: ElectraConfig):
        super().__init__()
        self.kind = config.summary_type
        C = config.hidden_size
        self.summary = Linear(C, C) if config.summary_use_proj else nn.Identity()
        self.summary_activation = ACTIVATIONS[config.summary_activation or "linear"]
        self.last_dropout = Dropout(config.summary_last_dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean(1) if self.kind == "mean" else x[:, 0 if self.kind == "first" else -1]
        return self.last_dropout(self.summary_activation(self.summary(x)))


class ElectraPreTrainedModel(Model):
    config_class = ElectraConfig
    base_model_prefix = "electra"
    heads = (
        "discriminator_predictions", "generator_predictions", "generator_lm_head", "classifier", "qa_outputs",
        "sequence_summary"
    )
    input_embeddings = "embeddings.word_embeddings"
    recorded: ClassVar = {
        "hidden_states": "encoder.layer.*",
        "attentions": "encoder.layer.*.attention.self",
        "cross_attentions": "encoder.layer.*.crossattention.self",
    }

    @property
    def position_limit(self) -> int:
        return self.config.max_position_embeddings


class ElectraModel(ElectraPreTrainedModel):
    """The encoder (or decoder) itself: `last_hidden_state` (B, T, C) has a vector for each token."""

    def __init__(self, config: ElectraConfig):
        super().__init__(config)
        self.embeddings = ElectraEmbeddings(config)
        if config.embedding_size != config.hidden_size:
            self.embeddings_project = Linear(config.embedding_size, config.hidden_size)
        layers = nn.ModuleList(ElectraLayer(config, i) for i in range(config.num_hidden_layers))
        self.encoder = nn.ModuleDict({"layer": layers})
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
    ) -> BaseModelOutput:
        """
        Args:
            input_ids: (B, T). Or `inputs_embeds` (B, T, E): word embeddings made elsewhere.
            attention_mask: 1 = real, 0 = padding, (B, K), the cached tokens included; or a ready 4-D mask.
            token_type_ids: which of two texts a token belongs to, (B, T); None: all to the first.
            position_ids: (B, T) or (1, T); None: counted from the first token, padding included.
            encoder_hidden_states, encoder_attention_mask: for a decoder with cross-attention, (B, S, C) and (B, S).
            past_key_values: for a decoder, what it keeps of earlier tokens.
            use_cache: for a decoder, make and return `past_key_values`; None: as the config says.
        """
        B, T = check_batch(input_ids, inputs_embeds)
        config = self.config
        if past_key_values is not None and not config.is_decoder:
            raise ValueError("past_key_values need is_decoder=True: an encoder's past depends on its future")
        use_cache = config.is_decoder and (config.use_cache if use_cache is None else use_cache)
        cache = Cache() if use_cache and past_key_values is None else past_key_values
        past = cache.length if cache is not None else 0
        check_length(past + T, config.max_position_embeddings)

        words = self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if position_ids is None:
            position_ids = torch.arange(past, past + T, device=words.device)[None]
        if token_type_ids is None:
            token_type_ids = torch.zeros(1, T, dtype=torch.long, device=words.device)
        if config.is_decoder:
            mask = decoder_mask(attention_mask, (B, config.num_attention_heads, T, past + T), dtype=words.dtype)
        else:
            mask = encoder_mask(attention_mask, (B, config.num_attention_heads, T, T), dtype=words.dtype)
        context_mask = None
        if encoder_hidden_states is not None:
            if not config.add_cross_attention:
                raise ValueError("encoder_hidden_states need a config of is_decoder=True and add_cross_attention=True")
            scores = B, config.num_attention_heads, T, encoder_hidden_states.shape[1]
            context_mask = encoder_mask(encoder_attention_mask, scores, dtype=words.dtype)

        if config.attn_implementation == "packed":
            mask, words, token_type_ids, position_ids = pack(mask, words, token_type_ids, position_ids)
        x = self.embeddings(words, token_type_ids, position_ids)  # (B, T, E); packed: (1, tokens, E)
        if config.embedding_size != config.hidden_size:
            x = self.embeddings_project(x)  # (..., E) -> (..., C)
        for layer in self.encoder["layer"]:
            x = layer(x, mask, cache, encoder_hidden_states, context_mask)
        x = unpack(x, mask)
        return BaseModelOutput(x, past_key_values=cache if use_cache else None)


class ElectraForPreTraining(ElectraPreTrainedModel):
    """The discriminator: was a token replaced? Logits (B, T), above 0 for yes."""

    token_heads = ("discriminator_predictions",)

    def __init__(self, config: ElectraConfig):
        super().__init__(config)
        self.electra = ElectraModel(config)
        self.discriminator_predictions = ElectraDiscriminatorPredictions(config)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None,
        labels=None
    ) -> TokenClassifierOutput:
        """labels: (B, T), 1 = replaced, 0 = original; only those of real tokens count."""
        x = self.electra(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.discriminator_predictions(x)
        real = attention_mask if attention_mask is not None and attention_mask.dim() == 2 else None
        return TokenClassifierOutput(replaced_token_loss(logits, labels, real), logits)


class ElectraForMaskedLM(ElectraPreTrainedModel):
    """The generator: which word stood here? Logits (B, T, V) for each token."""

    tied: ClassVar = {"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"}
    output_embeddings = "generator_lm_head"
    token_heads = ("generator_predictions", "generator_lm_head")

    def __init__(self, config: ElectraConfig):
        super().__init__(config)
        if config.is_decoder:
            logger.warning("ElectraForMaskedLM with is_decoder=True sees earlier tokens only: set is_decoder=False")
        self.electra = ElectraModel(config)
        self.generator_predictions = ElectraGeneratorPredictions(config)
        self.generator_lm_head = Linear(config.embedding_size, config.vocab_size)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None,
        labels=None, num_items_in_batch=None
    ) -> MaskedLMOutput:
        """labels: (B, T), the id of the word that stood here, or -100 for tokens that count for nothing."""
        x = self.electra(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        head = self.generator_predictions, self.generator_lm_head
        return MaskedLMOutput(*predict_words(head, x, labels, num_items_in_batch))


class ElectraForCausalLM(ElectraPreTrainedModel):
    """ELECTRA as a decoder: which token comes next? Needs `is_decoder=True` to mean anything."""

    tied = ElectraForMaskedLM.tied
    output_embeddings = "generator_lm_head"
    token_heads = ElectraForMaskedLM.token_heads
    can_generate = True

    def __init__(self, config: ElectraConfig):
        super().__init__(config)
        if not config.is_decoder:
            logger.warning("ElectraForCausalLM with is_decoder=False sees the very token it predicts: set it True")
        self.electra = ElectraModel(config)
        self.generator_predictions = ElectraGeneratorPredictions(config)
        self.generator_lm_head = Linear(config.embedding_size, config.vocab_size)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None,
        encoder_hidden_states=None, encoder_attention_mask=None, labels=None, past_key_values=None, use_cache=None,
        logits_to_keep=0, num_items_in_batch=None
    ) -> CausalLMOutput:
        """labels: (B, T), usually the input_ids: shifted here. logits_to_keep: of the last so many tokens."""
        x = self.electra(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            encoder_hidden_states,
            encoder_attention_mask,
            past_key_values,
            use_cache if labels is None else False,
        )
        head = self.generator_predictions, self.generator_lm_head
        state = last_tokens(x.last_hidden_state, logits_to_keep)
        found = predict_words(head, state, next_tokens(labels), num_items_in_batch)
        return CausalLMOutput(*found, x.past_key_values)


class ElectraForSequenceClassification(ElectraPreTrainedModel):
    """One answer a text: a class, several classes, or a number (see `classification_loss`)."""

    def __init__(self, config: ElectraConfig):
        super().__init__(config)
        self.electra = ElectraModel(config)
        self.classifier = ElectraClassificationHead(config)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None,
        labels=None
    ) -> SequenceClassifierOutput:
        """labels: (B,) classes, (B, N) floats for several classes a text, (B,) floats for a number."""
        x = self.electra(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(x)
        return SequenceClassifierOutput(classification_loss(logits, labels, self.config.problem_type), logits)


class ElectraForMultipleChoice(ElectraPreTrainedModel):
    """Which of several endings fits? Inputs are (B, choices, T), logits (B, choices)."""

    def __init__(self, config: ElectraConfig):
        super().__init__(config)
        self.electra = ElectraModel(config)
        self.sequence_summary = ElectraSummary(config)
        self.classifier = Linear(config.hidden_size, 1)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None,
        labels=None
    ) -> MultipleChoiceOutput:
        """labels: (B,), the number of the right choice."""
        choices = check_choices(input_ids, inputs_embeds)
        x = self.electra(*flatten_choices(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds))
        logits = self.classifier(self.sequence_summary(x.last_hidden_state))
        logits = logits.view(-1, choices)  # (B * choices, 1) -> (B, choices)
        return MultipleChoiceOutput(cross_entropy(logits, labels), logits)


class ElectraForTokenClassification(ElectraPreTrainedModel):
    """A class for each token: names, parts of speech. Logits (B, T, N)."""

    token_heads = ("classifier",)

    def __init__(self, config: ElectraConfig):
        super().__init__(config)
        self.electra = ElectraModel(config)
        self.dropout = Dropout(config.head_dropout)
        self.classifier = Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None,
        labels=None
    ) -> TokenClassifierOutput:
        """labels: (B, T) classes, or -100 for tokens that count for nothing."""
        x = self.electra(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(self.dropout(x))
        return TokenClassifierOutput(cross_entropy(logits, labels), logits)


class ElectraForQuestionAnswering(ElectraPreTrainedModel):
    """Where in the text does the answer begin, and where does it end? Two logits a token."""

    token_heads = ("qa_outputs",)

    def __init__(self, config: ElectraConfig):
        super().__init__(config)
        check_span_labels(config.num_labels)
        self.electra = ElectraModel(config)
        self.qa_outputs = Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None,
        start_positions=None, end_positions=None
    ) -> QuestionAnsweringOutput:
        """start_positions, end_positions: (B,), of the answer's first and last token; outside the text: no answer."""
        x = self.electra(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        start, end = self.qa_outputs(x).unbind(-1)  # (B, T, 2) -> (B, T), (B, T)
        return QuestionAnsweringOutput(span_loss(start, end, start_positions, end_positions), start, end)
