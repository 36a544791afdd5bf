"""ALBERT (arXiv 1909.11942): BERT with few parameters, for its layers share theirs.

What is special: one layer is run again and again; or a few, where the config has several groups (a group serves
neighbouring layers) and several inner layers (a group runs them one after the other). Words have a narrow vector of E
channels, which one linear layer widens to the C of the encoder; the head that guesses words narrows them again. In
pre-training, whether the second text follows the first became harder: do the two stand in their order, or swapped?

    words + types + positions ─ LayerNorm ─ E -> C ─┬─┬─ attention ─(+)─ LayerNorm ──┬─ two linear ─(+)─ LayerNorm ─┬─
                                                    │ └──────────────┘               └──────────────┘              │
                                                    └───────── the same weights, num_hidden_layers times ──────────┘

Module paths are those of the published checkpoints. Where these nest deeper than the mathematics, a ModuleDict carries
it.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from minihf.fast.packed import pack, unpack
from minihf.models.base import Model
from minihf.models.config import Config
from minihf.models.inputs import check_batch, check_choices, check_length, check_span_labels, flatten_choices
from minihf.models.outputs import (
    BaseModelOutputWithPooling,
    MaskedLMOutput,
    MultipleChoiceOutput,
    QuestionAnsweringOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from minihf.nn.activations import ACTIVATIONS
from minihf.nn.attention import ENCODER_IMPLEMENTATIONS, attend, merge_heads, split_heads
from minihf.nn.dropout import Dropout
from minihf.nn.linear import Linear
from minihf.nn.losses import classification_loss, cross_entropy, span_loss
from minihf.nn.masks import encoder_mask
from minihf.nn.output import Output, WhenRead
from minihf.nn.words import predict_words


@dataclass(init=False)
class AlbertConfig(Config):
    """The defaults are those of the largest published model, xxlarge."""

    model_type: ClassVar[str] = "albert"
    attn_implementations: ClassVar = ENCODER_IMPLEMENTATIONS

    vocab_size: int = 30000
    embedding_size: int = 128
    """E: of the word, position and segment embeddings."""
    hidden_size: int = 4096
    num_hidden_layers: int = 12
    """How often a group is run, over all groups."""
    num_hidden_groups: int = 1
    """How many groups of weights there are."""
    num_attention_heads: int = 64
    intermediate_size: int = 16384
    inner_group_num: int = 1
    """Layers of a group, run one after the other each time."""
    hidden_act: str = "gelu_new"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    classifier_dropout_prob: float = 0.1
    pad_token_id: int | None = 0
    bos_token_id: int | None = 2
    eos_token_id: int | list | None = 3

    def check(self) -> None:
        self.require_choice("is_encoder_decoder", [False])
        self.require_sizes("vocab_size", "embedding_size", "hidden_size", "num_attention_heads", "intermediate_size")
        self.require_sizes("max_position_embeddings", "type_vocab_size", "num_hidden_groups", "inner_group_num")
        self.require_layers("num_hidden_layers", "num_hidden_groups", "inner_group_num")
        self.require_multiple("hidden_size", of="num_attention_heads")
        self.require_probabilities("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob")
        self.require_magnitudes("layer_norm_eps", "initializer_range")
        self.require_token_ids("pad_token_id")
        self.require_choice("hidden_act", ACTIVATIONS)
        self.require_choice("position_embedding_type", ["absolute"])


@dataclass(eq=False)
class AlbertForPreTrainingOutput(Output):
    loss: Tensor | None = None  # the sum of both heads' losses
    prediction_logits: Tensor | None = WhenRead()  # (B, T, V)
    sop_logits: Tensor | None = None  # (B, 2): the two texts stand in their order, or swapped
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class AlbertEmbeddings(nn.Module):
    def __init__(self, config: AlbertConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.embedding_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.embedding_size)
        self.LayerNorm = nn.LayerNorm(config.embedding_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, words: Tensor, types: Tensor, positions: Tensor) -> Tensor:
        x = words + self.token_type_embeddings(types) + self.position_embeddings(positions)
        return self.dropout(self.LayerNorm(x))


class AlbertAttention(nn.Module):
    """The whole sublayer: the attention, its residual and its norm."""

    def __init__(self, config: AlbertConfig):
        super().__init__()
        C = config.hidden_size
        self.config = config
        self.attention_dropout = Dropout(config.attention_probs_dropout_prob)
        self.output_dropout = Dropout(config.hidden_dropout_prob)
        self.query, self.key, self.value, self.dense = (Linear(C, C) for _ in range(4))
        self.LayerNorm = nn.LayerNorm(C, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, mask: Tensor | None, impl: str | None = None) -> tuple[Tensor, Tensor | None]:
        heads = self.config.num_attention_heads
        q, k, v = (split_heads(linear(x), heads) for linear in (self.query, self.key, self.value))
        dropout = self.attention_dropout.p if self.training else 0.0
        a, weights = attend(q, k, v, mask, dropout=dropout, impl=impl or self.config.attn_implementation)
        return self.LayerNorm(x + self.output_dropout(self.dense(merge_heads(a)))), weights


class AlbertLayer(nn.Module):
    """The reference has a dropout here that it never calls; so there is none."""

    def __init__(self, config: AlbertConfig):
        super().__init__()
        self.full_layer_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = AlbertAttention(config)
        self.ffn = Linear(config.hidden_size, config.intermediate_size)
        self.ffn_output = Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x, _ = self.attention(x, mask)
        return self.full_layer_layer_norm(self.ffn_output(self.activation(self.ffn(x))) + x)


def group_of(layer: int, config: AlbertConfig) -> int:
    """The group whose weights a layer has.

    Divided as the reference divides, in floats: where the groups do not divide the layers, integers may round to
    another group (layer 9 of 18 in 14 groups).
    """
    return int(layer / (config.num_hidden_layers / config.num_hidden_groups))


class AlbertPredictions(nn.Module):
    """Logits of each token over the vocabulary; the decoder's weight is the word embeddings', its bias is `bias`."""

    def __init__(self, config: AlbertConfig):
        super().__init__()
        self.LayerNorm = nn.LayerNorm(config.embedding_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.dense = Linear(config.hidden_size, config.embedding_size)
        self.decoder = Linear(config.embedding_size, config.vocab_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    def transform(self, x: Tensor) -> Tensor:
        return self.LayerNorm(self.activation(self.dense(x)))  # (B, T, C) -> (B, T, E)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.transform(x))  # (B, T, E) -> (B, T, V)


class AlbertPreTrainedModel(Model):
    config_class = AlbertConfig
    base_model_prefix = "albert"
    heads = ("predictions", "sop_classifier", "classifier", "qa_outputs", "pooler")
    input_embeddings = "embeddings.word_embeddings"
    recorded: ClassVar = {
        "hidden_states": "encoder.albert_layer_groups.*.albert_layers.*",
        "attentions": "encoder.albert_layer_groups.*.albert_layers.*.attention",
    }

    @property
    def position_limit(self) -> int:
        return self.config.max_position_embeddings


class AlbertModel(AlbertPreTrainedModel):
    """The encoder itself.

    `last_hidden_state` (B, T, C) has a vector for each token, `pooler_output` (B, C) one for the text.
    """

    def __init__(self, config: AlbertConfig, add_pooling_layer: bool = True):
        super().__init__(config)
        C = config.hidden_size
        self.embeddings = AlbertEmbeddings(config)
        groups = nn.ModuleList(
            nn.ModuleDict({"albert_layers": nn.ModuleList(AlbertLayer(config) for _ in range(config.inner_group_num))})
            for _ in range(config.num_hidden_groups)
        )
        self.encoder = nn.ModuleDict(
            {"embedding_hidden_mapping_in": Linear(config.embedding_size, C), "albert_layer_groups": groups}
        )
        self.pooler = Linear(C, C) if add_pooling_layer else None
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> BaseModelOutputWithPooling:
        """
        Args:
            input_ids: (B, T). Or `inputs_embeds` (B, T, E): word embeddings made elsewhere.
            attention_mask: 1 = real, 0 = padding, (B, T); or a ready 4-D mask.
            token_type_ids: which of two texts a token belongs to, (B, T); None: all to the first.
            position_ids: (B, T) or (1, T); None: counted from the first token, padding included.
        """
        B, T = check_batch(input_ids, inputs_embeds)
        config = self.config
        check_length(T, config.max_position_embeddings)
        words = self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if position_ids is None:
            position_ids = torch.arange(T, device=words.device)[None]
        if token_type_ids is None:
            token_type_ids = torch.zeros(1, T, dtype=torch.long, device=words.device)
        mask = encoder_mask(attention_mask, (B, config.num_attention_heads, T, T), dtype=words.dtype)
        if config.attn_implementation == "packed":
            mask, words, token_type_ids, position_ids = pack(mask, words, token_type_ids, position_ids)
        x = self.embeddings(words, token_type_ids, position_ids)  # (B, T, E); packed: (1, tokens, E)
        x = self.encoder["embedding_hidden_mapping_in"](x)  # (..., E) -> (..., C)
        for i in range(config.num_hidden_layers):
            for layer in self.encoder["albert_layer_groups"][group_of(i, config)]["albert_layers"]:
                x = layer(x, mask)
        x = unpack(x, mask)
        pooled = None if self.pooler is None else torch.tanh(self.pooler(x[:, 0]))  # (B, T, C) -> (B, C)
        return BaseModelOutputWithPooling(x, pooled)


class AlbertForPreTraining(AlbertPreTrainedModel):
    """Both tasks of the paper at once: masked words, and whether two texts stand in their order."""

    tied: ClassVar = {
        "predictions.decoder.weight": "albert.embeddings.word_embeddings.weight",
        "predictions.decoder.bias": "predictions.bias",
    }
    output_embeddings = "predictions.decoder"
    token_heads = ("predictions",)

    def __init__(self, config: AlbertConfig):
        super().__init__(config)
        self.albert = AlbertModel(config)
        self.predictions = AlbertPredictions(config)
        self.sop_classifier = nn.ModuleDict(
            {
                "dropout": Dropout(config.classifier_dropout_prob),
                "classifier": Linear(config.hidden_size, config.num_labels),
            }
        )
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None,
        labels=None, sentence_order_label=None
    ) -> AlbertForPreTrainingOutput:
        """labels: (B, T) ids or -100. sentence_order_label: (B,), 0 = in order, 1 = swapped. The loss needs both."""
        x = self.albert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        if labels is None or sentence_order_label is None:
            labels = sentence_order_label = None
        loss, words = predict_words(self.predictions, x.last_hidden_state, labels)
        order = self.sop_classifier["classifier"](self.sop_classifier["dropout"](x.pooler_output))
        if loss is not None:
            loss = loss + cross_entropy(order, sentence_order_label)
        return AlbertForPreTrainingOutput(loss, words, order)


class AlbertForMaskedLM(AlbertPreTrainedModel):
    """Which word stood here? Logits (B, T, V) for each token."""

    tied = AlbertForPreTraining.tied
    output_embeddings = "predictions.decoder"
    token_heads = ("predictions",)

    def __init__(self, config: AlbertConfig):
        super().__init__(config)
        self.albert = AlbertModel(config, add_pooling_layer=False)
        self.predictions = AlbertPredictions(config)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None,
        labels=None, num_items_in_batch=None
    ) -> MaskedLMOutput:
        """labels: (B, T), the id of the word that stood here, or -100 for tokens that count for nothing."""
        x = self.albert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        return MaskedLMOutput(*predict_words(self.predictions, x, labels, num_items_in_batch))


class AlbertForSequenceClassification(AlbertPreTrainedModel):
    """One answer a text: a class, several classes, or a number (see `classification_loss`)."""

    def __init__(self, config: AlbertConfig):
        super().__init__(config)
        self.albert = AlbertModel(config)
        self.dropout = Dropout(config.classifier_dropout_prob)
        self.classifier = Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None,
        labels=None
    ) -> SequenceClassifierOutput:
        """labels: (B,) classes, (B, N) floats for several classes a text, (B,) floats for a number."""
        x = self.albert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        logits = self.classifier(self.dropout(x.pooler_output))
        return SequenceClassifierOutput(classification_loss(logits, labels, self.config.problem_type), logits)


class AlbertForTokenClassification(AlbertPreTrainedModel):
    """A class for each token: names, parts of speech. Logits (B, T, N)."""

    token_heads = ("classifier",)

    def __init__(self, config: AlbertConfig):
        super().__init__(config)
        self.albert = AlbertModel(config, add_pooling_layer=False)
        self.dropout = Dropout(config.classifier_dropout_prob)
        self.classifier = Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None,
        labels=None
    ) -> TokenClassifierOutput:
        """labels: (B, T) classes, or -100 for tokens that count for nothing."""
        x = self.albert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.classifier(self.dropout(x))
        return TokenClassifierOutput(cross_entropy(logits, labels), logits)


class AlbertForQuestionAnswering(AlbertPreTrainedModel):
    """Where in the text does the answer begin, and where does it end? Two logits a token."""

    token_heads = ("qa_outputs",)

    def __init__(self, config: AlbertConfig):
        super().__init__(config)
        check_span_labels(config.num_labels)
        self.albert = AlbertModel(config, add_pooling_layer=False)
        self.qa_outputs = Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None,
        start_positions=None, end_positions=None
    ) -> QuestionAnsweringOutput:
        """start_positions, end_positions: (B,), of the answer's first and last token; outside the text: no answer."""
        x = self.albert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        start, end = self.qa_outputs(x).unbind(-1)  # (B, T, 2) -> (B, T), (B, T)
        return QuestionAnsweringOutput(span_loss(start, end, start_positions, end_positions), start, end)


class AlbertForMultipleChoice(AlbertPreTrainedModel):
    """Which of several endings fits? Inputs are (B, choices, T), logits (B, choices)."""

    def __init__(self, config: AlbertConfig):
        super().__init__(config)
        self.albert = AlbertModel(config)
        self.dropout = Dropout(config.classifier_dropout_prob)
        self.classifier = Linear(config.hidden_size, 1)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None,
        labels=None
    ) -> MultipleChoiceOutput:
        """labels: (B,), the number of the right choice."""
        choices = check_choices(input_ids, inputs_embeds)
        x = self.albert(*flatten_choices(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds))
        logits = self.classifier(self.dropout(x.pooler_output)).view(-1, choices)  # (B * choices, 1) -> (B, choices)
        return MultipleChoiceOutput(cross_entropy(logits, labels), logits)
