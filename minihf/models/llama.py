"""Llama (Touvron et al., 2023; Llama 2 and 3 are the same code with other numbers): GPT's decoder, each part renewed.

What is special: positions are rotations of queries and keys, so that there is no position table and no end to it
(`minihf.nn.rope`); norms have no mean and no bias; the two layers of the MLP are three, of which one gates another;
several queries share a key and a value (grouped-query attention, arXiv 2305.13245), so that the cache is smaller.

    x ──┬─ RMSNorm ─ attention ─(+)──┬─ RMSNorm ─ down(silu(gate) * up) ─(+)── next layer
        └───────────────────────┘    └──────────────────────────────────┘
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from minihf.models.base import Model
from minihf.models.inputs import check_batch, last_real, last_tokens
from minihf.models.outputs import (
    BaseModelOutput,
    CausalLMOutput,
    QuestionAnsweringOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from minihf.models.rope_config import RopeConfig
from minihf.nn.activations import ACTIVATIONS
from minihf.nn.attention import attend, merge_heads, split_heads
from minihf.nn.cache import Cache
from minihf.nn.dropout import Dropout
from minihf.nn.linear import Linear
from minihf.nn.losses import classification_loss, cross_entropy, next_tokens, span_loss
from minihf.nn.masks import decoder_mask
from minihf.nn.norms import RMSNorm
from minihf.nn.positions import positions_from_mask
from minihf.nn.rope import RotaryEmbedding, rotate
from minihf.nn.words import predict_words


@dataclass(init=False)
class LlamaConfig(RopeConfig):
    model_type: ClassVar[str] = "llama"

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    """How many keys and values a token has; None: one for each query."""
    head_dim: int | None = None
    """None: hidden_size / num_attention_heads."""
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    """What it was trained on. No table ends there: longer texts are read, well or badly."""
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    attention_bias: bool = False
    attention_dropout: float = 0.0
    mlp_bias: bool = False
    classifier_dropout: float | None = None
    """Before a token classification head; None: `hidden_dropout` where the file has one, else 0.1."""
    pretraining_tp: int | None = 1
    """Over how many machines its training cut each matrix; it changes no number here."""
    tie_word_embeddings: bool = False
    use_cache: bool = True
    bos_token_id: int | None = 1
    eos_token_id: int | list | None = 2
    pad_token_id: int | None = None

    def check(self) -> None:
        self.require_choice("is_encoder_decoder", [False])
        self.require_sizes("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")
        self.require_sizes("num_key_value_heads", "head_dim")
        self.require_layers("num_hidden_layers")
        self.require_multiple("hidden_size", of="num_attention_heads")
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads
        self.require_multiple("num_attention_heads", of="num_key_value_heads")
        self.require_token_ids("pad_token_id")
        self.require_probabilities("attention_dropout", "classifier_dropout")
        self.require_magnitudes("rms_norm_eps", "initializer_range")
        self.require_choice("hidden_act", ACTIVATIONS)
        if self.max_position_embeddings < 1:
            raise ValueError(f"max_position_embeddings={self.max_position_embeddings}: expected 1 or more")
        self.rope_parameters = self.whole_rope()

    @property
    def head_dropout(self) -> float:
        rates = self.classifier_dropout, getattr(self, "hidden_dropout", None)
        return next((rate for rate in rates if rate is not None), 0.1)


class LlamaAttention(nn.Module):
    def __init__(self, config: LlamaConfig, layer: int):
        super().__init__()
        self.config, self.layer = config, layer
        C, bias = config.hidden_size, config.attention_bias
        queries, keys = (n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
        self.q_proj = Linear(C, queries, bias=bias)
        self.k_proj = Linear(C, keys, bias=bias)
        self.v_proj = Linear(C, keys, bias=bias)
        self.o_proj = Linear(queries, C, bias=bias)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        rope: tuple[Tensor, Tensor],
        cache: Cache | None = None,
        impl: str | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        config = self.config
        q = rotate(split_heads(self.q_proj(x), config.num_attention_heads), *rope)
        k = rotate(split_heads(self.k_proj(x), config.num_key_value_heads), *rope)
        v = split_heads(self.v_proj(x), config.num_key_value_heads)
        if cache is not None:
            k, v = cache.update(self.layer, k, v)
        dropout = config.attention_dropout if self.training else 0.0
        impl = impl or config.attn_implementation
        x, weights = attend(q, k, v, mask, causal=True, dropout=dropout, impl=impl)
        return self.o_proj(merge_heads(x)), weights


class LlamaMLP(nn.Module):
    def __init__(self, config: LlamaConfig):
        super().__init__()
        C, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = Linear(C, inner, bias=bias)
        self.up_proj = Linear(C, inner, bias=bias)
        self.down_proj = Linear(inner, C, bias=bias)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class LlamaLayer(nn.Module):
    def __init__(self, config: LlamaConfig, layer: int):
        super().__init__()
        self.self_attn = LlamaAttention(config, layer)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, x: Tensor, mask: Tensor | None, rope: tuple[Tensor, Tensor], cache: Cache | None = None
    ) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), mask, rope, cache)[0]
        return x + self.mlp(self.post_attention_layernorm(x))


class LlamaPreTrainedModel(Model):
    config_class = LlamaConfig
    base_model_prefix = "model"
    other_prefixes = ("transformer",)
    heads = ("lm_head", "score", "qa_outputs")
    input_embeddings = "embed_tokens"
    recorded: ClassVar = {"hidden_states": "layers.*", "attentions": "layers.*.self_attn"}


class LlamaModel(LlamaPreTrainedModel):
    """The decoder itself: `last_hidden_state` (B, T, C)."""

    def __init__(self, config: LlamaConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(LlamaLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = RotaryEmbedding(config.whole_rope(), config.head_dim, config.max_position_embeddings)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
    ) -> BaseModelOutput:
        """
        Args:
            input_ids: (B, T). Or `inputs_embeds` (B, T, C): token embeddings made elsewhere.
            attention_mask: 1 = real, 0 = padding, (B, K), the cached tokens included; or a ready 4-D mask.
            position_ids: (B, T) or (1, T); None: counted over the real tokens of the mask, so that holes and padding
                shift nothing (the reference counts padding too).
                Where neither mask nor cache is, ids that begin anew keep several texts of one row apart (see `apart`).
            past_key_values: what it keeps of earlier tokens; `input_ids` are then the new ones.
            use_cache: make and return `past_key_values`; None: as the config says.
        """
        B, T = check_batch(input_ids, inputs_embeds)
        use_cache = self.config.use_cache if use_cache is None else use_cache
        cache = Cache() if use_cache and past_key_values is None else past_key_values
        past = cache.length if cache is not None else 0

        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds  # (B, T, C)
        scores, positions = (B, self.config.num_attention_heads, T, past + T), position_ids if cache is None else None
        mask = decoder_mask(attention_mask, scores, dtype=x.dtype, positions=positions)
        if position_ids is None and mask is not None and attention_mask.dim() == 2:
            position_ids = positions_from_mask(attention_mask)[:, past:]
        elif position_ids is None:
            position_ids = torch.arange(past, past + T, device=x.device)[None]
        cos, sin = self.rotary_emb(x, position_ids)
        rope = cos.unsqueeze(1), sin.unsqueeze(1)  # (B, T, D) -> (B, 1, T, D), the same for all heads
        for layer in self.layers:
            x = layer(x, mask, rope, cache)
        return BaseModelOutput(self.norm(x), past_key_values=cache if use_cache else None)


class LlamaForCausalLM(LlamaPreTrainedModel):
    """Which token comes next? The small models' output layer is the token embeddings, the large ones' is its own."""

    tied: ClassVar = {"lm_head.weight": "model.embed_tokens.weight"}
    output_embeddings = "lm_head"
    can_generate = True

    def __init__(self, config: LlamaConfig):
        super().__init__(config)
        self.model = LlamaModel(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, inputs_embeds=None,
        labels=None, use_cache=None, logits_to_keep=0, num_items_in_batch=None
    ) -> CausalLMOutput:
        """labels: (B, T), usually the input_ids: shifted here. logits_to_keep: of the last so many tokens."""
        x = self.model(input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache)
        x, cache = last_tokens(x.last_hidden_state, logits_to_keep), x.past_key_values
        return CausalLMOutput(*predict_words(self.lm_head, x, next_tokens(labels), num_items_in_batch), cache)


class LlamaForSequenceClassification(LlamaPreTrainedModel):
    """One answer a text, read from its last token: the only one that has seen all of it."""

    def __init__(self, config: LlamaConfig):
        super().__init__(config)
        self.model = LlamaModel(config)
        self.score = Linear(config.hidden_size, config.num_labels, bias=False)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, inputs_embeds=None,
        labels=None, use_cache=None
    ) -> SequenceClassifierOutput:
        """labels: (B,) classes, (B, N) floats for several classes a text, (B,) floats for a number."""
        x = self.model(input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache)
        logits = last_real(self.score(x.last_hidden_state), input_ids, self.config.pad_token_id)
        loss = classification_loss(logits, labels, self.config.problem_type)
        return SequenceClassifierOutput(loss, logits, x.past_key_values)


class LlamaForTokenClassification(LlamaPreTrainedModel):
    """A class for each token. Logits (B, T, N)."""

    def __init__(self, config: LlamaConfig):
        super().__init__(config)
        self.model = LlamaModel(config)
        self.dropout = Dropout(config.head_dropout)
        self.score = Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, inputs_embeds=None,
        labels=None, use_cache=None
    ) -> TokenClassifierOutput:
        """labels: (B, T) classes, or -100 for tokens that count for nothing."""
        x = self.model(input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache)
        logits = self.score(self.dropout(x.last_hidden_state))
        return TokenClassifierOutput(cross_entropy(logits, labels), logits)


class LlamaForQuestionAnswering(LlamaPreTrainedModel):
    """Where in the text does the answer begin, and where does it end? Two logits a token.

    The base model has another name in this head than in the others; checkpoints of either name are read.
    """

    base_model_prefix = "transformer"
    other_prefixes = ("model",)

    def __init__(self, config: LlamaConfig):
        super().__init__(config)
        self.transformer = LlamaModel(config)
        self.qa_outputs = Linear(config.hidden_size, 2)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, inputs_embeds=None,
        start_positions=None, end_positions=None
    ) -> QuestionAnsweringOutput:
        """start_positions, end_positions: (B,), of the answer's first and last token; outside the text: no answer."""
        x = self.transformer(input_ids, attention_mask, position_ids, past_key_values, inputs_embeds)
        start, end = self.qa_outputs(x.last_hidden_state).unbind(-1)  # (B, T, 2) -> (B, T), (B, T)
        return QuestionAnsweringOutput(span_loss(start, end, start_positions, end_positions), start, end)
