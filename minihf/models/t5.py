"""T5 (arXiv 1910.10683): every task is text in, text out. An encoder reads the one, a decoder writes the other.

What is special:

- Positions are no vectors added to words, but numbers added to attention scores: one for each head and each range of
  distances, learned in the first block and used in all. Attention to the encoder's output has none.
- Products of queries and keys are not divided by sqrt(D): the first values of the queries' weights see to that.
- Norms have no mean and no bias; nor has any linear layer a bias, save those of the classification heads.
- A residual stream that nothing norms between the blocks, "pre-norm", with one norm at each end:

    x ──┬─ norm ─ attention ─(+)──┬─ norm ─ attention to the encoder ─(+)──┬─ norm ─ feed-forward ─(+)── next block
        └─────────────────────┘   └────────────────────────────────────┘   └───────────────────────┘

Version 1.1, mT5 and Flan-T5 have a gated feed-forward (arXiv 2002.05202), and an output layer of their own. In version
1.0 the output layer is the embeddings, and what it is given is multiplied with 1 / sqrt(C).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from minihf.models.base import Model
from minihf.models.config import Config
from minihf.models.inputs import at_last_end, check_batch, check_span_labels, shift_right
from minihf.models.outputs import (
    BaseModelOutput,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
    Seq2SeqQuestionAnsweringOutput,
    Seq2SeqSequenceClassifierOutput,
    TokenClassifierOutput,
    encoder_output,
)
from minihf.nn.activations import ACTIVATIONS
from minihf.nn.attention import attend, merge_heads, split_heads
from minihf.nn.cache import Cache
from minihf.nn.dropout import Dropout
from minihf.nn.linear import Linear
from minihf.nn.losses import classification_loss, cross_entropy, span_loss
from minihf.nn.masks import decoder_mask, encoder_mask
from minihf.nn.norms import RMSNorm
from minihf.nn.positions import distance_buckets
from minihf.nn.words import predict_words


@dataclass(init=False)
class T5Config(Config):
    model_type: ClassVar[str] = "t5"
    attribute_map: ClassVar = {
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "head_dim": "d_kv",
    }

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    """Channels of one head; heads times these need not be `d_model`."""
    d_ff: int = 2048
    num_layers: int = 6
    num_decoder_layers: int | None = None
    """None: as many as the encoder's, `num_layers`."""
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    """Into how many ranges distances are sorted; the encoder has half of them for either direction."""
    relative_attention_max_distance: int = 128
    """Farther tokens are all in the last range."""
    dropout_rate: float = 0.1
    layer_norm_epsilon: float = 1e-6
    initializer_factor: float = 1.0
    """Of all first values; 1 outside tests."""
    feed_forward_proj: str = "relu"
    """An activation, or "gated-" and an activation; "gated-gelu" means gelu_new."""
    dense_act_fn: str | None = None
    """None: the activation that `feed_forward_proj` names."""
    is_gated_act: bool | None = None
    """None: whether `feed_forward_proj` says so."""
    scale_decoder_outputs: bool | None = None
    """The output layer is given x / sqrt(C). None: if it is tied to the embeddings. Files before 2025 do not say it."""
    classifier_dropout: float = 0.0
    is_encoder_decoder: bool = True
    is_decoder: bool = False
    """Neither model nor file is one half alone; the reference's halves are told by it what they are."""
    use_cache: bool = True
    pad_token_id: int | None = 0
    eos_token_id: int | list | None = 1
    decoder_start_token_id: int | None = None
    """What the decoder reads first; None: `pad_token_id`."""

    def check(self) -> None:
        self.require_sizes("vocab_size", "d_model", "d_kv", "d_ff", "num_heads")
        if self.num_decoder_layers is None:
            self.num_decoder_layers = self.num_layers
        self.require_layers("num_layers", "num_decoder_layers")
        self.require_probabilities("dropout_rate", "classifier_dropout")
        self.require_magnitudes("layer_norm_epsilon", "initializer_factor")
        self.require_choice("is_decoder", [False])
        self.require_sizes("relative_attention_num_buckets", "relative_attention_max_distance")
        if self.relative_attention_num_buckets < 4:
            raise ValueError(
                f"relative_attention_num_buckets={self.relative_attention_num_buckets} makes no model: expected 4 or "
                "more, a near and a far one for either direction"
            )
        if self.relative_attention_max_distance <= self.relative_attention_num_buckets // 2:
            raise ValueError(
                f"relative_attention_max_distance={self.relative_attention_max_distance} makes no model: expected more "
                f"than {self.relative_attention_num_buckets // 2}, half of relative_attention_num_buckets"
            )
        gated, _, activation = self.feed_forward_proj.rpartition("-")
        if gated not in ("", "gated"):
            raise ValueError(
                f"feed_forward_proj={self.feed_forward_proj!r} is not implemented: expected an activation, such as "
                "'relu', or 'gated-' and one, such as 'gated-gelu'"
            )
        if self.dense_act_fn is None:
            self.dense_act_fn = "gelu_new" if self.feed_forward_proj == "gated-gelu" else activation
        if self.is_gated_act is None:
            self.is_gated_act = gated == "gated"
        self.require_choice("dense_act_fn", ACTIVATIONS)
        self.settle_head()
        if self.decoder_start_token_id is None:
            self.decoder_start_token_id = self.pad_token_id
        self.require_token_ids("pad_token_id", "decoder_start_token_id")

    def settle_head(self) -> None:
        if self.scale_decoder_outputs is None:
            self.scale_decoder_outputs = self.tie_word_embeddings


class T5LayerNorm(RMSNorm):
    """In a checkpoint read as float16, x is float32 behind the first `wo`; what goes into the next layers is not."""

    def forward(self, x: Tensor) -> Tensor:
        return RMSNorm.forward(self, x).to(self.weight.dtype)


class T5Attention(nn.Module):
    """Of its own tokens, or, with `context`, of the decoder's tokens to the encoder's output."""

    def __init__(self, config: T5Config, layer: int, *, causal: bool = False, has_bias: bool = False):
        super().__init__()
        self.config, self.layer, self.causal = config, layer, causal
        inner = config.num_heads * config.d_kv
        self.q = Linear(config.d_model, inner, bias=False)
        self.k = Linear(config.d_model, inner, bias=False)
        self.v = Linear(config.d_model, inner, bias=False)
        self.o = Linear(inner, config.d_model, bias=False)
        if has_bias:
            self.relative_attention_bias = nn.Embedding(config.relative_attention_num_buckets, config.num_heads)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        bias: Tensor | None = None,
        cache: Cache | None = None,
        context: Tensor | None = None,
        impl: str | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        heads = self.config.num_heads
        q = split_heads(self.q(x), heads)
        if context is None:
            k, v = split_heads(self.k(x), heads), split_heads(self.v(x), heads)
            if cache is not None:
                k, v = cache.update(self.layer, k, v)
        elif cache is not None and self.layer in cache.cross:
            k, v = cache.cross[self.layer]
        else:
            k, v = split_heads(self.k(context), heads), split_heads(self.v(context), heads)
            if cache is not None:
                cache.cross[self.layer] = k, v
        dropout = self.config.dropout_rate if self.training else 0.0
        impl = impl or self.config.attn_implementation
        x, weights = attend(q, k, v, mask, causal=self.causal, dropout=dropout, bias=bias, scale=1.0, impl=impl)
        return self.o(merge_heads(x)), weights


class T5FeedForward(nn.Module):
    def __init__(self, config: T5Config):
        super().__init__()
        self.gated = config.is_gated_act
        for name in ("wi_0", "wi_1") if self.gated else ("wi",):
            setattr(self, name, Linear(config.d_model, config.d_ff, bias=False))
        self.wo = Linear(config.d_ff, config.d_model, bias=False)
        self.dropout = Dropout(config.dropout_rate)
        self.activation = ACTIVATIONS[config.dense_act_fn]

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.wi_0(x)) * self.wi_1(x) if self.gated else self.activation(self.wi(x))
        return self.wo(self.dropout(x).to(self.wo.weight.dtype))  # float32 where a checkpoint is read as float16


class T5Block(nn.Module):
    """Two sublayers, in the decoder three: x + Dropout(f(RMSNorm(x)))."""

    def __init__(self, config: T5Config, layer: int, *, decoder: bool):
        super().__init__()
        kinds = {"SelfAttention": T5Attention(config, layer, causal=decoder, has_bias=layer == 0)}
        if decoder:
            kinds["EncDecAttention"] = T5Attention(config, layer)
        kinds["DenseReluDense"] = T5FeedForward(config)
        self.layer = nn.ModuleList()
        for name, f in kinds.items():
            norm = T5LayerNorm(config.d_model, config.layer_norm_epsilon)
            self.layer.append(nn.ModuleDict({name: f, "layer_norm": norm, "dropout": Dropout(config.dropout_rate)}))

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        bias: Tensor | None,
        cache: Cache | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        own, last = self.layer[0], self.layer[-1]
        a, _ = own["SelfAttention"](own["layer_norm"](x), mask, bias, cache)
        x = finite(x + own["dropout"](a))
        if context is not None:
            other = self.layer[1]
            a, _ = other["EncDecAttention"](other["layer_norm"](x), context_mask, None, cache, context)
            x = finite(x + other["dropout"](a))
        return finite(x + last["dropout"](last["DenseReluDense"](last["layer_norm"](x))))


def finite(x: Tensor) -> Tensor:
    """float16 ends at 65504, and a stream that nothing norms may pass it; that must not become NaN."""
    if x.dtype != torch.float16 or not x.isinf().any():
        return x
    limit = torch.finfo(x.dtype).max - 1000
    return x.clamp(-limit, limit)


class T5Stack(nn.Module):
    """The encoder, or the decoder: (B, T) ids, or (B, T, C) embeddings, to `last_hidden_state` (B, T, C)."""

    def __init__(self, config: T5Config, *, decoder: bool = False):
        super().__init__()
        self.config, self.is_decoder = config, decoder
        layers = config.num_decoder_layers if decoder else config.num_layers
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.block = nn.ModuleList(T5Block(config, i, decoder=decoder) for i in range(layers))
        self.final_layer_norm = T5LayerNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = Dropout(config.dropout_rate)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
    ) -> BaseModelOutput:
        """The last four are the decoder's; `T5Model` says what they are."""
        B, T = check_batch(input_ids, inputs_embeds)
        config, heads = self.config, self.config.num_heads
        use_cache = self.is_decoder and (config.use_cache if use_cache is None else use_cache)
        cache = Cache() if use_cache and past_key_values is None else past_key_values
        past = cache.length if cache is not None else 0

        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds  # (B, T, C)
        make_mask, context_mask = decoder_mask if self.is_decoder else encoder_mask, None
        mask = make_mask(attention_mask, (B, heads, T, past + T), dtype=x.dtype)
        if encoder_hidden_states is not None:
            scores = B, heads, T, encoder_hidden_states.shape[1]
            context_mask = encoder_mask(encoder_attention_mask, scores, dtype=x.dtype)
        bias = self.position_bias(T, past + T, x.device) if len(self.block) else None
        x = self.dropout(x)
        for block in self.block:
            x = block(x, mask, bias, cache, encoder_hidden_states, context_mask)
        x = self.dropout(self.final_layer_norm(x))
        return BaseModelOutput(x, past_key_values=cache if use_cache else None)

    def position_bias(self, queries: int, keys: int, device: torch.device) -> Tensor:
        """What each score is added: (1, H, Q, K). The last query stands at the last key."""
        places = torch.arange(keys, device=device)
        distances = places - places[keys - queries :, None]  # (Q, K), negative to the left
        buckets = distance_buckets(
            distances,
            self.config.relative_attention_num_buckets,
            self.config.relative_attention_max_distance,
            both_ways=not self.is_decoder,
        )
        table = self.block[0].layer[0]["SelfAttention"].relative_attention_bias
        return table(buckets).permute(2, 0, 1)[None]  # (Q, K, H) -> (1, H, Q, K)


class T5ClassificationHead(nn.Module):
    def __init__(self, config: T5Config):
        super().__init__()
        self.dense = Linear(config.d_model, config.d_model)
        self.dropout = Dropout(config.classifier_dropout)
        self.out_proj = Linear(config.d_model, config.num_labels)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.dense(self.dropout(x)))
        return self.out_proj(self.dropout(x))


def tied_to_shared(*names: str, prefix: str = "") -> dict[str, str]:
    """Each of these parameters is the one table of embeddings, `shared.weight`."""
    return {f"{prefix}{name}.weight": f"{prefix}shared.weight" for name in names}


class T5PreTrainedModel(Model):
    config_class = T5Config
    base_model_prefix = "transformer"
    heads = ("lm_head", "qa_outputs", "classification_head", "classifier")
    input_embeddings = "shared"
    kept_in_float32 = ("wo",)
    capturable = False  # a token's relative positions are as many as there are tokens before it
    tied: ClassVar = tied_to_shared("encoder.embed_tokens", "decoder.embed_tokens")
    recorded: ClassVar = {
        "encoder_hidden_states": "encoder.block.*",
        "encoder_attentions": "encoder.block.*.layer.0.SelfAttention",
        "decoder_hidden_states": "decoder.block.*",
        "decoder_attentions": "decoder.block.*.layer.0.SelfAttention",
        "cross_attentions": "decoder.block.*.layer.1.EncDecAttention",
    }

    def ties(self) -> dict[str, str]:
        """`tie_word_embeddings` is about the output layer; encoder and decoder always share their embeddings."""
        tie = self.config.tie_word_embeddings
        return {target: source for target, source in self.tied.items() if tie or target != "lm_head.weight"}

    def shifted(self, ids: Tensor) -> Tensor:
        """What the decoder has read when it is to write each of the ids."""
        return shift_right(ids, self.config.decoder_start_token_id, self.config.pad_token_id)

    def init_weights(self, module: nn.Module) -> None:
        """As in the authors' code (Mesh TensorFlow): the queries' small ones stand for the scale that products lack."""
        factor, C = self.config.initializer_factor, self.config.d_model
        stds = {}
        if isinstance(module, T5Attention):
            inner = self.config.num_heads * self.config.d_kv
            stds = {"q": (C * self.config.d_kv) ** -0.5, "k": C**-0.5, "v": C**-0.5, "o": inner**-0.5}
            stds["relative_attention_bias"] = C**-0.5
        elif isinstance(module, T5FeedForward):
            stds = {"wi": C**-0.5, "wi_0": C**-0.5, "wi_1": C**-0.5, "wo": self.config.d_ff**-0.5}
        elif isinstance(module, T5ClassificationHead):
            stds = {"dense": C**-0.5, "out_proj": C**-0.5}
        elif isinstance(module, T5PreTrainedModel):
            stds = {"shared": 1.0, "lm_head": 1.0, "qa_outputs": C**-0.5, "classifier": 1.0}
        elif isinstance(module, T5LayerNorm):
            nn.init.constant_(module.weight, factor)
        for name, std in stds.items():
            if hasattr(module, name):
                layer = getattr(module, name)
                nn.init.normal_(layer.weight, std=factor * std)
                if getattr(layer, "bias", None) is not None:
                    nn.init.zeros_(layer.bias)


class T5Pair(T5PreTrainedModel):
    """Encoder and decoder over one table of embeddings. In most of T5's checkpoints these stand beside the head, not
    inside a base model with a name of its own; so each class that has them is one of these."""

    def __init__(self, config: T5Config):
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = T5Stack(config)
        self.decoder = T5Stack(config, decoder=True)

    def get_encoder(self) -> T5Stack:
        return self.encoder

    def get_decoder(self) -> T5Stack:
        return self.decoder

    def run(
        self, input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, encoder_outputs, past_key_values,
        inputs_embeds, decoder_inputs_embeds, use_cache
    ) -> Seq2SeqModelOutput:
        """`T5Model.forward`, for each class that begins so."""
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            raise ValueError(
                f"{type(self).__name__} reads decoder_input_ids (or decoder_inputs_embeds) besides the encoder's text: "
                "begin with config.decoder_start_token_id. With labels, a language model makes them"
            )
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_ids, attention_mask, inputs_embeds)
        encoded = encoder_output(encoder_outputs)
        x = self.decoder(
            decoder_input_ids, decoder_attention_mask, decoder_inputs_embeds, encoded.last_hidden_state, attention_mask,
            past_key_values, use_cache
        )
        return Seq2SeqModelOutput(
            x.last_hidden_state,
            x.past_key_values,
            encoder_last_hidden_state=encoded.last_hidden_state,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
        )


class T5Model(T5Pair):
    """Encoder and decoder: `last_hidden_state` (B, T, C), of the decoder."""

    def __init__(self, config: T5Config):
        super().__init__(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple[Tensor, ...] | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
    ) -> Seq2SeqModelOutput:
        """
        Args:
            input_ids: what the encoder reads, (B, S). Or `inputs_embeds` (B, S, C).
            attention_mask: 1 = real, 0 = padding, (B, S); or a ready 4-D mask. Padding on either side shifts nothing.
            decoder_input_ids: what has been written so far, (B, T), from `decoder_start_token_id` on; with a cache the
                new tokens. Or `decoder_inputs_embeds` (B, T, C).
            decoder_attention_mask: likewise, of the decoder, the cached tokens included (B, K).
            encoder_outputs: of an earlier call of the encoder, which is then not called again: a `BaseModelOutput`, or
                a tuple that begins with its `last_hidden_state`.
            past_key_values: what the decoder keeps of earlier tokens, and of the encoder's output.
            use_cache: make and return `past_key_values`; None: as the config says.
        """
        return self.run(
            input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, encoder_outputs, past_key_values,
            inputs_embeds, decoder_inputs_embeds, use_cache
        )


class T5ForConditionalGeneration(T5Pair):
    """Which token comes next in the text that answers the encoder's?"""

    tied: ClassVar = tied_to_shared("encoder.embed_tokens", "decoder.embed_tokens", "lm_head")
    output_embeddings = "lm_head"
    can_generate = True

    def __init__(self, config: T5Config):
        super().__init__(config)
        self.lm_head = Linear(config.d_model, config.vocab_size, bias=False)
        self.post_init()

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        return self.shifted(labels)

    def forward(
        self, input_ids=None, attention_mask=None, decoder_input_ids=None, decoder_attention_mask=None,
        encoder_outputs=None, past_key_values=None, inputs_embeds=None, decoder_inputs_embeds=None, labels=None,
        use_cache=None, num_items_in_batch=None
    ) -> Seq2SeqLMOutput:
        """labels: the answer (B, T), or -100 where it counts for nothing; decoder ids are made of it if absent."""
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.shifted(labels)
        x = self.run(
            input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, encoder_outputs, past_key_values,
            inputs_embeds, decoder_inputs_embeds, use_cache
        )
        state = x.last_hidden_state
        if self.config.scale_decoder_outputs:
            state = state * self.config.d_model**-0.5
        loss, logits = predict_words(self.lm_head, state, labels, num_items_in_batch)
        return Seq2SeqLMOutput(loss, logits, *x.rest())


class T5EncoderModel(T5PreTrainedModel):
    """The encoder alone: `last_hidden_state` (B, T, C)."""

    heads = (*T5PreTrainedModel.heads, "decoder")
    tied: ClassVar = tied_to_shared("encoder.embed_tokens")
    recorded: ClassVar = {"hidden_states": "encoder.block.*", "attentions": "encoder.block.*.layer.0.SelfAttention"}

    def __init__(self, config: T5Config):
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = T5Stack(config)
        self.post_init()

    def get_encoder(self) -> T5Stack:
        return self.encoder

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> BaseModelOutput:
        """input_ids: (B, T), or `inputs_embeds` (B, T, C). attention_mask: 1 = real, 0 = padding, (B, T)."""
        return self.encoder(input_ids, attention_mask, inputs_embeds)


class T5ForSequenceClassification(T5PreTrainedModel):
    """One answer a text, which both encoder and decoder read: from the decoder's state at the text's last end token."""

    tied: ClassVar = tied_to_shared("encoder.embed_tokens", "decoder.embed_tokens", prefix="transformer.")

    def __init__(self, config: T5Config):
        super().__init__(config)
        self.transformer = T5Model(config)
        self.classification_head = T5ClassificationHead(config)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, decoder_input_ids=None, decoder_attention_mask=None,
        encoder_outputs=None, inputs_embeds=None, decoder_inputs_embeds=None, labels=None, use_cache=None
    ) -> Seq2SeqSequenceClassifierOutput:
        """labels: (B,) classes, (B, N) floats for several classes a text, (B,) floats for a number."""
        if input_ids is None:
            raise ValueError(f"{type(self).__name__} needs input_ids: it looks for the end token in them")
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.shifted(input_ids)
        x = self.transformer(
            input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, encoder_outputs, None, inputs_embeds,
            decoder_inputs_embeds, use_cache if labels is None else False
        )
        logits = self.classification_head(at_last_end(x.last_hidden_state, input_ids, self.config.eos_token_id))
        loss = classification_loss(logits, labels, self.config.problem_type)
        return Seq2SeqSequenceClassifierOutput(loss, logits, *x.rest())


class T5ForTokenClassification(T5PreTrainedModel):
    """A class for each token, of the encoder alone. Logits (B, T, N)."""

    heads = T5EncoderModel.heads
    tied: ClassVar = tied_to_shared("encoder.embed_tokens", prefix="transformer.")

    def __init__(self, config: T5Config):
        super().__init__(config)
        self.transformer = T5EncoderModel(config)
        self.dropout = Dropout(config.classifier_dropout)
        self.classifier = Linear(config.d_model, config.num_labels)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, inputs_embeds=None, labels=None
    ) -> TokenClassifierOutput:
        """labels: (B, T) classes, or -100 for tokens that count for nothing."""
        x = self.transformer(input_ids, attention_mask, inputs_embeds).last_hidden_state
        logits = self.classifier(self.dropout(x))
        return TokenClassifierOutput(cross_entropy(logits, labels), logits)


class T5ForQuestionAnswering(T5Pair):
    """Where in the text, which both encoder and decoder read, does the answer begin, and where does it end?"""

    def __init__(self, config: T5Config):
        super().__init__(config)
        check_span_labels(config.num_labels)
        self.qa_outputs = Linear(config.d_model, config.num_labels)
        self.post_init()

    def forward(
        self, input_ids=None, attention_mask=None, decoder_input_ids=None, decoder_attention_mask=None,
        encoder_outputs=None, start_positions=None, end_positions=None, inputs_embeds=None, decoder_inputs_embeds=None,
        use_cache=None
    ) -> Seq2SeqQuestionAnsweringOutput:
        """start_positions, end_positions: (B,), of the answer's first and last token; outside the text: no answer."""
        if decoder_input_ids is None and decoder_inputs_embeds is None and input_ids is not None:
            decoder_input_ids = self.shifted(input_ids)
        if start_positions is not None and end_positions is not None:
            use_cache = False
        x = self.run(
            input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, encoder_outputs, None, inputs_embeds,
            decoder_inputs_embeds, use_cache
        )
        start, end = self.qa_outputs(x.last_hidden_state).unbind(-1)  # (B, T, 2) -> (B, T), (B, T)
        loss = span_loss(start, end, start_positions, end_positions)
        return Seq2SeqQuestionAnsweringOutput(loss, start, end, *x.rest())
