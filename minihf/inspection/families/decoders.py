"""Architectures in which a token sees itself and earlier ones."""

from minihf.inspection.families.family import Family, Variant

LLAMA_LM = ("LlamaModel", "LlamaForCausalLM")
MISTRAL_LM = ("MistralModel", "MistralForCausalLM")
MIXTRAL_LM = ("MixtralModel", "MixtralForCausalLM")
GPT2_LM = ("GPT2Model", "GPT2LMHeadModel")
OPENAI_GPT_LM = ("OpenAIGPTModel", "OpenAIGPTLMHeadModel")
# Rope's kinds, on texts within and beyond the original length (the harness's texts have up to 11 tokens).
LLAMA_ROPES = {
    "linear": {"factor": 2.5},
    "dynamic": {"factor": 2.5},
    "yarn": {"factor": 3.5, "original_max_position_embeddings": 7, "beta_fast": 2, "beta_slow": 0.25},
    "yarn, untruncated": {"factor": None, "original_max_position_embeddings": 4, "truncate": False, "mscale": 1.5,
                          "mscale_all_dim": 0.5, "beta_fast": 2},
    "longrope, short": {"short_factor": [1, 1.5, 2.25, 3], "long_factor": [2, 3, 5, 8]},
    "longrope, long": {"short_factor": [1, 1.5, 2.25, 3], "long_factor": [2, 3, 5, 8], "factor": 4.0,
                       "original_max_position_embeddings": 3},
    "llama3": {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 19},
    "proportional": {"partial_rotary_factor": 0.5, "factor": 1.5},
}
DECODERS: dict[str, Family] = {
    "mistral": Family(
        config={
            "vocab_size": 59,
            "hidden_size": 30,
            "intermediate_size": 41,
            "num_hidden_layers": 3,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 10,
            "sliding_window": 6,  # of the harness's 11 tokens, of which up to 5 are padding, which must see something
            "rms_norm_eps": 1e-2,
            "attention_dropout": 0.2,
            "num_labels": 4,
            "pad_token_id": 2,
            "rope_parameters": {"rope_theta": 50.0},
        },
        positions_from_mask=True,
        variants={
            "no window": Variant({"sliding_window": None}, MISTRAL_LM),
            "a window longer than the text": Variant({"sliding_window": 12}, MISTRAL_LM),
            "a narrow window": Variant({"sliding_window": 3}, MISTRAL_LM),
            "a window of the token itself": Variant({"sliding_window": 1}, MISTRAL_LM),
            "rope linear": Variant({"rope_parameters": {"rope_type": "linear", "factor": 2.5}}, ("MistralModel",)),
            "a key each": Variant({"num_key_value_heads": None}, MISTRAL_LM),
            "heads of the common size": Variant({"hidden_size": 36, "head_dim": None}, MISTRAL_LM),
            "heads that do not divide the width": Variant({"num_attention_heads": 4}, MISTRAL_LM),
            "gelu": Variant({"hidden_act": "gelu"}, MISTRAL_LM),
            "tied": Variant({"tie_word_embeddings": True}, ("MistralForCausalLM",)),
            "no pad token": Variant({"pad_token_id": None}, ("MistralModel",)),
            "classifier dropout": Variant({"classifier_dropout": 0.4}, ("MistralForTokenClassification",)),
            "regression": Variant({"num_labels": 1}, ("MistralForSequenceClassification",)),
            "several labels": Variant(
                {"problem_type": "multi_label_classification"}, ("MistralForSequenceClassification",)
            ),
        },
    ),
    "mixtral": Family(
        config={
            "vocab_size": 59,
            "hidden_size": 30,
            "intermediate_size": 13,
            "num_hidden_layers": 3,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 10,
            "num_local_experts": 5,
            "num_experts_per_tok": 3,
            "rms_norm_eps": 1e-2,
            "attention_dropout": 0.2,
            "num_labels": 4,
            "pad_token_id": 2,
            "rope_parameters": {"rope_theta": 50.0},
        },
        positions_from_mask=True,
        variants={
            # whose counts of tokens the reference keeps in float32
            "auxiliary loss": Variant(
                {"output_router_logits": True, "router_aux_loss_coef": 0.7}, MIXTRAL_LM, half_blind=True
            ),
            "jitter": Variant({"router_jitter_noise": 0.3}, MIXTRAL_LM),
            "one expert a token": Variant({"num_experts_per_tok": 1}, MIXTRAL_LM),
            "all experts": Variant({"num_experts_per_tok": 5}, MIXTRAL_LM),
            "a window": Variant({"sliding_window": 4}, MIXTRAL_LM),
            "theta of the class": Variant({"rope_parameters": None}, ("MixtralModel",)),
            "heads of the common size": Variant({"hidden_size": 36, "head_dim": None}, MIXTRAL_LM),
            "gelu": Variant({"hidden_act": "gelu"}, MIXTRAL_LM),
            "tied": Variant({"tie_word_embeddings": True}, ("MixtralForCausalLM",)),
            "no pad token": Variant({"pad_token_id": None}, ("MixtralModel",)),
            "classifier dropout": Variant({"classifier_dropout": 0.4}, ("MixtralForTokenClassification",)),
            "regression": Variant({"num_labels": 1}, ("MixtralForSequenceClassification",)),
            "several labels": Variant(
                {"problem_type": "multi_label_classification"}, ("MixtralForSequenceClassification",)
            ),
        },
    ),
    "llama": Family(
        config={
            "vocab_size": 59,
            "hidden_size": 30,
            "intermediate_size": 41,
            "num_hidden_layers": 3,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 10,
            "rms_norm_eps": 1e-2,
            "attention_dropout": 0.2,
            "num_labels": 4,
            "pad_token_id": 2,
            "rope_parameters": {"rope_theta": 50.0},
        },
        positions_from_mask=True,
        variants={
            **{
                f"rope {name}": Variant(
                    {"rope_parameters": {"rope_type": name.partition(",")[0], "rope_theta": 50.0, **rope}},
                    ("LlamaModel",),
                    half_blind=name == "dynamic",
                )
                for name, rope in LLAMA_ROPES.items()
            },
            "biases": Variant({"attention_bias": True, "mlp_bias": True}, LLAMA_LM),
            "a key each": Variant({"num_key_value_heads": None}, LLAMA_LM),
            "one key for all": Variant({"num_key_value_heads": 1}, LLAMA_LM),
            "heads of the common size": Variant({"hidden_size": 36, "head_dim": None}, LLAMA_LM),
            "relu": Variant({"hidden_act": "relu"}, LLAMA_LM),
            "gelu_pytorch_tanh": Variant({"hidden_act": "gelu_pytorch_tanh"}, LLAMA_LM),
            "tied": Variant({"tie_word_embeddings": True}, ("LlamaForCausalLM",)),
            "no pad token": Variant({"pad_token_id": None}, ("LlamaModel",)),
            "classifier dropout": Variant({"classifier_dropout": 0.4}, ("LlamaForTokenClassification",)),
            "regression": Variant({"num_labels": 1}, ("LlamaForSequenceClassification",)),
            "several labels": Variant(
                {"problem_type": "multi_label_classification"}, ("LlamaForSequenceClassification",)
            ),
        },
    ),
    "ctrl": Family(
        config={
            "vocab_size": 58,
            "n_positions": 21,
            "n_embd": 33,  # odd, so that there is one sine more than cosines
            "dff": 46,
            "n_layer": 3,
            "n_head": 3,
            "layer_norm_epsilon": 1e-3,
            "num_labels": 4,
            "pad_token_id": 2,
        },
        positions_from_mask=True,
        variants={
            "even width": Variant({"n_embd": 32, "n_head": 4}, ("CTRLModel",)),
            "no pad token": Variant({"pad_token_id": None}, ("CTRLModel", "CTRLLMHeadModel")),
            "untied": Variant({"tie_word_embeddings": False}, ("CTRLLMHeadModel",)),
            "regression": Variant({"num_labels": 1}, ("CTRLForSequenceClassification",)),
            "several labels": Variant(
                {"problem_type": "multi_label_classification"}, ("CTRLForSequenceClassification",)
            ),
        },
    ),
    "openai-gpt": Family(
        config={
            "vocab_size": 57,
            "n_positions": 22,
            "n_embd": 35,
            "n_layer": 3,
            "n_head": 5,
            "layer_norm_epsilon": 1e-3,
            "num_labels": 4,
            "pad_token_id": 2,
        },
        positions_from_mask=True,
        variants={
            "relu": Variant({"afn": "relu"}, OPENAI_GPT_LM),
            "silu": Variant({"afn": "silu"}, OPENAI_GPT_LM),
            "swish": Variant({"afn": "swish"}, OPENAI_GPT_LM),
            "untied": Variant({"tie_word_embeddings": False}, ("OpenAIGPTLMHeadModel",)),
            "summary activation": Variant({"summary_activation": "tanh"}, ("OpenAIGPTDoubleHeadsModel",)),
            "regression": Variant({"num_labels": 1}, ("OpenAIGPTForSequenceClassification",)),
            "several labels": Variant(
                {"problem_type": "multi_label_classification"}, ("OpenAIGPTForSequenceClassification",)
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
