"""CTRL (Keskar et al., 2019, "A Conditional Transformer Language Model for Controllable Generation").

A decoder in GPT-2's form whose texts begin with a control code, "Links", "Wikipedia", "Reviews": a token like any
other, which says what is to follow. What is special: positions are computed, not learnt, all sines first and all
cosines after them, and added to token embeddings made sqrt(C) times as large; queries, keys and values have a layer
each.

    x ──┬─ LayerNorm ─ attention ─(+)──┬─ LayerNorm ─ linear ─ ReLU ─ linear ─(+)── next block
        └─────────────────────────┘    └─────────────────────────────────────┘
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minihf.models.base import Model
from minihf.models.config import Config
from minihf.models.inputs import check_batch, check_length, last_real, last_tokens
from minihf.models.outputs import BaseModelOutput, CausalLMOutput, SequenceClassifierOutput
from minihf.nn.attention import attend, merge_heads, split_heads
from minihf.nn.cache import Cache
from minihf.nn.dropout import Dropout
from minihf.nn.linear import Linear
from minihf.nn.losses import classification_loss, next_tokens
from minihf.nn.masks import decoder_mask
from minihf.nn.positions import positions_from_mask
from minihf.nn.words import predict_words


@dataclass(init=False)
class CTRLConfig(Config):
    model_type: ClassVar[str] = "ctrl"
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }

    vocab_size: int = 246534
    n_positions: int = 256
    n_embd: int = 1280
    dff: int = 8192
    """The width between the two linear layers."""
    n_layer: int = 48
    n_head: int = 16
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-6
    """Of the last norm; those of the blocks have 1e-6, whatever it is."""
    initializer_range: float = 0.02
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list | None = None
    pad_token_id: int | None = None

    def check(self) -> None:
        self.require_choice("is_encoder_decoder", [False])
        self.require_sizes("vocab_size", "n_positions", "n_embd", "dff", "n_head")
        self.require_layers("n_layer")
        self.require_multiple("n_embd", of="n_head")
        self.require_probabilities("resid_pdrop", "embd_pdrop")
        self.require_magnitudes("layer_norm_epsilon", "initializer_range")


def sinusoid(positions: int, width: int) -> Tensor:
    """A row for each position, [all sines | all cosines] of angles that grow ever more slowly: (positions, width).

    On the CPU whatever the default device is: the same bits everywhere, and values where a model is made without any.
    """
    channels = torch.arange(width, device="cpu")
    rates = 1 / 10000 ** ((channels - channels % 2) / width)  # a sine and a cosine have the same
    angles = torch.arange(positions, device="cpu")[:, None] * rates
    return torch.cat([angles[:, 0::2].sin(), angles[:, 1::2].cos()], dim=1)


class CTRLAttention(nn.Module):
    def __init__(self, config: CTRLConfig, layer: int):
        super().__init__()
        self.config, self.layer = config, layer
        self.Wq = Linear(config.n_embd, config.n_embd)
        self.Wk = Linear(config.n_embd, config.n_embd)
        self.Wv = Linear(config.n_embd, config.n_embd)
        self.dense = Linear(config.n_embd, config.n_embd)

    def forward(
        self, x: Tensor, mask: Tensor | None, cache: Cache | None = None, impl: str | None = None
    ) -> tuple[Tensor, Tensor | None]:
        q, k, v = (split_heads(W(x), self.config.n_head) for W in (self.Wq, self.Wk, self.Wv))  # (B, H, T, D) each
        if cache is not None:
            k, v = cache.update(self.layer, k, v)
        x, weights = attend(q, k, v, mask, causal=True, impl=impl or self.config.attn_implementation)
        return self.dense(merge_heads(x)), weights


class CTRLBlock(nn.Module):
    def __init__(self, config: CTRLConfig, layer: int):
        super().__init__()
        self.multi_head_attention = CTRLAttention(config, layer)
        # "1" was the ReLU, which has no parameters.
        self.ffn = nn.ModuleDict({"0": Linear(config.n_embd, config.dff), "2": Linear(config.dff, config.n_embd)})
        self.layernorm1 = nn.LayerNorm(config.n_embd, eps=1e-6)
        self.layernorm2 = nn.LayerNorm(config.n_embd, eps=1e-6)
        self.dropout1 = Dropout(config.resid_pdrop)
        self.dropout2 = Dropout(config.resid_pdrop)

    def forward(self, x: Tensor, mask: Tensor | None, cache: Cache | None = None) -> Tensor:
        x = x + self.dropout1(self.multi_head_attention(self.layernorm1(x), mask, cache)[0])
        return x + self.dropout2(self.ffn["2"](F.relu(self.ffn["0"](self.layernorm2(x)))))


class CTRLPreTrainedModel(Model):
    config_class = CTRLConfig
    base_model_prefix = "transformer"
    heads = ("lm_head", "classifier")
    input_embeddings = "w"
    recorded: ClassVar = {"hidden_states": "h.*", "attentions": "h.*.multi_head_attention"}

    @property
    def position_limit(self) -> int:
        return self.config.n_positions


class CTRLModel(CTRLPreTrainedModel):
    """The decoder itself: `last_hidden_state` (B, T, C)."""

    def __init__(self, config: CTRLConfig):
        super().__init__(config)
        self.w = nn.Embedding(config.vocab_size, config.n_embd)
        self.register_buffer("pos_encoding", sinusoid(config.n_positions, config.n_embd), persistent=False)
        self.dropout = Dropout(config.embd_pdrop)
        self.h = nn.ModuleList(CTRLBlock(config, i) for i in range(config.n_layer))
        self.layernorm = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
    ) -> BaseModelOutput:
        """
        Args:
            input_ids: (B, T), the first of each text a control code. Or `inputs_embeds` (B, T, C): token embeddings
                made elsewhere, not yet scaled; they stay as they are (the reference scales them in place).
            past_key_values: what it keeps of earlier tokens; `input_ids` are then the new ones.
            attention_mask: 1 = real, 0 = padding, (B, K), the cached tokens included; or a ready 4-D mask.
            token_type_ids: (B, T) ids in the *token* table, added to the embeddings.
            position_ids: (B, T) or (1, T); None: counted over the real tokens of the mask, so that padding on the left
                shifts nothing (the reference counts padding too).
                Where neither mask nor cache is, ids that begin anew keep several texts of one row apart (see `apart`).
            use_cache: make and return `past_key_values`; None: as the config says.
        """
        B, T = check_batch(input_ids, inputs_embeds)
        use_cache = self.config.use_cache if use_cache is None else use_cache
        cache = Cache() if use_cache and past_key_values is None else past_key_values
        past = cache.length if cache is not None else 0
        if position_ids is None or cache is not None:  # several texts in one row may be longer
            check_length(past + T, self.config.n_positions)

        x = self.w(input_ids) if inputs_embeds is None else inputs_embeds  # (B, T, C)
        scores, positions = (B, self.config.n_head, T, past + T), position_ids if cache is None else None
        mask = decoder_mask(attention_mask, scores, dtype=x.dtype, positions=positions)
        if position_ids is None and mask is not None and attention_mask.dim() == 2:
            position_ids = positions_from_mask(attention_mask)[:, past:]
        elif position_ids is None:
            position_ids = torch.arange(past, past + T, device=x.device)[None]
        scale = self.config.n_embd**0.5
        x = scale * x + self.pos_encoding[position_ids.to(self.pos_encoding.device)].to(x)
        if token_type_ids is not None:
            x = x + scale * self.w(token_type_ids)
        x = self.dropout(x)
        for block in self.h:
            x = block(x, mask, cache)
        return BaseModelOutput(self.layernorm(x), past_key_values=cache if use_cache else None)


class CTRLLMHeadModel(CTRLPreTrainedModel):
    """Which token comes next? The output layer is the token embeddings, read the other way, and a bias."""

    tied: ClassVar = {"lm_head.weight": "transformer.w.weight"}
    output_embeddings = "lm_head"
    can_generate = True

    def __init__(self, config: CTRLConfig):
        super().__init__(config)
        self.transformer = CTRLModel(config)
        self.lm_head = Linear(config.n_embd, config.vocab_size)
        self.post_init()

    def forward(
        self, input_ids=None, past_key_values=None, attention_mask=None, token_type_ids=None, position_ids=None,
        inputs_embeds=None, labels=None, use_cache=None, logits_to_keep=0, num_items_in_batch=None
    ) -> CausalLMOutput:
        """labels: (B, T), usually the input_ids: shifted here. logits_to_keep: of the last so many tokens."""
        x = self.transformer(
            input_ids, past_key_values, attention_mask, token_type_ids, position_ids, inputs_embeds, use_cache
        )
        x, cache = last_tokens(x.last_hidden_state, logits_to_keep), x.past_key_values
        return CausalLMOutput(*predict_words(self.lm_head, x, next_tokens(labels), num_items_in_batch), cache)


class CTRLForSequenceClassification(CTRLPreTrainedModel):
    """One answer a text, read from its last token: the only one that has seen all of it."""

    def __init__(self, config: CTRLConfig):
        super().__init__(config)
        self.transformer = CTRLModel(config)
        self.classifier = Linear(config.n_embd, config.num_labels, bias=False)
        self.post_init()

    def forward(
        self, input_ids=None, past_key_values=None, attention_mask=None, token_type_ids=None, position_ids=None,
        inputs_embeds=None, labels=None, use_cache=None
    ) -> SequenceClassifierOutput:
        """labels: (B,) classes, (B, N) floats for several classes a text, (B,) floats for a number."""
        x = self.transformer(
            input_ids, past_key_values, attention_mask, token_type_ids, position_ids, inputs_embeds, use_cache
        )
        logits = last_real(self.classifier(x.last_hidden_state), input_ids, self.config.pad_token_id)
        return SequenceClassifierOutput(classification_loss(logits, labels, self.config.problem_type), logits)
