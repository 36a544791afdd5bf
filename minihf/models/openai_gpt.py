"""GPT (Radford et al., 2018, "Improving Language Understanding by Generative Pre-Training"): the first of its family.

A decoder that first learns to predict the next token, and is then trained on a task: GPT-2's forerunner, with weights
transposed likewise (`Conv1D`). What is special: the norm comes after each sum ("post-norm", as in the Transformer of
2017), so that the last block's output is normed already and no norm follows it; `afn="gelu"` is the tanh approximation.

    x ──┬─ attention ─(+)─ LayerNorm ──┬─ two linear layers ─(+)─ LayerNorm ── next block
        └──────────────┘               └──────────────────────┘

The reference reads the whole text anew for each token that it writes. Here GPT has a cache as any causal model can.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from minihf.models.base import Model
from minihf.models.config import Config
from minihf.models.inputs import check_batch, check_choices, check_length, flatten_choices, last_real, last_tokens
from minihf.models.outputs import BaseModelOutput, CausalLMOutput, DoubleHeadsOutput, SequenceClassifierOutput
from minihf.nn.activations import ACTIVATIONS
from minihf.nn.attention import attend, merge_heads, split_parts
from minihf.nn.cache import Cache
from minihf.nn.conv1d import Conv1D
from minihf.nn.dropout import Dropout
from minihf.nn.linear import Linear
from minihf.nn.losses import classification_loss, cross_entropy, next_tokens
from minihf.nn.masks import decoder_mask
from minihf.nn.positions import positions_from_mask
from minihf.nn.words import predict_words

# GPT is older than the name "gelu_new": its "gelu" is the tanh approximation, as in OpenAI's own code.
AFN = {"gelu": "gelu_new", "relu": "relu", "silu": "silu", "swish": "swish"}


@dataclass(init=False)
class OpenAIGPTConfig(Config):
    model_type: ClassVar[str] = "openai-gpt"
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }

    vocab_size: int = 40478
    n_positions: int = 512
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    afn: str = "gelu"
    """The activation function: "gelu" (of these, the tanh approximation), "relu", "silu" or "swish"."""
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    summary_type: str = "cls_index"
    """Which token a multiple-choice head reads: "cls_index" (`mc_token_ids`, or the last), "first", "last", "mean"."""
    summary_use_proj: bool = True
    summary_activation: str | None = None
    summary_proj_to_labels: bool = True
    summary_first_dropout: float = 0.1
    bos_token_id: int | None = None
    eos_token_id: int | list | None = None
    pad_token_id: int | None = None

    def check(self) -> None:
        self.require_choice("is_encoder_decoder", [False])
        self.require_sizes("vocab_size", "n_positions", "n_embd", "n_head")
        self.require_layers("n_layer")
        self.require_multiple("n_embd", of="n_head")
        self.require_probabilities("resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout")
        self.require_magnitudes("layer_norm_epsilon", "initializer_range")
        self.require_choice("afn", AFN)
        self.require_choice("summary_type", ["cls_index", "first", "last", "mean"])
        self.require_choice("summary_activation", [None, *ACTIVATIONS])


class OpenAIGPTAttention(nn.Module):
    def __init__(self, config: OpenAIGPTConfig, layer: int):
        super().__init__()
        self.config, self.layer = config, layer
        self.c_attn = Conv1D(3 * config.n_embd, config.n_embd)
        self.c_proj = Conv1D(config.n_embd, config.n_embd)
        self.attn_dropout = Dropout(config.attn_pdrop)
        self.resid_dropout = Dropout(config.resid_pdrop)

    def forward(
        self, x: Tensor, mask: Tensor | None, cache: Cache | None = None, impl: str | None = None
    ) -> tuple[Tensor, Tensor | None]:
        q, k, v = split_parts(self.c_attn(x), 3, self.config.n_head)  # (B, T, 3C) -> 3 of (B, H, T, D)
        if cache is not None:
            k, v = cache.update(self.layer, k, v)
        dropout = self.attn_dropout.p if self.training else 0.0
        impl = impl or self.config.attn_implementation
        x, weights = attend(q, k, v, mask, causal=True, dropout=dropout, impl=impl)
        return self.resid_dropout(self.c_proj(merge_heads(x))), weights


class OpenAIGPTMLP(nn.Module):
    def __init__(self, config: OpenAIGPTConfig):
        super().__init__()
        self.c_fc = Conv1D(4 * config.n_embd, config.n_embd)
        self.c_proj = Conv1D(config.n_embd, 4 * config.n_embd)
        self.dropout = Dropout(config.resid_pdrop)
        self.activation = ACTIVATIONS[AFN[config.afn]]

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(self.activation(self.c_fc(x))))


class OpenAIGPTBlock(nn.Module):
    def __init__(self, config: OpenAIGPTConfig, layer: int):
        super().__init__()
        self.attn = OpenAIGPTAttention(config, layer)
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = OpenAIGPTMLP(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)

    def forward(self, x: Tensor, mask: Tensor | None, cache: Cache | None = None) -> Tensor:
        x = self.ln_1(x + self.attn(x, mask, cache)[0])
        return self.ln_2(x + self.mlp(x))


class OpenAIGPTPreTrainedModel(Model):
    config_class = OpenAIGPTConfig
    base_model_prefix = "transformer"
    heads = ("lm_head", "multiple_choice_head", "score")
    input_embeddings = "tokens_embed"
    recorded: ClassVar = {"hidden_states": "h.*", "attentions": "h.*.attn"}

    @property
    def position_limit(self) -> int:
        return self.config.n_positions

    def init_weights(self, module: nn.Module) -> None:
        """The paper's spread for all transposed weights; as in the reference, `initializer_range` is for the others."""
        super().init_weights(module)
        if isinstance(module, Conv1D):
            nn.init.normal_(module.weight, std=0.02)


class OpenAIGPTModel(OpenAIGPTPreTrainedModel):
    """The decoder itself: `last_hidden_state` (B, T, C)."""

    def __init__(self, config: OpenAIGPTConfig):
        super().__init__(config)
        self.tokens_embed = nn.Embedding(config.vocab_size, config.n_embd)
        self.positions_embed = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = Dropout(config.embd_pdrop)
        self.h = nn.ModuleList(OpenAIGPTBlock(config, i) for i in range(config.n_layer))
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool = False,
    ) -> BaseModelOutput:
        """
        Args:
            input_ids: (B, T). Or `inputs_embeds` (B, T, C): token embeddings made elsewhere.
            attention_mask: 1 = real, 0 = padding, (B, K), the cached tokens included; or a ready 4-D mask.
            token_type_ids: (B, T) ids in the *token* table, added to the embeddings.
            position_ids: (B, T) or (1, T); None: counted over the real tokens of the mask, so that padding on the left
                shifts nothing (the reference counts padding too).
            past_key_values: what it keeps of earlier tokens; `input_ids` are then the new ones. Not the reference's.
            use_cache: make and return `past_key_values`.
        """
        B, T = check_batch(input_ids, inputs_embeds)
        cache = Cache() if use_cache and past_key_values is None else past_key_values
        past = cache.length if cache is not None else 0
        check_length(past + T, self.config.n_positions)

        x = self.tokens_embed(input_ids) if inputs_embeds is None else inputs_embeds  # (B, T, C)
        mask = decoder_mask(attention_mask, (B, self.config.n_head, T, past + T), dtype=x.dtype)
        if position_ids is None and mask is not None and attention_mask.dim() == 2:
            position_ids = positions_from_mask(attention_mask)[:, past:]
        elif position_ids is None:
            position_ids = torch.arange(past, past + T, device=x.device)[None]
        x = x + self.positions_embed(position_ids)
        if token_type_ids is not None:
            x = x + self.tokens_embed(token_type_ids)
        x = self.drop(x)
        for block in self.h:
            x = block(x, mask, cache)
        return BaseModelOutput(x, past_key_values=cache if use_cache else None)


class OpenAIGPTLMHeadModel(OpenAIGPTPreTrainedModel):
    """Which token comes next? The output layer is the token embeddings, read the other way."""

    tied: ClassVar = {"lm_head.weight": "transformer.tokens_embed.weight"}
    output_embeddings = "lm_head"
    can_generate = True

    def __init__(self, config: OpenAIGPTConfig):
        super().__init__(config)
        self.transformer = OpenAIGPTModel(config)
        self.lm_head = Linear(config.n_embd, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None,
        labels=None, logits_to_keep=0, num_items_in_batch=None, past_key_values=None, use_cache=False
    ) -> CausalLMOutput:
        """labels: (B, T), usually the input_ids: shifted here. logits_to_keep: of the last so many tokens."""
        x = self.transformer(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, past_key_values, use_cache
        )
        x, cache = last_tokens(x.last_hidden_state, logits_to_keep), x.past_key_values
        return CausalLMOutput(*predict_words(self.lm_head, x, next_tokens(labels), num_items_in_batch), cache)


class OpenAIGPTSummary(nn.Module):
    """One vector a text, from one of its tokens, brought to a number of classes."""

    def __init__(self, config: OpenAIGPTConfig, num_classes: int):
        super().__init__()
        self.kind = config.summary_type
        width = num_classes if config.summary_proj_to_labels else config.n_embd
        self.summary = Linear(config.n_embd, width) if config.summary_use_proj else nn.Identity()
        self.first_dropout = Dropout(config.summary_first_dropout)
        self.summary_activation = ACTIVATIONS[config.summary_activation or "linear"]

    def forward(self, x: Tensor, token: Tensor | None = None) -> Tensor:
        """x: (..., T, C), token: (...), the place of the token to read; returns (..., classes)."""
        if self.kind == "mean":
            x = x.mean(-2)
        elif self.kind == "first":
            x = x[..., 0, :]
        elif self.kind == "last" or token is None:
            x = x[..., -1, :]
        else:
            x = x.gather(-2, token[..., None, None].expand(*token.shape, 1, x.shape[-1])).squeeze(-2)
        return self.summary_activation(self.summary(self.first_dropout(x)))


class OpenAIGPTDoubleHeadsModel(OpenAIGPTPreTrainedModel):
    """A language model and a choice between texts, both learnt in fine-tuning. Inputs are (B, choices, T)."""

    tied = OpenAIGPTLMHeadModel.tied
    output_embeddings = "lm_head"

    def __init__(self, config: OpenAIGPTConfig):
        super().__init__(config)
        self.transformer = OpenAIGPTModel(config)
        self.lm_head = Linear(config.n_embd, config.vocab_size, bias=False)
        self.multiple_choice_head = OpenAIGPTSummary(config, num_classes=1)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None,
        mc_token_ids=None, labels=None, mc_labels=None
    ) -> DoubleHeadsOutput:
        """
        Args:
            mc_token_ids: the place of the token that the choice is read from, (B, choices); None: the last.
            labels: (B, choices, T), shifted here, for `loss`.
            mc_labels: (B,), the number of the right choice, for `mc_loss`.
        """
        choices = check_choices(input_ids, inputs_embeds)
        flat = flatten_choices(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        x = self.transformer(*flat).last_hidden_state.unflatten(0, (-1, choices))  # (B * choices, …) -> (B, choices, …)
        loss, logits = predict_words(self.lm_head, x, next_tokens(labels))
        choice = self.multiple_choice_head(x, mc_token_ids).squeeze(-1)  # (B, choices)
        return DoubleHeadsOutput(loss, cross_entropy(choice, mc_labels), logits, choice)


class OpenAIGPTForSequenceClassification(OpenAIGPTPreTrainedModel):
    """One answer a text, read from its last token: the only one that has seen all of it."""

    def __init__(self, config: OpenAIGPTConfig):
        super().__init__(config)
        self.transformer = OpenAIGPTModel(config)
        self.score = Linear(config.n_embd, config.num_labels, bias=False)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None,
        labels=None
    ) -> SequenceClassifierOutput:
        """labels: (B,) classes, (B, N) floats for several classes a text, (B,) floats for a number."""
        x = self.transformer(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = last_real(self.score(x), input_ids, self.config.pad_token_id)
        return SequenceClassifierOutput(classification_loss(logits, labels, self.config.problem_type), logits)
