"""Architectures in which a token sees itself and earlier ones."""

from minihf.inspection.families.family import Family, Variant

GPT2_LM = ("GPT2Model", "GPT2LMHeadModel")
DECODERS: dict[str, Family] = {
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
