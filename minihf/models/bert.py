"""BERT (arXiv 1810.04805): an encoder in which every token sees every other, trained to fill in masked words.

What is special: three embeddings are added (word, position, segment), and each sublayer is followed by its norm,
"post-norm":

    x ──┬─ attention ─(+)─ LayerNorm ──┬─ two linear layers ─(+)─ LayerNorm ── next layer
        └──────────────┘               └─────────────────────┘

Module paths are those of the published checkpoints. Where these nest deeper than the mathematics, a ModuleDict carries
it.
"""

import logging
from dataclasses import dataclass
from typing import ClassVar

import torch
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
    BaseModelOutputWithPooling,
    CausalLMOutput,
    MaskedLMOutput,
    MultipleChoiceOutput,
    PreTrainingOutput,
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
from minihf.nn.words import predict_words

logger = logging.getLogger(__name__)


@dataclass(init=False)
class BertConfig(Config):
    model_type: ClassVar[str] = "bert"
    attn_implementations: ClassVar = ENCODER_IMPLEMENTATIONS

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    classifier_dropout: float | None = None
    """Before a classification head; None: `hidden_dropout_prob`."""
    pad_token_id: int | None = 0
    bos_token_id: int | None = None
    eos_token_id: int | list | None = None
    is_decoder: bool = False
    """Every token sees itself and earlier ones only."""
    add_cross_attention: bool = False
    """A decoder's layers also attend to `encoder_hidden_states`."""
    use_cache: bool = True
    """A decoder returns the keys and values of its tokens."""

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
        if self.add_cross_attention and not self.is_decoder:
            raise ValueError("add_cross_attention=True needs is_decoder=True")

    @property
    def head_dropout(self) -> float:
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout


class BertEmbeddings(nn.Module):
    def __init__(self, config: BertConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, words: Tensor, types: Tensor, positions: Tensor) -> Tensor:
        x = words + self.token_type_embeddings(types) + self.position_embeddings(positions)
        return self.dropout(self.LayerNorm(x))


class BertSelfAttention(nn.Module):
    """Of its own tokens, or, with `context`, of a decoder's tokens to an encoder's output."""

    def __init__(self, config: BertConfig, layer: int, *, causal: bool = False):
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


class BertOutput(nn.Module):
    """The end of each sublayer: LayerNorm(residual + Dropout(W x + b))."""

    def __init__(self, config: BertConfig, in_features: int):
        super().__init__()
        self.dense = Linear(in_features, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class BertLayer(nn.Module):
    def __init__(self, config: BertConfig, layer: int):
        super().__init__()
        C = config.hidden_size
        attention = BertSelfAttention(config, layer, causal=config.is_decoder)
        self.attention = nn.ModuleDict({"self": attention, "output": BertOutput(config, C)})
        if config.add_cross_attention:
            attention = BertSelfAttention(config, layer)
            self.crossattention = nn.ModuleDict({"self": attention, "output": BertOutput(config, C)})
        self.intermediate = nn.ModuleDict({"dense": Linear(C, config.intermediate_size)})
        self.output = BertOutput(config, config.intermediate_size)
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


class BertPooler(nn.Module):
    """One vector for a text, from its first token, [CLS]."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.dense(x[:, 0]))  # (B, T, C) -> (B, C)


class BertTransform(nn.Module):
    def __init__(self, config: BertConfig):
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(self.activation(self.dense(x)))


class BertPredictions(nn.Module):
    """Logits of each token over the vocabulary; the decoder's weight is the word embeddings', its bias is `bias`."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.transform = BertTransform(config)
        self.decoder = Linear(config.hidden_size, config.vocab_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.transform(x))  # (B, T, C) -> (B, T, V)


class BertPreTrainedModel(Model):
    config_class = BertConfig
    base_model_prefix = "bert"
    heads = ("cls", "classifier", "qa_outputs", "pooler")
    input_embeddings = "embeddings.word_embeddings"
    recorded: ClassVar = {
        "hidden_states": "encoder.layer.*",
        "attentions": "encoder.layer.*.attention.self",
        "cross_attentions": "encoder.layer.*.crossattention.self",
    }

    def init_weights(self, module: nn.Module) -> None:
        super().init_weights(module)
        if isinstance(module, BertPredictions):
            nn.init.zeros_(module.bias)

    @property
    def position_limit(self) -> int:
        return self.config.max_position_embeddings


class BertModel(BertPreTrainedModel):
    """The encoder (or decoder) itself.

    `last_hidden_state` (B, T, C) has a vector for each token, `pooler_output` (B, C) one for the text.
    """

    def __init__(self, config: BertConfig, add_pooling_layer: bool = True):
        super().__init__(config)
        self.embeddings = BertEmbeddings(config)
        layers = nn.ModuleList(BertLayer(config, i) for i in range(config.num_hidden_layers))
        self.encoder = nn.ModuleDict({"layer": layers})
        self.pooler = BertPooler(config) if add_pooling_layer else None
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
        x = self.embeddings(words, token_type_ids, position_ids)  # (B, T, C); packed: (1, tokens, C)
        for layer in self.encoder["layer"]:
            x = layer(x, mask, cache, encoder_hidden_states, context_mask)
        x = unpack(x, mask)
        pooled = None if self.pooler is None else self.pooler(x)
        return BaseModelOutputWithPooling(x, pooled, past_key_values=cache if use_cache else None)


class BertForPreTraining(BertPreTrainedModel):
    """Both tasks of the paper at once: masked words, and whether the second text follows the first."""

    tied: ClassVar = {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }
    output_embeddings = "cls.predictions.decoder"
    token_heads = ("cls.predictions",)

    def __init__(self, config: BertConfig):
        super().__init__(config)
        self.bert = BertModel(config)
        self.cls = nn.ModuleDict(
            {"predictions": BertPredictions(config), "seq_relationship": Linear(config.hidden_size, 2)}
        )
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None,
        labels=None, next_sentence_label=None
    ) -> PreTrainingOutput:
        """labels: (B, T) ids or -100. next_sentence_label: (B,), 0 = follows, 1 = random. The loss needs both."""
        x = self.bert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        if labels is None or next_sentence_label is None:
            labels = next_sentence_label = None
        loss, words = predict_words(self.cls["predictions"], x.last_hidden_state, labels)
        follows = self.cls["seq_relationship"](x.pooler_output)
        if loss is not None:
            loss = loss + cross_entropy(follows, next_sentence_label)
        return PreTrainingOutput(loss, words, follows)


class BertForMaskedLM(BertPreTrainedModel):
    """Which word stood here? Logits (B, T, V) for each token."""

    tied = BertForPreTraining.tied
    output_embeddings = "cls.predictions.decoder"
    token_heads = ("cls.predictions",)

    def __init__(self, config: BertConfig):
        super().__init__(config)
        if config.is_decoder:
            logger.warning("BertForMaskedLM with is_decoder=True sees earlier tokens only: set is_decoder=False")
        self.bert = BertModel(config, add_pooling_layer=False)
        self.cls = nn.ModuleDict({"predictions": BertPredictions(config)})
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None,
        encoder_hidden_states=None, encoder_attention_mask=None, labels=None, num_items_in_batch=None
    ) -> MaskedLMOutput:
        """labels: (B, T), the id of the word that stood here, or -100 for tokens that count for nothing."""
        x = self.bert(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, encoder_hidden_states,
            encoder_attention_mask
        ).last_hidden_state
        return MaskedLMOutput(*predict_words(self.cls["predictions"], x, labels, num_items_in_batch))


class BertLMHeadModel(BertPreTrainedModel):
    """BERT as a decoder: which token comes next? Needs `is_decoder=True` to mean anything."""

    tied = BertForPreTraining.tied
    output_embeddings = "cls.predictions.decoder"
    token_heads = ("cls.predictions",)
    can_generate = True

    def __init__(self, config: BertConfig):
        super().__init__(config)
        if not config.is_decoder:
            logger.warning("BertLMHeadModel with is_decoder=False sees the very token it predicts: set it True")
        self.bert = BertModel(config, add_pooling_layer=False)
        self.cls = nn.ModuleDict({"predictions": BertPredictions(config)})
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None,
        encoder_hidden_states=None, encoder_attention_mask=None, labels=None, past_key_values=None, use_cache=None,
        logits_to_keep=0, num_items_in_batch=None
    ) -> CausalLMOutput:
        """labels: (B, T), usually the input_ids: shifted here. logits_to_keep: of the last so many tokens."""
        x = self.bert(
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
        state = last_tokens(x.last_hidden_state, logits_to_keep)
        found = predict_words(self.cls["predictions"], state, next_tokens(labels), num_items_in_batch)
        return CausalLMOutput(*found, x.past_key_values)


class BertForNextSentencePrediction(BertPreTrainedModel):
    """Does the second text follow the first? Logits (B, 2): yes, no."""

    def __init__(self, config: BertConfig):
        super().__init__(config)
        self.bert = BertModel(config)
        self.cls = nn.ModuleDict({"seq_relationship": Linear(config.hidden_size, 2)})
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None,
        labels=None
    ) -> SequenceClassifierOutput:
        """labels: (B,), 0 = follows, 1 = random."""
        x = self.bert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        logits = self.cls["seq_relationship"](x.pooler_output)
        return SequenceClassifierOutput(cross_entropy(logits, labels), logits)


class BertForSequenceClassification(BertPreTrainedModel):
    """One answer a text: a class, several classes, or a number (see `classification_loss`)."""

    def __init__(self, config: BertConfig):
        super().__init__(config)
        self.bert = BertModel(config)
        self.dropout = Dropout(config.head_dropout)
        self.classifier = Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None,
        labels=None
    ) -> SequenceClassifierOutput:
        """labels: (B,) classes, (B, N) floats for several classes a text, (B,) floats for a number."""
        x = self.bert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        logits = self.classifier(self.dropout(x.pooler_output))
        return SequenceClassifierOutput(classification_loss(logits, labels, self.config.problem_type), logits)


class BertForMultipleChoice(BertPreTrainedModel):
    """Which of several endings fits? Inputs are (B, choices, T), logits (B, choices)."""

    def __init__(self, config: BertConfig):
        super().__init__(config)
        self.bert = BertModel(config)
        self.dropout = Dropout(config.head_dropout)
        self.classifier = Linear(config.hidden_size, 1)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None,
        labels=None
    ) -> MultipleChoiceOutput:
        """labels: (B,), the number of the right choice."""
        choices = check_choices(input_ids, inputs_embeds)
        x = self.bert(*flatten_choices(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds))
        logits = self.classifier(self.dropout(x.pooler_output)).view(-1, choices)  # (B * choices, 1) -> (B, choices)
        return MultipleChoiceOutput(cross_entropy(logits, labels), logits)


class BertForTokenClassification(BertPreTrainedModel):
    """A class for each token: names, parts of speech. Logits (B, T, N)."""

    token_heads = ("classifier",)

    def __init__(self, config: BertConfig):
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.dropout = Dropout(config.head_dropout)
        self.classifier = Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None,
        labels=None
    ) -> TokenClassifierOutput:
        """labels: (B, T) classes, or -100 for tokens that count for nothing."""
        x = self.bert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(self.dropout(x))
        return TokenClassifierOutput(cross_entropy(logits, labels), logits)


class BertForQuestionAnswering(BertPreTrainedModel):
    """Where in the text does the answer begin, and where does it end? Two logits a token."""

    token_heads = ("qa_outputs",)

    def __init__(self, config: BertConfig):
        super().__init__(config)
        check_span_labels(config.num_labels)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.qa_outputs = Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None,
        start_positions=None, end_positions=None
    ) -> QuestionAnsweringOutput:
        """start_positions, end_positions: (B,), of the answer's first and last token; outside the text: no answer."""
        x = self.bert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        start, end = self.qa_outputs(x).unbind(-1)  # (B, T, 2) -> (B, T), (B, T)
        return QuestionAnsweringOutput(span_loss(start, end, start_positions, end_positions), start, end)
