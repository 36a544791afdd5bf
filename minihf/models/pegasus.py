"""PEGASUS (Zhang et al., 2019): a summarizer, pre-trained to write the sentences that were taken out of a text.

An encoder reads the text, and a decoder writes the summary and looks at the encoder's output in each layer. What is
special: the norm comes before each sublayer ("pre-norm"), and one more after the last layer of each side; positions are
computed, not learnt, all sines first and all cosines after them; token embeddings are made sqrt(C) times as large; the
pad token is also the one that the decoder starts from.

    encoder    x ──┬─ LayerNorm ─ self-attention ─(+)──┬─ LayerNorm ─ two linear layers ─(+)── next layer
                   └──────────────────────────────┘    └────────────────────────────────┘

    decoder    the same with a causal self-attention, and between the two, in the same form, attention to the encoder's
               output

The checkpoints are google/pegasus-*.
"""

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from minihf.models.base import Model
from minihf.models.config import Config
from minihf.models.inputs import check_batch, check_length, last_tokens, shift_right
from minihf.models.outputs import (
    BaseModelOutput,
    CausalLMOutput,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
    encoder_output,
)
from minihf.nn.activations import ACTIVATIONS
from minihf.nn.attention import attend, merge_heads, split_heads
from minihf.nn.cache import Cache
from minihf.nn.dropout import Dropout, left_out
from minihf.nn.linear import Linear
from minihf.nn.masks import decoder_mask, encoder_mask
from minihf.nn.positions import StaticPositions, positions_after
from minihf.nn.words import predict_words

LARGEST_HALF = torch.finfo(torch.float16).max - 1000


@dataclass(init=False)
class PegasusConfig(Config):
    model_type: ClassVar[str] = "pegasus"
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
        "initializer_range": "init_std",
    }

    vocab_size: int = 50265
    max_position_embeddings: int = 1024
    d_model: int = 1024
    encoder_layers: int = 12
    encoder_ffn_dim: int = 4096
    """The width between the two linear layers."""
    encoder_attention_heads: int = 16
    decoder_layers: int = 12
    decoder_ffn_dim: int = 4096
    decoder_attention_heads: int = 16
    activation_function: str = "gelu"
    dropout: float = 0.1
    """Of embeddings, and of what each sublayer adds."""
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    encoder_layerdrop: float = 0.0
    """In training, a layer is left out with this probability (LayerDrop, arXiv 1909.11556)."""
    decoder_layerdrop: float = 0.0
    init_std: float = 0.02
    scale_embedding: bool = False
    """Token embeddings are multiplied by sqrt(C); published checkpoints have True."""
    use_cache: bool = True
    is_encoder_decoder: bool = True
    is_decoder: bool = False
    decoder_start_token_id: int | None = 0
    pad_token_id: int | None = 0
    bos_token_id: int | None = None
    eos_token_id: int | list | None = 1
    forced_eos_token_id: int | list | None = 1

    def check(self) -> None:
        self.require_sizes("vocab_size", "max_position_embeddings", "d_model")
        self.require_sizes("encoder_attention_heads", "encoder_ffn_dim", "decoder_attention_heads", "decoder_ffn_dim")
        self.require_layers("encoder_layers", "decoder_layers")
        self.require_multiple("d_model", of="encoder_attention_heads")
        self.require_multiple("d_model", of="decoder_attention_heads")
        self.require_probabilities("dropout", "attention_dropout", "activation_dropout")
        self.require_probabilities("encoder_layerdrop", "decoder_layerdrop")
        self.require_magnitudes("init_std")
        self.require_token_ids("pad_token_id")
        self.require_choice("activation_function", ACTIVATIONS)
        self.require_choice("static_position_embeddings", [True])
        self.require_choice("normalize_before", [True])


class PegasusAttention(nn.Module):
    """Of its own tokens, or, with `context`, of a decoder's tokens to an encoder's output."""

    def __init__(self, config: PegasusConfig, heads: int, layer: int, *, causal: bool = False):
        super().__init__()
        self.config, self.heads, self.layer, self.causal = config, heads, layer, causal
        self.k_proj = Linear(config.d_model, config.d_model)
        self.v_proj = Linear(config.d_model, config.d_model)
        self.q_proj = Linear(config.d_model, config.d_model)
        self.out_proj = Linear(config.d_model, config.d_model)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        cache: Cache | None = None,
        context: Tensor | None = None,
        impl: str | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        q = split_heads(self.q_proj(x), self.heads)  # (B, T, C) -> (B, H, T, D)
        if context is not None and cache is not None and self.layer in cache.cross:
            k, v = cache.cross[self.layer]
        else:
            source = x if context is None else context
            k, v = (split_heads(W(source), self.heads) for W in (self.k_proj, self.v_proj))  # (B, H, K, D) each
            if context is not None and cache is not None:
                cache.cross[self.layer] = k, v
            elif cache is not None:
                k, v = cache.update(self.layer, k, v)
        dropout = self.config.attention_dropout if self.training else 0.0
        impl = impl or self.config.attn_implementation
        x, weights = attend(q, k, v, mask, causal=self.causal, dropout=dropout, impl=impl)
        return self.out_proj(merge_heads(x)), weights


class PegasusEncoderLayer(nn.Module):
    def __init__(self, config: PegasusConfig, layer: int):
        super().__init__()
        self.self_attn = PegasusAttention(config, config.encoder_attention_heads, layer)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = Linear(config.d_model, config.encoder_ffn_dim)
        self.fc2 = Linear(config.encoder_ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)
        self.activation = ACTIVATIONS[config.activation_function]
        self.dropout, self.activation_dropout = Dropout(config.dropout), Dropout(config.activation_dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.dropout(self.self_attn(self.self_attn_layer_norm(x), mask)[0])
        inner = self.activation_dropout(self.activation(self.fc1(self.final_layer_norm(x))))
        x = x + self.dropout(self.fc2(inner))
        if x.dtype == torch.float16:  # which ends at 65504; the straight path meets no norm before its end
            x = x.clamp(-LARGEST_HALF, LARGEST_HALF)
        return x


class PegasusDecoderLayer(nn.Module):
    def __init__(self, config: PegasusConfig, layer: int):
        super().__init__()
        self.self_attn = PegasusAttention(config, config.decoder_attention_heads, layer, causal=True)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.encoder_attn = PegasusAttention(config, config.decoder_attention_heads, layer)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = Linear(config.d_model, config.decoder_ffn_dim)
        self.fc2 = Linear(config.decoder_ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)
        self.activation = ACTIVATIONS[config.activation_function]
        self.dropout, self.activation_dropout = Dropout(config.dropout), Dropout(config.activation_dropout)

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
            seen = self.encoder_attn(self.encoder_attn_layer_norm(x), context_mask, cache, context)[0]
            x = x + self.dropout(seen)
        inner = self.activation_dropout(self.activation(self.fc1(self.final_layer_norm(x))))
        return x + self.dropout(self.fc2(inner))


class PegasusEncoder(nn.Module):
    def __init__(self, config: PegasusConfig):
        super().__init__()
        self.config = config
        self.scale = config.d_model**0.5 if config.scale_embedding else 1.0
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model, padding_idx=config.pad_token_id)
        self.embed_positions = StaticPositions(config.max_position_embeddings, config.d_model)
        self.layers = nn.ModuleList(PegasusEncoderLayer(config, i) for i in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(config.d_model)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> BaseModelOutput:
        """inputs_embeds: (B, S, C), taken as they are; the embeddings of `input_ids` (B, S) are scaled."""
        B, S = check_batch(input_ids, inputs_embeds)
        check_length(S, self.config.max_position_embeddings)
        x = self.scale * self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds  # (B, S, C)
        mask = encoder_mask(attention_mask, (B, self.config.encoder_attention_heads, S, S), dtype=x.dtype)
        positions = positions_after(None, S, x.device)
        x = self.dropout(x + self.embed_positions(positions).to(x))
        for layer in self.layers:
            if not left_out(layer, self.config.encoder_layerdrop):
                x = layer(x, mask)
        return BaseModelOutput(self.layer_norm(x))


class PegasusDecoder(nn.Module):
    def __init__(self, config: PegasusConfig):
        super().__init__()
        self.config = config
        self.scale = config.d_model**0.5 if config.scale_embedding else 1.0
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model, padding_idx=config.pad_token_id)
        self.embed_positions = StaticPositions(config.max_position_embeddings, config.d_model)
        self.layers = nn.ModuleList(PegasusDecoderLayer(config, i) for i in range(config.decoder_layers))
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
        """
        Args:
            input_ids: (B, T). Or `inputs_embeds` (B, T, C), which are scaled, too.
            attention_mask: 1 = real, 0 = padding, (B, K), the cached tokens included; or a ready 4-D mask.
            encoder_hidden_states, encoder_attention_mask: (B, S, C) and (B, S); None: the layers do without.
            past_key_values: what it keeps of earlier tokens, and of the encoder's output; `input_ids` are then the new
                ones.
            use_cache: make and return `past_key_values`; None: as the config says.
        """
        B, T = check_batch(input_ids, inputs_embeds)
        use_cache = self.config.use_cache if use_cache is None else use_cache
        cache = Cache() if use_cache and past_key_values is None else past_key_values
        past = cache.length if cache is not None else 0
        check_length(past + T, self.config.max_position_embeddings)

        x = self.scale * (self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds)  # (B, T, C)
        heads, context_mask = self.config.decoder_attention_heads, None
        mask = decoder_mask(attention_mask, (B, heads, T, past + T), dtype=x.dtype)
        if encoder_hidden_states is not None:
            scores = B, heads, T, encoder_hidden_states.shape[1]
            context_mask = encoder_mask(encoder_attention_mask, scores, dtype=x.dtype)
        positions = positions_after(cache, T, x.device)
        x = self.dropout(x + self.embed_positions(positions).to(x))
        for layer in self.layers:
            if not left_out(layer, self.config.decoder_layerdrop):
                x = layer(x, mask, cache, encoder_hidden_states, context_mask)
        return BaseModelOutput(self.layer_norm(x), past_key_values=cache if use_cache else None)


class PegasusPreTrainedModel(Model):
    config_class = PegasusConfig
    base_model_prefix = "model"
    heads = ("lm_head", "final_logits_bias")
    recorded: ClassVar = {
        "encoder_hidden_states": "encoder.layers.*",
        "encoder_attentions": "encoder.layers.*.self_attn",
        "decoder_hidden_states": "decoder.layers.*",
        "decoder_attentions": "decoder.layers.*.self_attn",
        "cross_attentions": "decoder.layers.*.encoder_attn",
    }

    @property
    def position_limit(self) -> int:
        return self.config.max_position_embeddings

    @property
    def input_embeddings(self) -> str:
        return "shared" if self.config.tie_word_embeddings else "encoder.embed_tokens"

    def get_encoder(self) -> PegasusEncoder:
        return self.base_model.encoder

    def get_decoder(self) -> PegasusDecoder:
        return self.base_model.decoder


class PegasusModel(PegasusPreTrainedModel):
    """Encoder and decoder: `last_hidden_state` (B, T, C), of the decoder."""

    tied: ClassVar = dict.fromkeys(("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"), "shared.weight")

    def __init__(self, config: PegasusConfig):
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model, padding_idx=config.pad_token_id)
        self.encoder = PegasusEncoder(config)
        self.decoder = PegasusDecoder(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
    ) -> Seq2SeqModelOutput:
        """
        Args:
            input_ids: the text (B, S). Or `inputs_embeds` (B, S, C), which are not scaled.
            attention_mask: 1 = real, 0 = padding, of the text (B, S); or a ready 4-D mask.
            decoder_input_ids: the summary so far (B, T), from `decoder_start_token_id` on. Or
                `decoder_inputs_embeds` (B, T, C), which are scaled.
            decoder_attention_mask: likewise, of the summary, the cached tokens included (B, K).
            encoder_outputs: of an earlier call of the encoder, which is then not called again: a `BaseModelOutput`, or
                a tuple that begins with its `last_hidden_state`.
            past_key_values: what the decoder keeps of earlier tokens, and of the encoder's output.
            use_cache: make and return `past_key_values`; None: as the config says.
        """
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            raise ValueError(
                f"{type(self).__name__} reads decoder_input_ids (or decoder_inputs_embeds) besides the text: begin "
                "with config.decoder_start_token_id. With labels, a model with a head makes them"
            )
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_ids, attention_mask, inputs_embeds)
        read = encoder_output(encoder_outputs)
        x = self.decoder(
            decoder_input_ids, decoder_attention_mask, read.last_hidden_state, attention_mask, past_key_values,
            decoder_inputs_embeds, use_cache
        )
        return Seq2SeqModelOutput(
            x.last_hidden_state,
            x.past_key_values,
            encoder_last_hidden_state=read.last_hidden_state,
            encoder_hidden_states=read.hidden_states,
            encoder_attentions=read.attentions,
        )


class PegasusForConditionalGeneration(PegasusPreTrainedModel):
    """Which token of the summary comes next? The output layer is the token embeddings, read the other way."""

    tied: ClassVar = dict.fromkeys(
        ("lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"),
        "model.shared.weight",
    )
    output_embeddings = "lm_head"
    can_generate = True

    def __init__(self, config: PegasusConfig):
        super().__init__(config)
        self.model = PegasusModel(config)
        self.register_buffer("final_logits_bias", torch.zeros(1, config.vocab_size))  # saved, but not learned
        self.lm_head = Linear(config.d_model, config.vocab_size, bias=False)
        self.post_init()

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """What the decoder reads to write the labels: (B, T) -> (B, T)."""
        return shift_right(labels, self.config.decoder_start_token_id, self.config.pad_token_id)

    def forward(
        self, input_ids=None, attention_mask=None, decoder_input_ids=None, decoder_attention_mask=None,
        encoder_outputs=None, past_key_values=None, inputs_embeds=None, decoder_inputs_embeds=None, labels=None,
        use_cache=None, num_items_in_batch=None
    ) -> Seq2SeqLMOutput:
        """labels: the summary (B, T), or -100 where it counts for nothing; decoder ids are made of it if absent."""
        if labels is not None:
            use_cache = False  # nothing will follow
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        x = self.model(
            input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, encoder_outputs, past_key_values,
            inputs_embeds, decoder_inputs_embeds, use_cache
        )
        state, bias = x.last_hidden_state, self.final_logits_bias
        loss, logits = predict_words(self.lm_head, state, labels, num_items_in_batch, bias=bias)
        return Seq2SeqLMOutput(loss, logits, *x.rest())


class PegasusDecoderAlone(PegasusPreTrainedModel):
    """The base of `PegasusForCausalLM`: a level in the names of its parameters, as if there were an encoder beside."""

    input_embeddings = "decoder.embed_tokens"
    recorded: ClassVar = {
        "hidden_states": "decoder.layers.*",
        "attentions": "decoder.layers.*.self_attn",
        "cross_attentions": "decoder.layers.*.encoder_attn",
    }

    def __init__(self, config: PegasusConfig):
        super().__init__(config)
        self.decoder = PegasusDecoder(config)
        self.post_init()

    def forward(self, *args) -> BaseModelOutput:
        return self.decoder(*args)


class PegasusForCausalLM(PegasusPreTrainedModel):
    """The decoder alone, a language model."""

    tied: ClassVar = {"lm_head.weight": "model.decoder.embed_tokens.weight"}
    # A summarizer's file holds more, and its embeddings under the name that both sides share.
    heads = (*PegasusPreTrainedModel.heads, "encoder", "shared")
    aliases: ClassVar = {"model.shared.weight": "model.decoder.embed_tokens.weight"}
    input_embeddings = PegasusDecoderAlone.input_embeddings
    output_embeddings = "lm_head"
    can_generate = True

    def __init__(self, config: PegasusConfig):
        config = copy.copy(config)  # the caller's may be a summarizer's
        config.is_decoder, config.is_encoder_decoder = True, False
        super().__init__(config)
        self.model = PegasusDecoderAlone(config)
        self.lm_head = Linear(config.d_model, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, encoder_hidden_states=None, encoder_attention_mask=None,
        past_key_values=None, inputs_embeds=None, labels=None, use_cache=None, logits_to_keep=0,
        num_items_in_batch=None
    ) -> CausalLMOutput:
        """labels: (B, T), compared with the logits of the same place: shifted by the caller, as in the reference."""
        x = self.model(
            input_ids, attention_mask, encoder_hidden_states, encoder_attention_mask, past_key_values, inputs_embeds,
            use_cache
        )
        state = last_tokens(x.last_hidden_state, logits_to_keep)
        return CausalLMOutput(*predict_words(self.lm_head, state, labels, num_items_in_batch), x.past_key_values)
