"""Mixtral (Jiang et al., 2024, arXiv 2401.04088): Mistral, whose MLP is several, of which each token asks two.

What is special: a router gives each token a share of each expert; the token is sent to the few with the largest shares,
whose answers are added up, weighted by their shares of the few. So a token costs the work of two experts, whatever
their number, and an expert is run on the tokens that were sent to it and on no others. While it is trained, an
auxiliary loss keeps the router from sending all tokens to the same ones (Fedus et al., 2021, arXiv 2101.03961).

                    ┌─ gate ─ softmax ─ top 2, made to sum to 1 ─┐
    x ── RMSNorm ───┼─ expert 3 ────────────────────────────────(*)──(+)── y
                    └─ expert 6 ────────────────────────────────(*)──┘

In the model an MLP's experts are two tensors; in published files they are three matrices an expert
(`minihf.checkpoints.experts`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from minihf.checkpoints.experts import in_published_names
from minihf.models.base import Model
from minihf.models.inputs import check_batch, last_real, last_tokens
from minihf.models.outputs import (
    MoeCausalLMOutput,
    MoeModelOutput,
    QuestionAnsweringOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from minihf.models.rope_config import RopeConfig
from minihf.nn.activations import ACTIVATIONS
from minihf.nn.attention import attend, merge_heads, split_heads
from minihf.nn.cache import Cache
from minihf.nn.dropout import Dropout
from minihf.nn.linear import Linear, linear
from minihf.nn.losses import classification_loss, cross_entropy, load_balancing_loss, next_tokens, span_loss, upcast
from minihf.nn.masks import decoder_mask
from minihf.nn.norms import RMSNorm
from minihf.nn.positions import positions_from_mask
from minihf.nn.rope import RotaryEmbedding, rotate
from minihf.nn.words import predict_words


@dataclass(init=False)
class MixtralConfig(RopeConfig):
    model_type: ClassVar[str] = "mixtral"
    attribute_map: ClassVar[dict[str, str]] = {"num_experts": "num_local_experts"}
    default_theta: ClassVar[float] = 1_000_000.0

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
    sliding_window: int | None = None
    """How many tokens a token sees, itself included; None: all up to itself."""
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-5
    attention_dropout: float = 0.0
    num_local_experts: int = 8
    num_experts_per_tok: int = 2
    """How many experts a token is sent to."""
    router_jitter_noise: float = 0.0
    """In training, what experts and router read is multiplied by random numbers up to so far from 1."""
    router_aux_loss_coef: float = 0.001
    """How much the auxiliary loss counts, where it is computed."""
    output_router_logits: bool = False
    """Give the router's logits, and with them the auxiliary loss."""
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
        self.require_sizes("num_key_value_heads", "head_dim", "num_local_experts", "num_experts_per_tok")
        self.require_layers("num_hidden_layers")
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            self.require_multiple("hidden_size", of="num_attention_heads")
            self.head_dim = self.hidden_size // self.num_attention_heads
        self.require_multiple("num_attention_heads", of="num_key_value_heads")
        self.require_token_ids("pad_token_id")
        self.require_probabilities("attention_dropout", "classifier_dropout")
        self.require_magnitudes("rms_norm_eps", "initializer_range", "router_jitter_noise", "router_aux_loss_coef")
        self.require_choice("hidden_act", ACTIVATIONS)
        if self.num_experts_per_tok > self.num_local_experts:
            raise ValueError(
                f"num_experts_per_tok={self.num_experts_per_tok}, of num_local_experts={self.num_local_experts}: a "
                "token is sent to no more experts than there are"
            )
        if self.max_position_embeddings < 1:
            raise ValueError(f"max_position_embeddings={self.max_position_embeddings}: expected 1 or more")
        if self.sliding_window is not None and self.sliding_window < 1:
            raise ValueError(f"sliding_window={self.sliding_window}: expected 1 or more, or None, which is no window")
        self.rope_parameters = self.whole_rope()

    @property
    def head_dropout(self) -> float:
        rates = self.classifier_dropout, getattr(self, "hidden_dropout", None)
        return next((rate for rate in rates if rate is not None), 0.1)


class MixtralAttention(nn.Module):
    def __init__(self, config: MixtralConfig, layer: int):
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


class MixtralExperts(nn.Module):
    """All experts of a layer: gated MLPs as Mistral's, their matrices stacked, the gate's over what it gates."""

    def __init__(self, config: MixtralConfig):
        super().__init__()
        E, C, inner = config.num_local_experts, config.hidden_size, config.intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(E, 2 * inner, C))
        self.down_proj = nn.Parameter(torch.empty(E, C, inner))
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
        """x (N, C), N tokens; chosen (N, k), the experts of each; shares (N, k), the weights of their answers."""
        k = chosen.shape[1]
        requests = chosen.flatten()  # (N, k) -> (N * k): request i is of token i // k
        counts = requests.bincount(minlength=len(self.down_proj)).tolist()
        y = torch.zeros_like(x)
        # unbind, not an index for each: an index's way back is a gradient of the size of all experts
        matrices = self.gate_up_proj.unbind(), self.down_proj.unbind()
        for asked, gate_up, down in zip(requests.argsort().split(counts), *matrices, strict=True):
            if len(asked):
                tokens = asked // k
                gate, up = linear(x[tokens], gate_up).chunk(2, -1)  # (n, 2 * inner) -> (n, inner), (n, inner)
                answers = linear(self.activation(gate) * up, down) * shares.flatten()[asked, None]
                y.index_add_(0, tokens, answers.to(y.dtype))
        return y


class MixtralMoE(nn.Module):
    def __init__(self, config: MixtralConfig):
        super().__init__()
        self.config = config
        self.gate = Linear(config.hidden_size, config.num_local_experts, bias=False)
        self.experts = MixtralExperts(config)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, C), and the router's logits (B * T, E)."""
        noise = self.config.router_jitter_noise
        if self.training and noise > 0:
            x = x * torch.empty_like(x).uniform_(1 - noise, 1 + noise)
        tokens = x.flatten(0, 1)  # (B, T, C) -> (B * T, C)
        logits = self.gate(tokens)
        chosen, shares = route(logits, self.config.num_experts_per_tok)
        return self.experts(tokens, chosen, shares).view(x.shape), logits


def route(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k experts (N, k) that a token (N, E) is sent to, and the shares of their answers (N, k), which sum to 1.

    In float32 at least. It is the same as a softmax over the k largest logits alone: what the others had cancels.
    """
    shares, chosen = upcast(logits).softmax(-1).topk(k, -1)
    return chosen, shares / shares.sum(-1, keepdim=True)


class MixtralLayer(nn.Module):
    def __init__(self, config: MixtralConfig, layer: int):
        super().__init__()
        self.self_attn = MixtralAttention(config, layer)
        self.mlp = MixtralMoE(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, x: Tensor, mask: Tensor | None, rope: tuple[Tensor, Tensor], cache: Cache | None = None
    ) -> tuple[Tensor, Tensor]:
        """(B, T, C), and the router's logits (B * T, E)."""
        x = x + self.self_attn(self.input_layernorm(x), mask, rope, cache)[0]
        y, router_logits = self.mlp(self.post_attention_layernorm(x))
        return x + y, router_logits


class MixtralPreTrainedModel(Model):
    config_class = MixtralConfig
    base_model_prefix = "model"
    heads = ("lm_head", "score", "qa_outputs")
    input_embeddings = "embed_tokens"
    capturable = False  # how many tokens go to each expert is read on the host
    recorded: ClassVar = {"hidden_states": "layers.*", "attentions": "layers.*.self_attn"}

    def init_weights(self, module: nn.Module) -> None:
        super().init_weights(module)
        if isinstance(module, MixtralExperts):
            for matrices in (module.gate_up_proj, module.down_proj):
                nn.init.normal_(matrices, std=self.config.initializer_range)

    def tensors_to_save(self, state_dict: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        return in_published_names(super().tensors_to_save(state_dict))


class MixtralModel(MixtralPreTrainedModel):
    """The decoder itself: `last_hidden_state` (B, T, C), and `router_logits` where they are asked for."""

    def __init__(self, config: MixtralConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(MixtralLayer(config, i) for i in range(config.num_hidden_layers))
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
        output_router_logits: bool | None = None,
    ) -> MoeModelOutput:
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
            output_router_logits: give them, (B * T, E) of each layer; None: as the config says.
        """
        B, T = check_batch(input_ids, inputs_embeds)
        use_cache = self.config.use_cache if use_cache is None else use_cache
        wanted = self.config.output_router_logits if output_router_logits is None else output_router_logits
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
        router_logits = []
        for layer in self.layers:
            x, logits = layer(x, mask, rope, cache)
            router_logits.append(logits)
        return MoeModelOutput(
            self.norm(x), cache if use_cache else None, router_logits=tuple(router_logits) if wanted else None
        )


class MixtralForCausalLM(MixtralPreTrainedModel):
    """Which token comes next?"""

    tied: ClassVar = {"lm_head.weight": "model.embed_tokens.weight"}
    output_embeddings = "lm_head"
    can_generate = True

    def __init__(self, config: MixtralConfig):
        super().__init__(config)
        self.model = MixtralModel(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, inputs_embeds=None,
        labels=None, use_cache=None, output_router_logits=None, logits_to_keep=0, num_items_in_batch=None
    ) -> MoeCausalLMOutput:
        """labels: (B, T), usually the input_ids: shifted here. logits_to_keep: of the last so many tokens.

        output_router_logits: give them, and `aux_loss`, of which `loss` then holds a share; None: as the config says.
        """
        config = self.config
        x = self.model(
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache,
            config.output_router_logits if output_router_logits is None else output_router_logits,
        )
        state, aux_loss = last_tokens(x.last_hidden_state, logits_to_keep), None
        loss, logits = predict_words(self.lm_head, state, next_tokens(labels), num_items_in_batch)
        if x.router_logits:
            real = attention_mask
            if real is not None:  # of the tokens that were read now; a ready mask does not say which are padding
                real = real[:, -x.last_hidden_state.shape[1] :] if real.dim() == 2 else None
            aux_loss = load_balancing_loss(x.router_logits, config.num_experts_per_tok, real)
            loss = loss if loss is None else loss + config.router_aux_loss_coef * aux_loss
        return MoeCausalLMOutput(loss, aux_loss, logits, x.past_key_values, router_logits=x.router_logits)


class MixtralForSequenceClassification(MixtralPreTrainedModel):
    """One answer a text, read from its last token: the only one that has seen all of it."""

    def __init__(self, config: MixtralConfig):
        super().__init__(config)
        self.model = MixtralModel(config)
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


class MixtralForTokenClassification(MixtralPreTrainedModel):
    """A class for each token. Logits (B, T, N)."""

    def __init__(self, config: MixtralConfig):
        super().__init__(config)
        self.model = MixtralModel(config)
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


class MixtralForQuestionAnswering(MixtralPreTrainedModel):
    """Where in the text does the answer begin, and where does it end? Two logits a token."""

    def __init__(self, config: MixtralConfig):
        super().__init__(config)
        self.model = MixtralModel(config)
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
