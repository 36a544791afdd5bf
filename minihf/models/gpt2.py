"""GPT-2 (Radford et al., 2019): a decoder in which every token sees itself and earlier ones, and predicts the next.

What is special: the norm comes before each sublayer ("pre-norm"), so that a straight path runs from the embeddings to
the last norm; one layer makes queries, keys and values at once; weights are transposed (`Conv1D`).

    x ──┬─ LayerNorm ─ attention ─(+)──┬─ LayerNorm ─ two linear layers ─(+)── next block
        └─────────────────────────┘    └─────────────────────────────────┘
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from minihf.models.base import Model
from minihf.models.config import Config
from minihf.models.inputs import check_batch, check_choices, check_length, flatten_choices, last_real, last_tokens
from minihf.models.outputs import (
    BaseModelOutput,
    CausalLMOutput,
    DoubleHeadsOutput,
    QuestionAnsweringOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from minihf.nn.activations import ACTIVATIONS
from minihf.nn.attention import attend, merge_heads, split_heads, split_parts
from minihf.nn.cache import Cache
from minihf.nn.conv1d import Conv1D
from minihf.nn.dropout import Dropout
from minihf.nn.linear import Linear
from minihf.nn.losses import classification_loss, cross_entropy, next_tokens, span_loss, upcast
from minihf.nn.masks import decoder_mask, encoder_mask
from minihf.nn.positions import positions_from_mask
from minihf.nn.words import predict_words


@dataclass(init=False)
class GPT2Config(Config):
    model_type: ClassVar[str] = "gpt2"
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    """The width between the two linear layers; None: 4 * n_embd."""
    activation_function: str = "gelu_new"
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    scale_attn_weights: bool = True
    """Divide the scores by sqrt(D)."""
    scale_attn_by_inverse_layer_idx: bool = False
    """Divide the scores by the number of the layer, too, counted from 1."""
    reorder_and_upcast_attn: bool = False
    """In eager attention, scores and softmax are float32 whatever the model is."""
    summary_type: str = "cls_index"
    """Which token a multiple-choice head reads: "cls_index" (`mc_token_ids`, or the last), "first", "last", "mean"."""
    summary_use_proj: bool = True
    summary_activation: str | None = None
    summary_proj_to_labels: bool = True
    summary_first_dropout: float = 0.1
    classifier_dropout: float | None = None
    """Before a token classification head; None: `hidden_dropout` where the file has one, else 0.1."""
    add_cross_attention: bool = False
    use_cache: bool = True
    bos_token_id: int | None = 50256
    eos_token_id: int | list | None = 50256
    pad_token_id: int | None = None

    def check(self) -> None:
        self.require_choice("is_encoder_decoder", [False])
        self.require_sizes("vocab_size", "n_positions", "n_embd", "n_head", "n_inner")
        self.require_layers("n_layer")
        self.require_multiple("n_embd", of="n_head")
        self.require_probabilities("resid_pdrop", "embd_pdrop", "attn_pdrop")
        self.require_probabilities("summary_first_dropout", "classifier_dropout")
        self.require_magnitudes("layer_norm_epsilon", "initializer_range")
        self.require_choice("activation_function", ACTIVATIONS)
        self.require_choice("summary_type", ["cls_index", "first", "last", "mean"])
        self.require_choice("summary_activation", [None, *ACTIVATIONS])

    @property
    def head_dropout(self) -> float:
        rates = self.classifier_dropout, getattr(self, "hidden_dropout", None)
        return next((rate for rate in rates if rate is not None), 0.1)


class GPT2Attention(nn.Module):
    """Causal attention of a block's own tokens, or, with `context`, attention to an encoder's output."""

    def __init__(self, config: GPT2Config, layer: int, *, cross: bool = False):
        super().__init__()
        self.config, self.layer = config, layer
        C = config.n_embd
        if cross:
            self.c_attn = Conv1D(2 * C, C)
            self.q_attn = Conv1D(C, C)
        else:
            self.c_attn = Conv1D(3 * C, C)
        self.c_proj = Conv1D(C, C)
        self.attn_dropout = Dropout(config.attn_pdrop)
        self.resid_dropout = Dropout(config.resid_pdrop)
        self.scale = (C // config.n_head) ** -0.5 if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= layer + 1

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        cache: Cache | None = None,
        context: Tensor | None = None,
        impl: str | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        config = self.config
        if context is None:
            q, k, v = split_parts(self.c_attn(x), 3, config.n_head)
            if cache is not None:
                k, v = cache.update(self.layer, k, v)
        else:
            q = split_heads(self.q_attn(x), config.n_head)
            if cache is not None and self.layer in cache.cross:
                k, v = cache.cross[self.layer]
            else:
                k, v = split_parts(self.c_attn(context), 2, config.n_head)
                if cache is not None:
                    cache.cross[self.layer] = k, v
        dropout = self.attn_dropout.p if self.training else 0.0
        impl = impl or config.attn_implementation
        if config.reorder_and_upcast_attn and impl == "eager":
            q, k = upcast(q), upcast(k)
        x, weights = attend(q, k, v, mask, causal=context is None, dropout=dropout, scale=self.scale, impl=impl)
        return self.resid_dropout(self.c_proj(merge_heads(x))), weights


class GPT2MLP(nn.Module):
    def __init__(self, config: GPT2Config):
        super().__init__()
        C, inner = config.n_embd, config.n_inner or 4 * config.n_embd
        self.c_fc = Conv1D(inner, C)
        self.c_proj = Conv1D(C, inner)
        self.dropout = Dropout(config.resid_pdrop)
        self.activation = ACTIVATIONS[config.activation_function]

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(self.activation(self.c_fc(x))))


class GPT2Block(nn.Module):
    def __init__(self, config: GPT2Config, layer: int):
        super().__init__()
        C, eps = config.n_embd, config.layer_norm_epsilon
        self.ln_1 = nn.LayerNorm(C, eps=eps)
        self.attn = GPT2Attention(config, layer)
        self.ln_2 = nn.LayerNorm(C, eps=eps)
        if config.add_cross_attention:
            self.crossattention = GPT2Attention(config, layer, cross=True)
            self.ln_cross_attn = nn.LayerNorm(C, eps=eps)
        self.mlp = GPT2MLP(config)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        cache: Cache | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        x = x + self.attn(self.ln_1(x), mask, cache)[0]
        if context is not None:
            x = x + self.crossattention(self.ln_cross_attn(x), context_mask, cache, context)[0]
        return x + self.mlp(self.ln_2(x))


class GPT2PreTrainedModel(Model):
    config_class = GPT2Config
    base_model_prefix = "transformer"
    heads = ("lm_head", "multiple_choice_head", "score", "classifier", "qa_outputs")
    input_embeddings = "wte"
    recorded: ClassVar = {"hidden_states": "h.*", "attentions": "h.*.attn", "cross_attentions": "h.*.crossattention"}

    @property
    def position_limit(self) -> int:
        return self.config.n_positions

    def init_weights(self, module: nn.Module) -> None:
        """Layers that end on the straight path start smaller, by 1 / sqrt(their number): its variance stays 1."""
        super().init_weights(module)
        if isinstance(module, (GPT2Attention, GPT2MLP)):
            nn.init.normal_(module.c_proj.weight, std=self.config.initializer_range / (2 * self.config.n_layer) ** 0.5)


class GPT2Model(GPT2PreTrainedModel):
    """The decoder itself: `last_hidden_state` (B, T, C)."""

    def __init__(self, config: GPT2Config):
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = Dropout(config.embd_pdrop)
        self.h = nn.ModuleList(GPT2Block(config, i) for i in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
    ) -> BaseModelOutput:
        """
        Args:
            input_ids: (B, T). Or `inputs_embeds` (B, T, C): token embeddings made elsewhere.
            past_key_values: what it keeps of earlier tokens; `input_ids` are then the new ones.
            attention_mask: 1 = real, 0 = padding, (B, K), the cached tokens included; or a ready 4-D mask.
            token_type_ids: (B, T) ids in the *token* table, added to the embeddings.
            position_ids: (B, T) or (1, T); None: counted over the real tokens of the mask, so that padding on the left
                shifts nothing (the reference counts padding too).
                Where neither mask nor cache is, ids that begin anew keep several texts of one row apart (see `apart`).
            encoder_hidden_states, encoder_attention_mask: with `add_cross_attention`, (B, S, C) and (B, S).
            use_cache: make and return `past_key_values`; None: as the config says.
        """
        B, T = check_batch(input_ids, inputs_embeds)
        use_cache = self.config.use_cache if use_cache is None else use_cache
        cache = Cache() if use_cache and past_key_values is None else past_key_values
        past = cache.length if cache is not None else 0
        if position_ids is None or cache is not None:  # several texts in one row may be longer
            check_length(past + T, self.config.n_positions)

        x = self.wte(input_ids) if inputs_embeds is None else inputs_embeds  # (B, T, C)
        scores, positions = (B, self.config.n_head, T, past + T), position_ids if cache is None else None
        mask = decoder_mask(attention_mask, scores, dtype=x.dtype, positions=positions)
        if position_ids is None and mask is not None and attention_mask.dim() == 2:
            position_ids = positions_from_mask(attention_mask)[:, past:]
        elif position_ids is None:
            position_ids = torch.arange(past, past + T, device=x.device)[None]
        x = x + self.wpe(position_ids)
        if token_type_ids is not None:
            x = x + self.wte(token_type_ids)
        x = self.drop(x)

        context_mask = None
        if encoder_hidden_states is not None:
            if not self.config.add_cross_attention:
                raise ValueError("encoder_hidden_states need a config with add_cross_attention=True")
            scores = B, self.config.n_head, T, encoder_hidden_states.shape[1]
            context_mask = encoder_mask(encoder_attention_mask, scores, dtype=x.dtype)
        for block in self.h:
            x = block(x, mask, cache, encoder_hidden_states, context_mask)
        return BaseModelOutput(self.ln_f(x), past_key_values=cache if use_cache else None)


class GPT2LMHeadModel(GPT2PreTrainedModel):
    """Which token comes next? The output layer is the token embeddings, read the other way."""

    tied: ClassVar = {"lm_head.weight": "transformer.wte.weight"}
    output_embeddings = "lm_head"
    can_generate = True

    def __init__(self, config: GPT2Config):
        super().__init__(config)
        self.transformer = GPT2Model(config)
        self.lm_head = Linear(config.n_embd, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self, input_ids=None, past_key_values=None, attention_mask=None, token_type_ids=None, position_ids=None,
        inputs_embeds=None, encoder_hidden_states=None, encoder_attention_mask=None, labels=None, use_cache=None,
        logits_to_keep=0, num_items_in_batch=None
    ) -> CausalLMOutput:
        """labels: (B, T), usually the input_ids: shifted here. logits_to_keep: of the last so many tokens."""
        x = self.transformer(
            input_ids, past_key_values, attention_mask, token_type_ids, position_ids, inputs_embeds,
            encoder_hidden_states, encoder_attention_mask, use_cache
        )
        x, cache = last_tokens(x.last_hidden_state, logits_to_keep), x.past_key_values
        return CausalLMOutput(*predict_words(self.lm_head, x, next_tokens(labels), num_items_in_batch), cache)


class GPT2Summary(nn.Module):
    """One vector a text, from one of its tokens, brought to a number of classes."""

    def __init__(self, config: GPT2Config, num_classes: int):
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


class GPT2DoubleHeadsModel(GPT2PreTrainedModel):
    """A language model and a choice between texts, as in the first GPT's fine-tuning. Inputs are (B, choices, T)."""

    tied = GPT2LMHeadModel.tied
    output_embeddings = "lm_head"

    def __init__(self, config: GPT2Config):
        super().__init__(config)
        self.transformer = GPT2Model(config)
        self.lm_head = Linear(config.n_embd, config.vocab_size, bias=False)
        self.multiple_choice_head = GPT2Summary(config, num_classes=1)
        self.post_init()

    def forward(
        self, input_ids=None, past_key_values=None, attention_mask=None, token_type_ids=None, position_ids=None,
        inputs_embeds=None, mc_token_ids=None, labels=None, mc_labels=None, use_cache=None
    ) -> DoubleHeadsOutput:
        """
        Args:
            mc_token_ids: the place of the token that the choice is read from, (B, choices); None: the last.
            labels: (B, choices, T), shifted here, for `loss`.
            mc_labels: (B,), the number of the right choice, for `mc_loss`.
        """
        choices = check_choices(input_ids, inputs_embeds)
        ids, mask, types, positions, embeds = flatten_choices(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds
        )
        out = self.transformer(ids, past_key_values, mask, types, positions, embeds, use_cache=use_cache)
        x = out.last_hidden_state.unflatten(0, (-1, choices))  # (B * choices, T, C) -> (B, choices, T, C)
        loss, logits = predict_words(self.lm_head, x, next_tokens(labels))
        choice = self.multiple_choice_head(x, mc_token_ids).squeeze(-1)  # (B, choices)
        return DoubleHeadsOutput(loss, cross_entropy(choice, mc_labels), logits, choice, out.past_key_values)


class GPT2ForSequenceClassification(GPT2PreTrainedModel):
    """One answer a text, read from its last token: the only one that has seen all of it."""

    def __init__(self, config: GPT2Config):
        super().__init__(config)
        self.transformer = GPT2Model(config)
        self.score = Linear(config.n_embd, config.num_labels, bias=False)
        self.post_init()

    def forward(
        self, input_ids=None, past_key_values=None, attention_mask=None, token_type_ids=None, position_ids=None,
        inputs_embeds=None, labels=None, use_cache=None
    ) -> SequenceClassifierOutput:
        """labels: (B,) classes, (B, N) floats for several classes a text, (B,) floats for a number."""
        x = self.transformer(
            input_ids, past_key_values, attention_mask, token_type_ids, position_ids, inputs_embeds, use_cache=use_cache
        )
        logits = last_real(self.score(x.last_hidden_state), input_ids, self.config.pad_token_id)
        loss = classification_loss(logits, labels, self.config.problem_type)
        return SequenceClassifierOutput(loss, logits, x.past_key_values)


class GPT2ForTokenClassification(GPT2PreTrainedModel):
    """A class for each token. Logits (B, T, N)."""

    def __init__(self, config: GPT2Config):
        super().__init__(config)
        self.transformer = GPT2Model(config)
        self.dropout = Dropout(config.head_dropout)
        self.classifier = Linear(config.n_embd, config.num_labels)
        self.post_init()

    def forward(
        self, input_ids=None, past_key_values=None, attention_mask=None, token_type_ids=None, position_ids=None,
        inputs_embeds=None, labels=None, use_cache=None
    ) -> TokenClassifierOutput:
        """labels: (B, T) classes, or -100 for tokens that count for nothing."""
        x = self.transformer(
            input_ids, past_key_values, attention_mask, token_type_ids, position_ids, inputs_embeds, use_cache=use_cache
        )
        logits = self.classifier(self.dropout(x.last_hidden_state))
        return TokenClassifierOutput(cross_entropy(logits, labels), logits)


class GPT2ForQuestionAnswering(GPT2PreTrainedModel):
    """Where in the text does the answer begin, and where does it end? Two logits a token."""

    def __init__(self, config: GPT2Config):
        super().__init__(config)
        self.transformer = GPT2Model(config)
        self.qa_outputs = Linear(config.n_embd, 2)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, token_type_ids=None, position_ids=None, inputs_embeds=None,
        start_positions=None, end_positions=None
    ) -> QuestionAnsweringOutput:
        """start_positions, end_positions: (B,), of the answer's first and last token; outside the text: no answer."""
        x = self.transformer(input_ids, None, attention_mask, token_type_ids, position_ids, inputs_embeds)
        start, end = self.qa_outputs(x.last_hidden_state).unbind(-1)  # (B, T, 2) -> (B, T), (B, T)
        return QuestionAnsweringOutput(span_loss(start, end, start_positions, end_positions), start, end)
