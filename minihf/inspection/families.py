"""What the parity harness makes of each architecture: a tiny config, and the options that change the arithmetic.

Sizes are odd and all different, so that nothing fits where it does not belong. A new architecture adds its ten lines.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Variant:
    """Fields of the config that change the arithmetic."""

    fields: dict
    classes: tuple[str, ...] | None = None
    """Only these classes know the difference; None: all."""
    half_blind: bool = False
    """The reference computes this in float32 whatever it is given: no comparison in float64."""


@dataclass(frozen=True)
class Family:
    config: dict
    """Of the architecture."""
    special: dict[str, dict] = field(default_factory=dict)
    """Class -> fields that it needs besides."""
    variants: dict[str, Variant] = field(default_factory=dict)
    positions_from_mask: bool = False
    """minihf counts positions over the mask's real tokens, so the reference must be told them."""


BERT_LM = ("BertModel", "BertLMHeadModel")
GPT2_LM = ("GPT2Model", "GPT2LMHeadModel")
FAMILIES: dict[str, Family] = {
    "bert": Family(
        config={
            "vocab_size": 61,
            "hidden_size": 28,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 37,
            "max_position_embeddings": 19,
            "type_vocab_size": 3,
            "layer_norm_eps": 1e-3,  # large enough for a wrong one to show
            "num_labels": 5,
            "pad_token_id": 2,
        },
        special={"BertLMHeadModel": {"is_decoder": True}, "BertForQuestionAnswering": {"num_labels": 2}},
        variants={
            "relu": Variant({"hidden_act": "relu"}, ("BertForMaskedLM",)),
            "gelu_new": Variant({"hidden_act": "gelu_new"}, ("BertForMaskedLM",)),
            "silu": Variant({"hidden_act": "silu"}, ("BertModel",)),
            "decoder": Variant({"is_decoder": True}, ("BertModel",)),
            "cross-attention": Variant({"is_decoder": True, "add_cross_attention": True}, BERT_LM),
            "untied": Variant({"tie_word_embeddings": False}, ("BertForMaskedLM", "BertForPreTraining")),
            "no pad token": Variant({"pad_token_id": None}, ("BertModel",)),
            "classifier dropout": Variant(
                {"classifier_dropout": 0.4}, ("BertForSequenceClassification", "BertForTokenClassification")
            ),
            "regression": Variant({"num_labels": 1}, ("BertForSequenceClassification",)),
            "several labels": Variant(
                {"problem_type": "multi_label_classification"}, ("BertForSequenceClassification",)
            ),
        },
    ),
    "gpt2": Family(
        config={
            "vocab_size": 59,
            "n_positions": 23,
            "n_embd": 30,
            "n_layer": 3,
            "n_head": 5,
            "n_inner": 41,
            "layer_norm_epsilon": 1e-3,
            "num_labels": 4,
            "bos_token_id": 1,
            "eos_token_id": 1,
            "pad_token_id": 2,
        },
        positions_from_mask=True,
        variants={
            "by inverse layer": Variant({"scale_attn_by_inverse_layer_idx": True}, GPT2_LM),
            "unscaled": Variant({"scale_attn_weights": False}, GPT2_LM),
            "upcast": Variant({"reorder_and_upcast_attn": True}, GPT2_LM, half_blind=True),
            "relu": Variant({"activation_function": "relu", "n_inner": None}, GPT2_LM),
            "gelu": Variant({"activation_function": "gelu"}, GPT2_LM),
            "cross-attention": Variant({"add_cross_attention": True}, GPT2_LM),
            "untied": Variant({"tie_word_embeddings": False}, ("GPT2LMHeadModel",)),
            "summary activation": Variant({"summary_activation": "tanh"}, ("GPT2DoubleHeadsModel",)),
            "classifier dropout": Variant({"classifier_dropout": 0.4}, ("GPT2ForTokenClassification",)),
            "regression": Variant({"num_labels": 1}, ("GPT2ForSequenceClassification",)),
            "several labels": Variant(
                {"problem_type": "multi_label_classification"}, ("GPT2ForSequenceClassification",)
            ),
        },
    ),
}
