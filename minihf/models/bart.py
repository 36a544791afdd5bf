"""BART (arXiv 1910.13461): an encoder reads a damaged text; a decoder, looking at what it read, writes the whole one.

What is special: the decoder's layers have a third sublayer, whose queries are the decoder's and whose keys and values
are the encoder's output; each sublayer is followed by its norm ("post-norm"); one table of embeddings serves encoder,
decoder and output layer; the first two rows of the position tables are used by nobody.

    encoder   x ──┬─ attention ─(+)─ LayerNorm ──┬─ two linear layers ─(+)─ LayerNorm ── next layer
                  └──────────────┘               └─────────────────────┘
    decoder   the same, with attention to the encoder's output, and its norm, in between
"""

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minihf.models.base import Model
from minihf.models.config import Config
from minihf.models.inputs import at_last_end, check_batch, check_length, last_tokens, shift_right
from minihf.models.outputs import (
    BaseModelOutput,
    CausalLMOutput,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
    Seq2SeqQuestionAnsweringOutput,
    Seq2SeqSequenceClassifierOutput,
    encoder_output,
)
from minihf.nn.activations import ACTIVATIONS
from minihf.nn.attention import attend, merge_heads, split_heads
from minihf.nn.cache import Cache
from minihf.nn.dropout import Dropout, left_out
from minihf.nn.linear import Linear
from minihf.nn.losses import classification_loss, span_loss
from minihf.nn.masks import decoder_mask, encoder_mask
from minihf.nn.positions import positions_after
from minihf.nn.words import predict_words

UNUSED_POSITIONS = 2  # fairseq counted positions from the id after its pad token's, which is 1


@dataclass(init=False)
class BartConfig(Config):
    model_type: ClassVar[str] = "bart"
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model",
        "initializer_range": "init_std",
        "num_attention_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
    }
    usual_labels: ClassVar[int] = 3

    vocab_size: int = 50265
    max_position_embeddings: int = 1024
    encoder_layers: int = 12
    encoder_ffn_dim: int = 4096
    encoder_attention_heads: int = 16
    decoder_layers: int = 12
    decoder_ffn_dim: int = 4096
    decoder_attention_heads: int = 16
    encoder_layerdrop: float = 0.0
    """In training, the probability that a layer is passed by."""
    decoder_layerdrop: float = 0.0
    activation_function: str = "gelu"
    d_model: int = 1024
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    """Between the two linear layers."""
    init_std: float = 0.02
    classifier_dropout: float = 0.0
    scale_embedding: bool = False
    """Multiply token embeddings by sqrt(d_model)."""
    use_cache: bool = True
    """The decoder returns the keys and values of its tokens, and of the encoder's output."""
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list | None = 2
    is_encoder_decoder: bool = True
    decoder_start_token_id: int | None = 2
    """What the decoder reads first."""
    forced_eos_token_id: int | list | None = 2
    is_decoder: bool = False
    """The decoder alone, a language model."""

    def check(self) -> None:
        self.require_sizes("vocab_size", "max_position_embeddings", "d_model", "encoder_ffn_dim", "decoder_ffn_dim")
        self.require_sizes("encoder_attention_heads", "decoder_attention_heads")
        self.require_layers("encoder_layers", "decoder_layers")
        self.require_multiple("d_model", of="encoder_attention_heads")
        self.require_multiple("d_model", of="decoder_attention_heads")
        self.require_probabilities("dropout", "attention_dropout", "activation_dropout", "classifier_dropout")
        self.require_probabilities("encoder_layerdrop", "decoder_layerdrop")
        self.require_magnitudes("init_std")
        self.require_token_ids("pad_token_id")
        self.require_choice("activation_function", ACTIVATIONS)


class BartScaledWordEmbedding(nn.Embedding):
    def __init__(self, config: BartConfig):
        super().__init__(config.vocab_size, config.d_model, padding_idx=config.pad_token_id)
        self.scale = config.d_model**0.5 if config.scale_embedding else 1.0

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight, self.padding_idx) * self.scale  # (B, T) -> (B, T, C)


class BartLearnedPositionalEmbedding(nn.Embedding):
    def __init__(self, config: BartConfig):
        super().__init__(config.max_position_embeddings + UNUSED_POSITIONS, config.d_model)

    def forward(self, positions: Tensor) -> Tensor:
        """(T,) -> (1, T, C)"""
        return F.embedding(positions + UNUSED_POSITIONS, self.weight)[None]


class BartAttention(nn.Module):
    """Of its own tokens, or, with `context`, of the decoder's tokens to the encoder's output."""

    def __init__(self, config: BartConfig, heads: int, layer: int, *, causal: bool = False):
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
        q = split_heads(self.q_proj(x), self.heads)
        if context is None:
            k, v = split_heads(self.k_proj(x), self.heads), split_heads(self.v_proj(x), self.heads)
            if cache is not None:
                k, v = cache.update(self.layer, k, v)
        elif cache is not None and self.layer in cache.cross:
            k, v = cache.cross[self.layer]
        else:
            k, v = split_heads(self.k_proj(context), self.heads), split_heads(self.v_proj(context), self.heads)
            if cache is not None:
                cache.cross[self.layer] = k, v
        dropout = self.config.attention_dropout if self.training else 0.0
        impl = impl or self.config.attn_implementation
        x, weights = attend(q, k, v, mask, causal=self.causal, dropout=dropout, impl=impl)
        return self.out_proj(merge_heads(x)), weights


class BartEncoderLayer(nn.Module):
    def __init__(self, config: BartConfig, layer: int):
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
        x = self.self_attn_layer_norm(x + self.dropout(self.self_attn(x, mask)[0]))
        h = self.activation_dropout(self.activation(self.fc1(x)))
        return finite(self.final_layer_norm(x + self.dropout(self.fc2(h))))


def finite(x: Tensor) -> Tensor:
    """float16 ends at 65504: the published large models pass it in a few places, and are brought back below."""
    if x.dtype != torch.float16 or x.isfinite().all():
        return x
    limit = torch.finfo(x.dtype).max - 1000
    return x.clamp(-limit, limit)


class BartDecoderLayer(nn.Module):
    def __init__(self, config: BartConfig, layer: int):
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
        x = self.self_attn_layer_norm(x + self.dropout(self.self_attn(x, mask, cache)[0]))
        if context is not None:
            a, _ = self.encoder_attn(x, context_mask, cache, context)
            x = self.encoder_attn_layer_norm(x + self.dropout(a))
        h = self.activation_dropout(self.activation(self.fc1(x)))
        return self.final_layer_norm(x + self.dropout(self.fc2(h)))


class BartEncoder(nn.Module):
    def __init__(self, config: BartConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = BartScaledWordEmbedding(config)
        self.embed_positions = BartLearnedPositionalEmbedding(config)
        self.layers = nn.ModuleList(BartEncoderLayer(config, i) for i in range(config.encoder_layers))
        self.layernorm_embedding = nn.LayerNorm(config.d_model)
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
        return BaseModelOutput(x)


class BartDecoder(nn.Module):
    def __init__(self, config: BartConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = BartScaledWordEmbedding(config)
        self.embed_positions = BartLearnedPositionalEmbedding(config)
        self.layers = nn.ModuleList(BartDecoderLayer(config, i) for i in range(config.decoder_layers))
        self.layernorm_embedding = nn.LayerNorm(config.d_model)
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
            input_ids: (B, T). Or `inputs_embeds` (B, T, C): token embeddings made elsewhere, scaled.
            attention_mask: 1 = real, 0 = padding, (B, K), the cached tokens included; or a ready 4-D mask.
            encoder_hidden_states, encoder_attention_mask: what the encoder gave, (B, S, C) and (B, S). None: the layers
                leave out their attention to it.
            past_key_values: what it keeps of earlier tokens, and of the encoder's output.
            use_cache: make and return `past_key_values`; None: as the config says.
        """
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
        return BaseModelOutput(x, past_key_values=cache if use_cache else None)


class BartPreTrainedModel(Model):
    config_class = BartConfig
    base_model_prefix = "model"
    heads = ("lm_head", "final_logits_bias", "classification_head", "qa_outputs")
    input_embeddings = "shared"
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

    def get_encoder(self) -> nn.Module:
        return self.base_model.encoder

    def get_decoder(self) -> nn.Module:
        return self.base_model.decoder

    def shifted(self, ids: Tensor) -> Tensor:
        """What the decoder has read when it is to write each of the ids: (B, T) -> (B, T)."""
        return shift_right(ids, self.config.decoder_start_token_id, self.config.pad_token_id)


class BartModel(BartPreTrainedModel):
    """Encoder and decoder: `last_hidden_state` (B, T, C) is the decoder's."""

    tied: ClassVar = {
        "encoder.embed_tokens.weight": "shared.weight",
        "decoder.embed_tokens.weight": "shared.weight",
    }

    def __init__(self, config: BartConfig):
        super().__init__(config)
        self.shared = BartScaledWordEmbedding(config)
        self.encoder = BartEncoder(config)
        self.decoder = BartDecoder(config)
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
            input_ids: the encoder's, (B, S). Or `inputs_embeds` (B, S, C): token embeddings made elsewhere, scaled.
            attention_mask: 1 = real, 0 = padding, (B, S), for the encoder and for the decoder's look at it.
            decoder_input_ids: (B, T), or `decoder_inputs_embeds` (B, T, C). None: `input_ids` shifted by one place, as
                in the paper's training, where the decoder writes what the encoder should have read.
            decoder_attention_mask: (B, K), the cached tokens included. None: all are real.
            encoder_outputs: what the encoder gave before, so that it is not called: its output, or (state (B, S, C),).
            past_key_values: what the decoder keeps of earlier tokens, and of the encoder's output.
            use_cache: make and return `past_key_values`; None: as the config says.
        """
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            if input_ids is None:
                raise ValueError("nothing for the decoder to read: pass decoder_input_ids or decoder_inputs_embeds")
            decoder_input_ids = self.shifted(input_ids)
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_ids, attention_mask, inputs_embeds)
        encoded = encoder_output(encoder_outputs)
        x = self.decoder(
            decoder_input_ids, decoder_attention_mask, encoded.last_hidden_state, attention_mask, past_key_values,
            decoder_inputs_embeds, use_cache
        )
        return Seq2SeqModelOutput(
            x.last_hidden_state,
            x.past_key_values,
            encoder_last_hidden_state=encoded.last_hidden_state,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
        )


class BartForConditionalGeneration(BartPreTrainedModel):
    """Which token comes next, given a text? Summaries and translations are written with it. Logits (B, T, V)."""

    tied: ClassVar = {
        "lm_head.weight": "model.shared.weight",
        "model.encoder.embed_tokens.weight": "model.shared.weight",
        "model.decoder.embed_tokens.weight": "model.shared.weight",
    }
    output_embeddings = "lm_head"
    can_generate = True

    def __init__(self, config: BartConfig):
        super().__init__(config)
        self.model = BartModel(config)
        self.register_buffer("final_logits_bias", torch.zeros(1, config.vocab_size))  # not learned, but in the files
        self.lm_head = Linear(config.d_model, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, decoder_input_ids=None, decoder_attention_mask=None,
        encoder_outputs=None, past_key_values=None, inputs_embeds=None, decoder_inputs_embeds=None, labels=None,
        use_cache=None, num_items_in_batch=None
    ) -> Seq2SeqLMOutput:
        """labels: (B, T), the decoder's text, or -100; without `decoder_input_ids`, these are the labels shifted."""
        if labels is not None:
            use_cache = False
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        x = self.model(
            input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, encoder_outputs, past_key_values,
            inputs_embeds, decoder_inputs_embeds, use_cache
        )
        state, bias = x.last_hidden_state, self.final_logits_bias
        loss, logits = predict_words(self.lm_head, state, labels, num_items_in_batch, bias=bias)
        return Seq2SeqLMOutput(loss, logits, *x.rest())

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """What the decoder reads to write the labels: (B, T) -> (B, T)."""
        return self.shifted(labels)


class BartClassificationHead(nn.Module):
    def __init__(self, config: BartConfig):
        super().__init__()
        self.dense = Linear(config.d_model, config.d_model)
        self.dropout = Dropout(config.classifier_dropout)
        self.out_proj = Linear(config.d_model, config.num_labels)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_proj(self.dropout(torch.tanh(self.dense(self.dropout(x)))))  # (B, C) -> (B, N)


class BartForSequenceClassification(BartPreTrainedModel):
    """One answer a text. Encoder and decoder both read it; the answer is read from the decoder's last end token."""

    tied: ClassVar = {"model." + target: "model." + source for target, source in BartModel.tied.items()}

    def __init__(self, config: BartConfig):
        super().__init__(config)
        self.model = BartModel(config)
        self.classification_head = BartClassificationHead(config)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, decoder_input_ids=None, decoder_attention_mask=None,
        encoder_outputs=None, inputs_embeds=None, decoder_inputs_embeds=None, labels=None, use_cache=None
    ) -> Seq2SeqSequenceClassifierOutput:
        """labels: (B,) classes, (B, N) floats for several classes a text, (B,) floats for a number."""
        if input_ids is None:
            raise ValueError("pass input_ids: the answer is read at the place of their last end token")
        x = self.model(
            input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, encoder_outputs, None, inputs_embeds,
            decoder_inputs_embeds, use_cache if labels is None else False
        )
        logits = self.classification_head(at_last_end(x.last_hidden_state, input_ids, self.config.eos_token_id))
        loss = classification_loss(logits, labels, self.config.problem_type)
        return Seq2SeqSequenceClassifierOutput(loss, logits, *x.rest())


class BartForQuestionAnswering(BartPreTrainedModel):
    """Where in the text does the answer begin, and where does it end? Two logits for each token of the decoder."""

    tied = BartForSequenceClassification.tied

    def __init__(self, config: BartConfig):
        super().__init__(config)
        self.model = BartModel(config)
        self.qa_outputs = Linear(config.d_model, 2)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, decoder_input_ids=None, decoder_attention_mask=None,
        encoder_outputs=None, start_positions=None, end_positions=None, inputs_embeds=None, decoder_inputs_embeds=None,
        use_cache=None
    ) -> Seq2SeqQuestionAnsweringOutput:
        """start_positions, end_positions: (B,), of the answer's first and last token; outside the text: no answer."""
        trains = start_positions is not None and end_positions is not None
        x = self.model(
            input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, encoder_outputs, None, inputs_embeds,
            decoder_inputs_embeds, False if trains else use_cache
        )
        start, end = self.qa_outputs(x.last_hidden_state).unbind(-1)  # (B, T, 2) -> (B, T), (B, T)
        loss = span_loss(start, end, start_positions, end_positions)
        return Seq2SeqQuestionAnsweringOutput(loss, start, end, *x.rest())


class BartDecoderWrapper(BartPreTrainedModel):
    """The decoder, at the path that it has in the whole model."""

    input_embeddings = "decoder.embed_tokens"
    recorded: ClassVar = {
        "hidden_states": "decoder.layers.*",
        "attentions": "decoder.layers.*.self_attn",
        "cross_attentions": "decoder.layers.*.encoder_attn",
    }

    def __init__(self, config: BartConfig):
        super().__init__(config)
        self.decoder = BartDecoder(config)
        self.post_init()

    def forward(self, *inputs) -> BaseModelOutput:
        return self.decoder(*inputs)


class BartForCausalLM(BartPreTrainedModel):
    """The decoder alone, with or without an encoder's output. Its config says `is_decoder`, in a copy of the caller's.

    It counts positions over padding too, as the reference does: pad texts on the right.
    """

    # A file of the whole model, which has the table under its shared name, holds what this one leaves.
    heads = (*BartPreTrainedModel.heads, "encoder", "shared")
    aliases: ClassVar = {"model.shared.weight": "model.decoder.embed_tokens.weight"}
    tied: ClassVar = {"lm_head.weight": "model.decoder.embed_tokens.weight"}
    input_embeddings = BartDecoderWrapper.input_embeddings
    output_embeddings = "lm_head"
    can_generate = True

    def __init__(self, config: BartConfig):
        config = copy.copy(config)
        config.is_decoder, config.is_encoder_decoder = True, False
        super().__init__(config)
        self.model = BartDecoderWrapper(config)
        self.lm_head = Linear(config.d_model, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, encoder_hidden_states=None, encoder_attention_mask=None,
        past_key_values=None, inputs_embeds=None, labels=None, use_cache=None, logits_to_keep=0,
        num_items_in_batch=None
    ) -> CausalLMOutput:
        """labels: (B, T), of the token *after* each of `input_ids`: not shifted here, unlike other language models'."""
        x = self.model(
            input_ids, attention_mask, encoder_hidden_states, encoder_attention_mask, past_key_values, inputs_embeds,
            use_cache
        )
        state = last_tokens(x.last_hidden_state, logits_to_keep)
        return CausalLMOutput(*predict_words(self.lm_head, state, labels, num_items_in_batch), x.past_key_values)
