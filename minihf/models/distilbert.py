"""DistilBERT (arXiv 1910.01108): BERT with half of its layers, taught to answer as the whole BERT does.

What is special: nothing is new, something is gone. There are no segments (token types) and no pooler; a head that reads
a text as a whole reads its first token, [CLS], with a layer of its own. The layers are BERT's, post-norm, under other
names, and without dropout after the attention's last linear layer:

    x ──┬─ attention ─(+)─ sa_layer_norm ──┬─ lin1, lin2 ─(+)─ output_layer_norm ── next layer
        └──────────────┘                   └──────────────┘

Module paths are those of the published checkpoints.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minihf.fast.packed import pack, unpack
from minihf.models.base import Model
from minihf.models.config import Config
from minihf.models.inputs import check_batch, check_choices, check_length, check_span_labels, flatten_choices
from minihf.models.outputs import (
    BaseModelOutput,
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
from minihf.nn.positions import sinusoids
from minihf.nn.words import predict_words

EPS = 1e-12  # of every LayerNorm: no config can change it


@dataclass(init=False)
class DistilBertConfig(Config):
    model_type: ClassVar[str] = "distilbert"
    attn_implementations: ClassVar = ENCODER_IMPLEMENTATIONS
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "dim",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
    }

    vocab_size: int = 30522
    max_position_embeddings: int = 512
    sinusoidal_pos_embds: bool = False
    """The table of positions begins as waves (see `sinusoids`) rather than at random."""
    n_layers: int = 6
    n_heads: int = 12
    dim: int = 768
    hidden_dim: int = 3072
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation: str = "gelu"
    initializer_range: float = 0.02
    qa_dropout: float = 0.1
    """Before the question answering head."""
    seq_classif_dropout: float = 0.2
    """Before the last layer of the sequence classification and the multiple choice heads."""
    pad_token_id: int | None = 0
    eos_token_id: int | list | None = None
    bos_token_id: int | None = None

    def check(self) -> None:
        self.require_choice("is_encoder_decoder", [False])
        self.require_sizes("vocab_size", "max_position_embeddings", "n_heads", "dim", "hidden_dim")
        self.require_layers("n_layers")
        self.require_multiple("dim", of="n_heads")
        self.require_probabilities("dropout", "attention_dropout", "qa_dropout", "seq_classif_dropout")
        self.require_magnitudes("initializer_range")
        self.require_token_ids("pad_token_id")
        self.require_choice("activation", ACTIVATIONS)


class DistilBertEmbeddings(nn.Module):
    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.dim, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.dim)
        self.LayerNorm = nn.LayerNorm(config.dim, eps=EPS)
        self.dropout = Dropout(config.dropout)

    def forward(self, words: Tensor, positions: Tensor) -> Tensor:
        return self.dropout(self.LayerNorm(words + self.position_embeddings(positions)))


class DistilBertSelfAttention(nn.Module):
    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.config = config
        self.q_lin = Linear(config.dim, config.dim)
        self.k_lin = Linear(config.dim, config.dim)
        self.v_lin = Linear(config.dim, config.dim)
        self.out_lin = Linear(config.dim, config.dim)
        self.dropout = Dropout(config.attention_dropout)

    def forward(self, x: Tensor, mask: Tensor | None, impl: str | None = None) -> tuple[Tensor, Tensor | None]:
        q, k, v = (split_heads(linear(x), self.config.n_heads) for linear in (self.q_lin, self.k_lin, self.v_lin))
        dropout = self.dropout.p if self.training else 0.0
        x, weights = attend(q, k, v, mask, dropout=dropout, impl=impl or self.config.attn_implementation)
        return self.out_lin(merge_heads(x)), weights


class DistilBertFFN(nn.Module):
    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.dropout = Dropout(config.dropout)
        self.lin1 = Linear(config.dim, config.hidden_dim)
        self.lin2 = Linear(config.hidden_dim, config.dim)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.lin2(self.activation(self.lin1(x))))


class DistilBertLayer(nn.Module):
    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.attention = DistilBertSelfAttention(config)
        self.sa_layer_norm = nn.LayerNorm(config.dim, eps=EPS)
        self.ffn = DistilBertFFN(config)
        self.output_layer_norm = nn.LayerNorm(config.dim, eps=EPS)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        a, _ = self.attention(x, mask)
        x = self.sa_layer_norm(a + x)
        return self.output_layer_norm(self.ffn(x) + x)


class DistilBertPreTrainedModel(Model):
    config_class = DistilBertConfig
    base_model_prefix = "distilbert"
    heads = ("vocab_transform", "vocab_layer_norm", "vocab_projector", "pre_classifier", "classifier", "qa_outputs")
    input_embeddings = "embeddings.word_embeddings"
    recorded: ClassVar = {"hidden_states": "transformer.layer.*", "attentions": "transformer.layer.*.attention"}

    def init_weights(self, module: nn.Module) -> None:
        super().init_weights(module)
        if isinstance(module, DistilBertEmbeddings) and self.config.sinusoidal_pos_embds:
            with torch.no_grad():
                module.position_embeddings.weight.copy_(
                    sinusoids(self.config.max_position_embeddings, self.config.dim)
                )

    @property
    def position_limit(self) -> int:
        return self.config.max_position_embeddings


class DistilBertModel(DistilBertPreTrainedModel):
    """The encoder itself: `last_hidden_state` (B, T, C) has a vector for each token."""

    def __init__(self, config: DistilBertConfig):
        super().__init__(config)
        self.embeddings = DistilBertEmbeddings(config)
        layers = nn.ModuleList(DistilBertLayer(config) for _ in range(config.n_layers))
        self.transformer = nn.ModuleDict({"layer": layers})
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> BaseModelOutput:
        """
        Args:
            input_ids: (B, T). Or `inputs_embeds` (B, T, C): word embeddings made elsewhere.
            attention_mask: 1 = real, 0 = padding, (B, T); or a ready 4-D mask.
            position_ids: (B, T) or (1, T); None: counted from the first token, padding included.
        """
        B, T = check_batch(input_ids, inputs_embeds)
        check_length(T, self.config.max_position_embeddings)
        words = self.embeddings.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if position_ids is None:
            position_ids = torch.arange(T, device=words.device)[None]
        mask = encoder_mask(attention_mask, (B, self.config.n_heads, T, T), dtype=words.dtype)
        if self.config.attn_implementation == "packed":
            mask, words, position_ids = pack(mask, words, position_ids)
        x = self.embeddings(words, position_ids)  # (B, T, C); packed: (1, tokens, C)
        for layer in self.transformer["layer"]:
            x = layer(x, mask)
        return BaseModelOutput(unpack(x, mask))


class DistilBertForMaskedLM(DistilBertPreTrainedModel):
    """Which word stood here? Logits (B, T, V) for each token."""

    tied: ClassVar = {"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"}
    output_embeddings = "vocab_projector"
    token_heads = ("vocab_transform", "vocab_projector")

    def __init__(self, config: DistilBertConfig):
        super().__init__(config)
        self.activation = ACTIVATIONS[config.activation]
        self.distilbert = DistilBertModel(config)
        self.vocab_transform = Linear(config.dim, config.dim)
        self.vocab_layer_norm = nn.LayerNorm(config.dim, eps=EPS)
        self.vocab_projector = Linear(config.dim, config.vocab_size)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, inputs_embeds=None, labels=None, position_ids=None,
        num_items_in_batch=None
    ) -> MaskedLMOutput:
        """labels: (B, T), the id of the word that stood here, or -100 for tokens that count for nothing."""
        x = self.distilbert(input_ids, attention_mask, inputs_embeds, position_ids).last_hidden_state
        head = self.vocab_transform, self.activation, self.vocab_layer_norm, self.vocab_projector
        return MaskedLMOutput(*predict_words(head, x, labels, num_items_in_batch))


class DistilBertForSequenceClassification(DistilBertPreTrainedModel):
    """One answer a text: a class, several classes, or a number (see `classification_loss`)."""

    def __init__(self, config: DistilBertConfig):
        super().__init__(config)
        self.distilbert = DistilBertModel(config)
        self.pre_classifier = Linear(config.dim, config.dim)
        self.classifier = Linear(config.dim, config.num_labels)
        self.dropout = Dropout(config.seq_classif_dropout)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, inputs_embeds=None, labels=None, position_ids=None
    ) -> SequenceClassifierOutput:
        """labels: (B,) classes, (B, N) floats for several classes a text, (B,) floats for a number."""
        x = self.distilbert(input_ids, attention_mask, inputs_embeds, position_ids).last_hidden_state
        x = F.relu(self.pre_classifier(x[:, 0]))  # (B, T, C) -> (B, C)
        logits = self.classifier(self.dropout(x))
        return SequenceClassifierOutput(classification_loss(logits, labels, self.config.problem_type), logits)


class DistilBertForQuestionAnswering(DistilBertPreTrainedModel):
    """Where in the text does the answer begin, and where does it end? Two logits a token."""

    token_heads = ("qa_outputs",)

    def __init__(self, config: DistilBertConfig):
        super().__init__(config)
        check_span_labels(config.num_labels)
        self.distilbert = DistilBertModel(config)
        self.qa_outputs = Linear(config.dim, config.num_labels)
        self.dropout = Dropout(config.qa_dropout)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, inputs_embeds=None, start_positions=None, end_positions=None,
        position_ids=None
    ) -> QuestionAnsweringOutput:
        """start_positions, end_positions: (B,), of the answer's first and last token; outside the text: no answer."""
        x = self.distilbert(input_ids, attention_mask, inputs_embeds, position_ids).last_hidden_state
        start, end = self.qa_outputs(self.dropout(x)).unbind(-1)  # (B, T, 2) -> (B, T), (B, T)
        return QuestionAnsweringOutput(span_loss(start, end, start_positions, end_positions), start, end)


class DistilBertForTokenClassification(DistilBertPreTrainedModel):
    """A class for each token: names, parts of speech. Logits (B, T, N)."""

    token_heads = ("classifier",)

    def __init__(self, config: DistilBertConfig):
        super().__init__(config)
        self.distilbert = DistilBertModel(config)
        self.dropout = Dropout(config.dropout)
        self.classifier = Linear(config.dim, config.num_labels)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, inputs_embeds=None, labels=None, position_ids=None
    ) -> TokenClassifierOutput:
        """labels: (B, T) classes, or -100 for tokens that count for nothing."""
        x = self.distilbert(input_ids, attention_mask, inputs_embeds, position_ids).last_hidden_state
        logits = self.classifier(self.dropout(x))
        return TokenClassifierOutput(cross_entropy(logits, labels), logits)


class DistilBertForMultipleChoice(DistilBertPreTrainedModel):
    """Which of several endings fits? Inputs are (B, choices, T), logits (B, choices)."""

    def __init__(self, config: DistilBertConfig):
        super().__init__(config)
        self.distilbert = DistilBertModel(config)
        self.pre_classifier = Linear(config.dim, config.dim)
        self.classifier = Linear(config.dim, 1)
        self.dropout = Dropout(config.seq_classif_dropout)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, inputs_embeds=None, labels=None, position_ids=None
    ) -> MultipleChoiceOutput:
        """labels: (B,), the number of the right choice. position_ids: as the ids, or (B * choices, T), or (1, T)."""
        choices = check_choices(input_ids, inputs_embeds)
        x = self.distilbert(
            *flatten_choices(input_ids, attention_mask, inputs_embeds, position_ids)
        ).last_hidden_state
        x = F.relu(self.pre_classifier(x[:, 0]))  # (B * choices, T, C) -> (B * choices, C)
        logits = self.classifier(self.dropout(x)).view(-1, choices)  # (B * choices, 1) -> (B, choices)
        return MultipleChoiceOutput(cross_entropy(logits, labels), logits)
