"""RoBERTa (arXiv 1907.11692): BERT, trained longer on more text, with masked words as the only task.

What is special: positions. They are counted over the tokens that are not the pad token, from the one after its id:

    <s>  to  be  <pad>  or  </s>        pad_token_id = 1
     2    3   4    1     5    6         so a table of 514 rows holds 512 tokens

The task of the second sentence is gone, and with it the pooler, save for multiple choice: a text is classified by two
layers over its first token. The blocks are BERT's.

Module paths are those of the published checkpoints. CamemBERT (`camembert.py`) and XLM-RoBERTa (`xlm_roberta.py`) are
this model under other names: a head asks the table of architectures which base model goes with its config.
"""

import logging
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minihf.fast.packed import pack, unpack
from minihf.models.architectures import class_for
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
    BaseModelOutputWithPooling,
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
from minihf.nn.losses import classification_loss, cross_entropy, next_tokens, span_loss
from minihf.nn.masks import decoder_mask, encoder_mask
from minihf.nn.positions import positions_from_ids
from minihf.nn.words import predict_words

logger = logging.getLogger(__name__)


@dataclass(init=False)
class RobertaConfig(Config):
    model_type: ClassVar[str] = "roberta"
    attn_implementations: ClassVar = ENCODER_IMPLEMENTATIONS

    vocab_size: int = 50265
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    """Rows of the position table; the first `pad_token_id + 1` are no token's. Checkpoints have 514."""
    type_vocab_size: int = 2
    """Checkpoints have 1: the same vector for every token."""
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    """Checkpoints have 1e-5."""
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list | None = 2
    use_cache: bool = True
    """A decoder returns the keys and values of its tokens."""
    classifier_dropout: float | None = None
    """Before a classification head; None: `hidden_dropout_prob`."""
    is_decoder: bool = False
    """Every token sees itself and earlier ones only."""
    add_cross_attention: bool = False
    """A decoder's layers also attend to `encoder_hidden_states`."""

    def check(self) -> None:
        self.require_choice("is_encoder_decoder", [False])
        self.require_sizes("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size")
        self.require_sizes("max_position_embeddings", "type_vocab_size")
        self.require_layers("num_hidden_layers")
        self.require_multiple("hidden_size", of="num_attention_heads")
        self.require_probabilities("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
        self.require_magnitudes("layer_norm_eps", "initializer_range")
        self.require_token_ids("pad_token_id")
        self.require_choice("hidden_act", ACTIVATIONS)
        self.require_choice("position_embedding_type", ["absolute"])
        if self.pad_token_id is None or not 0 <= self.pad_token_id < self.max_position_embeddings - 1:
            raise ValueError(
                f"pad_token_id={self.pad_token_id} leaves no position: tokens have those after it, up to "
                f"max_position_embeddings={self.max_position_embeddings}"
            )
        if self.add_cross_attention and not self.is_decoder:
            raise ValueError("add_cross_attention=True needs is_decoder=True")

    @property
    def head_dropout(self) -> float:
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout


class RobertaEmbeddings(nn.Module):
    def __init__(self, config: RobertaConfig):
        super().__init__()
        C, pad = config.hidden_size, config.pad_token_id
        self.word_embeddings = nn.Embedding(config.vocab_size, C, padding_idx=pad)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, C, padding_idx=pad)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, C)
        self.LayerNorm = nn.LayerNorm(C, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, words: Tensor, types: Tensor, positions: Tensor) -> Tensor:
        x = words + self.token_type_embeddings(types) + self.position_embeddings(positions)
        return self.dropout(self.LayerNorm(x))


class RobertaSelfAttention(nn.Module):
    """Of its own tokens, or, with `context`, of a decoder's tokens to an encoder's output."""

    def __init__(self, config: RobertaConfig, layer: int, *, causal: bool = False):
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


class RobertaOutput(nn.Module):
    """The end of each sublayer: LayerNorm(residual + Dropout(W x + b))."""

    def __init__(self, config: RobertaConfig, in_features: int):
        super().__init__()
        self.dense = Linear(in_features, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class RobertaLayer(nn.Module):
    def __init__(self, config: RobertaConfig, layer: int):
        super().__init__()
        C = config.hidden_size
        attention = RobertaSelfAttention(config, layer, causal=config.is_decoder)
        self.attention = nn.ModuleDict({"self": attention, "output": RobertaOutput(config, C)})
        if config.add_cross_attention:
            attention = RobertaSelfAttention(config, layer)
            self.crossattention = nn.ModuleDict({"self": attention, "output": RobertaOutput(config, C)})
        self.intermediate = nn.ModuleDict({"dense": Linear(C, config.intermediate_size)})
        self.output = RobertaOutput(config, config.intermediate_size)
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


class RobertaPooler(nn.Module):
    """One vector for a text, from its first token, <s>."""

    def __init__(self, config: RobertaConfig):
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.dense(x[:, 0]))  # (B, T, C) -> (B, C)


class RobertaLMHead(nn.Module):
    """Logits of each token over the vocabulary; the decoder's weight is the word embeddings', its bias is `bias`.

    The activation is GELU, whatever `hidden_act` says.
    """

    def __init__(self, config: RobertaConfig):
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = Linear(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def transform(self, x: Tensor) -> Tensor:
        return self.layer_norm(F.gelu(self.dense(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.transform(x))  # (B, T, C) -> (B, T, V)


class RobertaClassificationHead(nn.Module):
    """Logits of a text, from its first token, <s>."""

    def __init__(self, config: RobertaConfig):
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.dropout = Dropout(config.head_dropout)
        self.out_proj = Linear(config.hidden_size, config.num_labels)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.dense(self.dropout(x[:, 0])))  # (B, T, C) -> (B, C)
        return self.out_proj(self.dropout(x))  # (B, N)


class RobertaPreTrainedModel(Model):
    config_class = RobertaConfig
    base_model_prefix = "roberta"
    heads = ("lm_head", "classifier", "qa_outputs", "pooler")
    input_embeddings = "embeddings.word_embeddings"
    recorded: ClassVar = {
        "hidden_states": "encoder.layer.*",
        "attentions": "encoder.layer.*.attention.self",
        "cross_attentions": "encoder.layer.*.crossattention.self",
    }

    def init_weights(self, module: nn.Module) -> None:
        super().init_weights(module)
        if isinstance(module, RobertaLMHead):
            nn.init.zeros_(module.bias)

    @property
    def first_position(self) -> int:
        return self.config.pad_token_id + 1

    @property
    def position_limit(self) -> int:
        return self.config.max_position_embeddings - self.first_position


class RobertaModel(RobertaPreTrainedModel):
    """The encoder (or decoder) itself.

    `last_hidden_state` (B, T, C) has a vector for each token, `pooler_output` (B, C) one for the text.
    """

    def __init__(self, config: RobertaConfig, add_pooling_layer: bool = True):
        super().__init__(config)
        self.embeddings = RobertaEmbeddings(config)
        layers = nn.ModuleList(RobertaLayer(config, i) for i in range(config.num_hidden_layers))
        self.encoder = nn.ModuleDict({"layer": layers})
        self.pooler = RobertaPooler(config) if add_pooling_layer else None
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
    ) -> BaseModelOutputWithPooling:
        """
        Args:
            input_ids: (B, T). Or `inputs_embeds` (B, T, C): word embeddings made elsewhere.
            attention_mask: 1 = real, 0 = padding, (B, K), the cached tokens included; or a ready 4-D mask.
            token_type_ids: (B, T) rows of the type table, of which checkpoints have one; None: all the first.
            position_ids: (B, T) or (1, T) rows of the position table, where the first token's is `first_position`;
                None: counted over the ids that are not the pad token, whatever the mask says; with `inputs_embeds`,
                over all.
            encoder_hidden_states, encoder_attention_mask: for a decoder with cross-attention, (B, S, C) and (B, S).
            past_key_values: for a decoder, what it keeps of earlier tokens.
            use_cache: for a decoder, make and return `past_key_values`; None: as the config says.
        """
        B, T = check_batch(input_ids, inputs_embeds)
        config, pad = self.config, self.config.pad_token_id
        if past_key_values is not None and not config.is_decoder:
            raise ValueError("past_key_values need is_decoder=True: an encoder's past depends on its future")
        use_cache = config.is_decoder and (config.use_cache if use_cache is None else use_cache)
        cache = Cache() if use_cache and past_key_values is None else past_key_values
        past = cache.length if cache is not None else 0

        words = self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        # Embeddings do not say which of them are padding; any other id stands for them.
        ids = torch.full((B, T), pad + 1, device=words.device) if input_ids is None else input_ids
        counted = cache.counted if cache is not None else 0
        if position_ids is None and past + T > self.position_limit:  # padding needs no positions
            check_length(int((counted + (ids != pad).sum(-1, keepdim=True)).max()), self.position_limit)
        if position_ids is None:
            position_ids = positions_from_ids(ids, pad, counted)
        if cache is not None:
            cache.counted = counted + (ids != pad).sum(-1, keepdim=True)  # (B, 1)
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
        x = self.embeddings(words, token_type_ids, position_ids)  # (B, T, C); packed: (1, tokens, C)
        for layer in self.encoder["layer"]:
            x = layer(x, mask, cache, encoder_hidden_states, context_mask)
        x = unpack(x, mask)
        pooled = None if self.pooler is None else self.pooler(x)
        return BaseModelOutputWithPooling(x, pooled, past_key_values=cache if use_cache else None)


class RobertaForCausalLM(RobertaPreTrainedModel):
    """RoBERTa as a decoder: which token comes next? Needs `is_decoder=True` to mean anything."""

    tied: ClassVar = {
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    }
    output_embeddings = "lm_head.decoder"
    token_heads = ("lm_head",)
    can_generate = True

    def __init__(self, config: RobertaConfig):
        super().__init__(config)
        if not config.is_decoder:
            name = type(self).__name__
            logger.warning("%s with is_decoder=False sees the very token it predicts: set it True", name)
        self.roberta = class_for(config.model_type, "Model")(config, add_pooling_layer=False)
        self.lm_head = RobertaLMHead(config)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None,
        encoder_hidden_states=None, encoder_attention_mask=None, labels=None, past_key_values=None, use_cache=None,
        logits_to_keep=0, num_items_in_batch=None
    ) -> CausalLMOutput:
        """labels: (B, T), usually the input_ids: shifted here. logits_to_keep: of the last so many tokens."""
        x = self.roberta(
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
        x, cache = last_tokens(x.last_hidden_state, logits_to_keep), x.past_key_values
        return CausalLMOutput(*predict_words(self.lm_head, x, next_tokens(labels), num_items_in_batch), cache)


class RobertaForMaskedLM(RobertaPreTrainedModel):
    """Which word stood here? Logits (B, T, V) for each token."""

    tied = RobertaForCausalLM.tied
    output_embeddings = "lm_head.decoder"
    token_heads = ("lm_head",)

    def __init__(self, config: RobertaConfig):
        super().__init__(config)
        if config.is_decoder:
            name = type(self).__name__
            logger.warning("%s with is_decoder=True sees earlier tokens only: set is_decoder=False", name)
        self.roberta = class_for(config.model_type, "Model")(config, add_pooling_layer=False)
        self.lm_head = RobertaLMHead(config)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None,
        encoder_hidden_states=None, encoder_attention_mask=None, labels=None, num_items_in_batch=None
    ) -> MaskedLMOutput:
        """labels: (B, T), the id of the word that stood here, or -100 for tokens that count for nothing."""
        x = self.roberta(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, encoder_hidden_states,
            encoder_attention_mask
        ).last_hidden_state
        return MaskedLMOutput(*predict_words(self.lm_head, x, labels, num_items_in_batch))


class RobertaForSequenceClassification(RobertaPreTrainedModel):
    """One answer a text: a class, several classes, or a number (see `classification_loss`)."""

    def __init__(self, config: RobertaConfig):
        super().__init__(config)
        self.roberta = class_for(config.model_type, "Model")(config, add_pooling_layer=False)
        self.classifier = RobertaClassificationHead(config)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None,
        labels=None
    ) -> SequenceClassifierOutput:
        """labels: (B,) classes, (B, N) floats for several classes a text, (B,) floats for a number."""
        x = self.roberta(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(x)
        return SequenceClassifierOutput(classification_loss(logits, labels, self.config.problem_type), logits)


class RobertaForMultipleChoice(RobertaPreTrainedModel):
    """Which of several endings fits? Inputs are (B, choices, T), logits (B, choices)."""

    def __init__(self, config: RobertaConfig):
        super().__init__(config)
        self.roberta = class_for(config.model_type, "Model")(config)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.classifier = Linear(config.hidden_size, 1)
        self.post_init()

    def forward(
        self, input_ids=None, token_type_ids=None, attention_mask=None, labels=None, position_ids=None,
        inputs_embeds=None
    ) -> MultipleChoiceOutput:
        """labels: (B,), the number of the right choice."""
        choices = check_choices(input_ids, inputs_embeds)
        x = self.roberta(*flatten_choices(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds))
        logits = self.classifier(self.dropout(x.pooler_output)).view(-1, choices)  # (B * choices, 1) -> (B, choices)
        return MultipleChoiceOutput(cross_entropy(logits, labels), logits)


class RobertaForTokenClassification(RobertaPreTrainedModel):
    """A class for each token: names, parts of speech. Logits (B, T, N)."""

    token_heads = ("classifier",)

    def __init__(self, config: RobertaConfig):
        super().__init__(config)
        self.roberta = class_for(config.model_type, "Model")(config, add_pooling_layer=False)
        self.dropout = Dropout(config.head_dropout)
        self.classifier = Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None,
        labels=None
    ) -> TokenClassifierOutput:
        """labels: (B, T) classes, or -100 for tokens that count for nothing."""
        x = self.roberta(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(self.dropout(x))
        return TokenClassifierOutput(cross_entropy(logits, labels), logits)


class RobertaForQuestionAnswering(RobertaPreTrainedModel):
    """Where in the text does the answer begin, and where does it end? Two logits a token."""

    token_heads = ("qa_outputs",)

    def __init__(self, config: RobertaConfig):
        super().__init__(config)
        check_span_labels(config.num_labels)
        self.roberta = class_for(config.model_type, "Model")(config, add_pooling_layer=False)
        self.qa_outputs = Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None,
        start_positions=None, end_positions=None
    ) -> QuestionAnsweringOutput:
        """start_positions, end_positions: (B,), of the answer's first and last token; outside the text: no answer."""
        x = self.roberta(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        start, end = self.qa_outputs(x).unbind(-1)  # (B, T, 2) -> (B, T), (B, T)
        return QuestionAnsweringOutput(span_loss(start, end, start_positions, end_positions), start, end)
