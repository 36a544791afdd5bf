"""mBART (arXiv 2001.08210): BART for many languages at once, the same but for four things.

The norm comes before each sublayer ("pre-norm"), so that both sides end with a norm more; and a text says its language
by a token of its own, its last, which the decoder reads first: there is no one start token.

    encoder   x ──┬─ LayerNorm ─ attention ─(+)──┬─ LayerNorm ─ two linear layers ─(+)── next layer
                  └─────────────────────────┘    └─────────────────────────────────┘
    decoder   the same, with a norm, and attention to the encoder's output, in between
"""

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from minihf.models.bart import (
    BartAttention,
    BartClassificationHead,
    BartConfig,
    BartForCausalLM,
    BartForConditionalGeneration,
    BartForQuestionAnswering,
    BartForSequenceClassification,
    BartLearnedPositionalEmbedding,
    BartModel,
    BartPreTrainedModel,
    BartScaledWordEmbedding,
)
from minihf.models.inputs import check_batch, check_length
from minihf.models.outputs import BaseModelOutput
from minihf.nn.activations import ACTIVATIONS
from minihf.nn.cache import Cache
from minihf.nn.dropout import Dropout, left_out
from minihf.nn.linear import Linear
from minihf.nn.losses import IGNORED
from minihf.nn.masks import decoder_mask, encoder_mask
from minihf.nn.positions import positions_after


@dataclass(init=False)
class MBartConfig(BartConfig):
    model_type: ClassVar[str] = "mbart"
    usual_labels: ClassVar[int] = 2

    decoder_start_token_id: int | None = None
    """Read by `generate` alone: where labels are given, the decoder begins with their language."""


class MBartEncoderLayer(nn.Module):
    def __init__(self, config: MBartConfig, layer: int):
        super().__init__()
        C, inner = config.d_model, config.encoder_ffn_dim
        self.self_attn = BartAttention(config, config.encoder_attention_heads, layer)
        self.self_attn_layer_norm = nn.LayerNorm(C)
        self.fc1 = Linear(C, inner)
        self.fc2 = Linear(inner, C)
        self.final_layer_norm = nn.LayerNorm(C)
        self.dropout = Dropout(config.dropout)
        self.activation_dropout = Dropout(config.activation_dropout)
        self.activation = ACTIVATIONS[config.activation_function]

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.dropout(self.self_attn(self.self_attn_layer_norm(x), mask)[0])
        h = self.activation_dropout(self.activation(self.fc1(self.final_layer_norm(x))))
        return within_float16(x + self.dropout(self.fc2(h)))


def within_float16(x: Tensor) -> Tensor:
    """float16 ends at 65504, and what is added up in a straight path may pass it."""
    if x.dtype != torch.float16:
        return x
    limit = torch.finfo(x.dtype).max - 1000
    return x.clamp(-limit, limit)


class MBartDecoderLayer(nn.Module):
    def __init__(self, config: MBartConfig, layer: int):
        super().__init__()
        C, inner = config.d_model, config.decoder_ffn_dim
        self.self_attn = BartAttention(config, config.decoder_attention_heads, layer, causal=True)
        self.self_attn_layer_norm = nn.LayerNorm(C)
        self.encoder_attn = BartAttention(config, config.decoder_attention_heads, layer)
        self.encoder_attn_layer_norm = nn.LayerNorm(C)
        self.fc1 = Linear(C, inner)
        self.fc2 = Linear(inner, C)
        self.final_layer_norm = nn.LayerNorm(C)
        self.dropout = Dropout(config.dropout)
        self.activation_dropout = Dropout(config.activation_dropout)
        self.activation = ACTIVATIONS[config.activation_function]

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        cache: Cache | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        x = x + self.dropout(self.self_attn(self.self_attn_layer_norm(x), mask, cache)[0])
        if context is not None:
            a, _ = self.encoder_attn(self.encoder_attn_layer_norm(x), context_mask, cache, context)
            x = x + self.dropout(a)
        h = self.activation_dropout(self.activation(self.fc1(self.final_layer_norm(x))))
        return x + self.dropout(self.fc2(h))


class MBartEncoder(nn.Module):
    def __init__(self, config: MBartConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = BartScaledWordEmbedding(config)
        self.embed_positions = BartLearnedPositionalEmbedding(config)
        self.layers = nn.ModuleList(MBartEncoderLayer(config, i) for i in range(config.encoder_layers))
        self.layernorm_embedding = nn.LayerNorm(config.d_model)
        self.layer_norm = nn.LayerNorm(config.d_model)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> BaseModelOutput:
        """The arguments are `BartModel`'s; `last_hidden_state` (B, S, C)."""
        B, S = check_batch(input_ids, inputs_embeds)
        check_length(S, self.config.max_position_embeddings)
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds  # (B, S, C)
        mask = encoder_mask(attention_mask, (B, self.config.encoder_attention_heads, S, S), dtype=x.dtype)
        positions = positions_after(None, S, x.device)
        x = self.dropout(self.layernorm_embedding(x + self.embed_positions(positions)))
        for layer in self.layers:
            if not left_out(layer, self.config.encoder_layerdrop):
                x = layer(x, mask)
        return BaseModelOutput(self.layer_norm(x))


class MBartDecoder(nn.Module):
    def __init__(self, config: MBartConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = BartScaledWordEmbedding(config)
        self.embed_positions = BartLearnedPositionalEmbedding(config)
        self.layers = nn.ModuleList(MBartDecoderLayer(config, i) for i in range(config.decoder_layers))
        self.layernorm_embedding = nn.LayerNorm(config.d_model)
        self.layer_norm = nn.LayerNorm(config.d_model)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
    ) -> BaseModelOutput:
        """The arguments are `BartDecoder`'s; `last_hidden_state` (B, T, C)."""
        B, T = check_batch(input_ids, inputs_embeds)
        use_cache = self.config.use_cache if use_cache is None else use_cache
        cache = Cache() if use_cache and past_key_values is None else past_key_values
        past = cache.length if cache is not None else 0
        check_length(past + T, self.config.max_position_embeddings)

        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds  # (B, T, C)
        heads, context_mask = self.config.decoder_attention_heads, None
        mask = decoder_mask(attention_mask, (B, heads, T, past + T), dtype=x.dtype)
        if encoder_hidden_states is not None:
            scores = B, heads, T, encoder_hidden_states.shape[1]
            context_mask = encoder_mask(encoder_attention_mask, scores, dtype=x.dtype)
        positions = positions_after(cache, T, x.device)
        x = self.dropout(self.layernorm_embedding(x + self.embed_positions(positions)))
        for layer in self.layers:
            if not left_out(layer, self.config.decoder_layerdrop):
                x = layer(x, mask, cache, encoder_hidden_states, context_mask)
        return BaseModelOutput(self.layer_norm(x), past_key_values=cache if use_cache else None)


def wrap_right(ids: Tensor, pad: int | None) -> Tensor:
    """The last token of each text that is no padding, its language, comes to the front. (B, T) -> (B, T)

    hello </s> en <pad> -> en hello </s> en: the language is also what the decoder reads last. -100 becomes padding.
    """
    if pad is None:
        raise ValueError("pad_token_id=None: to find the languages at the texts' ends, the config needs it")
    ids = ids.masked_fill(ids == IGNORED, pad)
    last = (ids != pad).sum(-1, keepdim=True) - 1  # (B, 1)
    return torch.cat([ids.gather(1, last % ids.shape[1]), ids[:, :-1]], dim=1)


class MBartPreTrainedModel(BartPreTrainedModel):
    config_class = MBartConfig

    def shifted(self, ids: Tensor) -> Tensor:
        return wrap_right(ids, self.config.pad_token_id)


class MBartModel(MBartPreTrainedModel):
    """Encoder and decoder: `last_hidden_state` (B, T, C) is the decoder's."""

    tied = BartModel.tied

    def __init__(self, config: MBartConfig):
        super().__init__(config)
        self.shared = BartScaledWordEmbedding(config)
        self.encoder = MBartEncoder(config)
        self.decoder = MBartDecoder(config)
        self.post_init()

    forward = BartModel.forward


class MBartForConditionalGeneration(MBartPreTrainedModel):
    """Which token comes next, given a text? Translations are written with it. Logits (B, T, V)."""

    tied = BartForConditionalGeneration.tied
    output_embeddings = "lm_head"
    can_generate = True

    def __init__(self, config: MBartConfig):
        super().__init__(config)
        self.model = MBartModel(config)
        self.register_buffer("final_logits_bias", torch.zeros(1, config.vocab_size))
        self.lm_head = Linear(config.d_model, config.vocab_size, bias=False)
        self.post_init()

    forward = BartForConditionalGeneration.forward
    prepare_decoder_input_ids_from_labels = BartForConditionalGeneration.prepare_decoder_input_ids_from_labels


class MBartForSequenceClassification(MBartPreTrainedModel):
    """One answer a text, read from the decoder's last end token."""

    tied = BartForSequenceClassification.tied

    def __init__(self, config: MBartConfig):
        super().__init__(config)
        self.model = MBartModel(config)
        self.classification_head = BartClassificationHead(config)
        self.post_init()

    forward = BartForSequenceClassification.forward


class MBartForQuestionAnswering(MBartPreTrainedModel):
    """Where in the text does the answer begin, and where does it end? Two logits for each token of the decoder."""

    tied = BartForQuestionAnswering.tied

    def __init__(self, config: MBartConfig):
        super().__init__(config)
        self.model = MBartModel(config)
        self.qa_outputs = Linear(config.d_model, 2)
        self.post_init()

    forward = BartForQuestionAnswering.forward


class MBartDecoderWrapper(MBartPreTrainedModel):
    """The decoder, at the path that it has in the whole model."""

    input_embeddings = "decoder.embed_tokens"
    recorded: ClassVar = {
        "hidden_states": "decoder.layers.*",
        "attentions": "decoder.layers.*.self_attn",
        "cross_attentions": "decoder.layers.*.encoder_attn",
    }

    def __init__(self, config: MBartConfig):
        super().__init__(config)
        self.decoder = MBartDecoder(config)
        self.post_init()

    def forward(self, *inputs) -> BaseModelOutput:
        return self.decoder(*inputs)


class MBartForCausalLM(MBartPreTrainedModel):
    """The decoder alone, with or without an encoder's output, as `BartForCausalLM`."""

    heads = BartForCausalLM.heads
    aliases = BartForCausalLM.aliases
    tied = BartForCausalLM.tied
    input_embeddings = MBartDecoderWrapper.input_embeddings
    output_embeddings = "lm_head"
    can_generate = True

    def __init__(self, config: MBartConfig):
        config = copy.copy(config)
        config.is_decoder, config.is_encoder_decoder = True, False
        super().__init__(config)
        self.model = MBartDecoderWrapper(config)
        self.lm_head = Linear(config.d_model, config.vocab_size, bias=False)
        self.post_init()

    forward = BartForCausalLM.forward
