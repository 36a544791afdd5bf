"""Mistral (Jiang et al., 2023, arXiv 2310.06825): Llama without biases, whose tokens see a window.

What is special: a token sees the last W tokens, of which it is one, so that attention costs W a token however long the
text is, and a cache keeps W - 1 tokens and drops the others. Nothing is lost for good: each layer's keys were made from
windows themselves, so that after n layers a token has heard of n * (W - 1) tokens before it. Later checkpoints (v0.2
on) have no window, and some have heads that do not share the hidden size evenly.

        1 . . . .
        1 1 . . .      W = 3
        1 1 1 . .
        . 1 1 1 .
        . . 1 1 1
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
class MistralConfig(RopeConfig):
    model_type: ClassVar[str] = "mistral"

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 14336
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = 8
    """How many keys and values a token has; None: one for each query."""
    head_dim: int | None = None
    """None: hidden_size / num_attention_heads."""
    hidden_act: str = "silu"
    max_position_embeddings: int = 131072
    """What it was trained on. No table ends there: longer texts are read, well or badly."""
    sliding_window: int | None = 4096
    """How many tokens a token sees, itself included; None: all up to itself."""
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    attention_dropout: float = 0.0
    classifier_dropout: float | None = None
    """Before a token classification head; None: `hidden_dropout` where the file has one, else 0.1."""
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
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            self.require_multiple("hidden_size", of="num_attention_heads")
            self.head_dim = self.hidden_size // self.num_attention_heads
        self.require_multiple("num_attention_heads", of="num_key_value_heads")
        self.require_token_ids("pad_token_id")
        self.require_probabilities("attention_dropout", "classifier_dropout")
        self.require_magnitudes("rms_norm_eps", "initializer_range")
        self.require_choice("hidden_act", ACTIVATIONS)
        if self.max_position_embeddings < 1:
            raise ValueError(f"max_position_embeddings={self.max_position_embeddings}: expected 1 or more")
        if self.sliding_window is not None and self.sliding_window < 1:
            raise ValueError(f"sliding_window={self.sliding_window}: expected 1 or more, or None, which is no window")
        kinds = set(getattr(self, "layer_types", None) or ())
        if kinds - {"full_attention" if self.sliding_window is None else "sliding_attention"}:
            raise ValueError(
                f"layer_types={self.layer_types} with sliding_window={self.sliding_window} is not implemented: all "
                "layers have the window, or none"
            )
        self.rope_parameters = self.whole_rope()

    @property
    def head_dropout(self) -> float:
        rates = self.classifier_dropout, getattr(self, "hidden_dropout", None)
        return next((rate for rate in rates if rate is not None), 0.1)


class MistralAttention(nn.Module):
    def __init__(self, config: MistralConfig, layer: int):
        super().__init__()
        self.config, self.layer = config, layer
        C = config.hidden_size
        queries, keys = (n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
        self.q_proj = Linear(C, queries, bias=False)
        self.k_proj = Linear(C, keys, bias=False)
        self.v_proj = Linear(C, keys, bias=False)
        self.o_proj = Linear(queries, C, bias=False)

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
            k, v = cache.update(self.layer, k, v, config.sliding_window)
        dropout = config.attention_dropout if self.training else 0.0
        impl = impl or config.attn_implementation
        x, weights = attend(q, k, v, mask, causal=True, dropout=dropout, impl=impl)
        return self.o_proj(merge_heads(x)), weights


class MistralMLP(nn.Module):
    def __init__(self, config: MistralConfig):
        super().__init__()
        C, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = Linear(C, inner, bias=False)
        self.up_proj = Linear(C, inner, bias=False)
        self.down_proj = Linear(inner, C, bias=False)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class MistralLayer(nn.Module):
    def __init__(self, config: MistralConfig, layer: int):
        super().__init__()
        self.self_attn = MistralAttention(config, layer)
        self.mlp = MistralMLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, x: Tensor, mask: Tensor | None, rope: tuple[Tensor, Tensor], cache: Cache | None = None
    ) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), mask, rope, cache)[0]
        return x + self.mlp(self.post_attention_layernorm(x))


class MistralPreTrainedModel(Model):
    config_class = MistralConfig
    base_model_prefix = "model"
    heads = ("lm_head", "score", "qa_outputs")
    input_embeddings = "embed_tokens"
    recorded: ClassVar = {"hidden_states": "layers.*", "attentions": "layers.*.self_attn"}


class MistralModel(MistralPreTrainedModel):
    """The decoder itself: `last_hidden_state` (B, T, C)."""

    def __init__(self, config: MistralConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(MistralLayer(config, i) for i in range(config.num_hidden_layers))
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
            attention_mask: 1 = real, 0 = padding, (B, K), of all tokens up to the last, those that the cache has
                dropped included; or a ready 4-D mask, which then decides instead of the window.
            position_ids: (B, T) or (1, T); None: counted over the real tokens of the mask, so that holes and padding
                shift nothing (the reference counts padding too). The window counts both.
                Where neither mask nor cache is, ids that begin anew keep several texts of one row apart (see `apart`).
            past_key_values: what it keeps of earlier tokens; `input_ids` are then the new ones.
            use_cache: make and return `past_key_values`; None: as the config says.
        """
        B, T = check_batch(input_ids, inputs_embeds)
        use_cache = self.config.use_cache if use_cache is None else use_cache
        cache = Cache() if use_cache and past_key_values is None else past_key_values
        past = cache.length if cache is not None else 0

        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds  # (B, T, C)
        window, scores = self.config.sliding_window, (B, self.config.num_attention_heads, T, past + T)
        positions = position_ids if cache is None else None
        mask = decoder_mask(
            attention_mask, scores, dtype=x.dtype, window=window, device=x.device, positions=positions
        )
        if position_ids is None and attention_mask is not None and attention_mask.dim() == 2:
            position_ids = positions_from_mask(attention_mask)[:, past:]
        elif position_ids is None:
            position_ids = torch.arange(past, past + T, device=x.device)[None]
        cos, sin = self.rotary_emb(x, position_ids)
        rope = cos.unsqueeze(1), sin.unsqueeze(1)  # (B, T, D) -> (B, 1, T, D), the same for all heads
        for layer in self.layers:
            x = layer(x, mask, rope, cache)
        return BaseModelOutput(self.norm(x), past_key_values=cache if use_cache else None)


class MistralForCausalLM(MistralPreTrainedModel):
    """Which token comes next?"""

    tied: ClassVar = {"lm_head.weight": "model.embed_tokens.weight"}
    output_embeddings = "lm_head"
    can_generate = True

    def __init__(self, config: MistralConfig):
        super().__init__(config)
        self.model = MistralModel(config)
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


class MistralForSequenceClassification(MistralPreTrainedModel):
    """One answer a text, read from its last token: the only one that has seen all of it."""

    def __init__(self, config: MistralConfig):
        super().__init__(config)
        self.model = MistralModel(config)
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


class MistralForTokenClassification(MistralPreTrainedModel):
    """A class for each token. Logits (B, T, N)."""

    def __init__(self, config: MistralConfig):
        super().__init__(config)
        self.model = MistralModel(config)
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


class MistralForQuestionAnswering(MistralPreTrainedModel):
    """Where in the text does the answer begin, and where does it end? Two logits a token."""

    def __init__(self, config: MistralConfig):
        super().__init__(config)
        self.model = MistralModel(config)
        self.qa_outputs = Linear(config.hidden_size, 2)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, inputs_embeds=None,
        start_positions=None, end_positions=None
    ) -> QuestionAnsweringOutput:
        """start_positions, end_positions: (B,), of the answer's first and last token; outside the text: no answer."""
        x = self.model(input_ids, attention_mask, position_ids, past_key_values, inputs_embeds)
        start, end = self.qa_outputs(x.last_hidden_state).unbind(-1)  # (B, T, 2) -> (B, T), (B, T)
        return QuestionAnsweringOutput(span_loss(start, end, start_positions, end_positions), start, end)
