"""Architectures in which a decoder attends to what an encoder has read."""

from minihf.inspection.families.family import Family, Variant

BART_LM = ("BartModel", "BartForConditionalGeneration")
MARIAN_LM = ("MarianModel", "MarianMTModel")
PEGASUS_LM = ("PegasusModel", "PegasusForConditionalGeneration")
T5_LM = ("T5Model", "T5ForConditionalGeneration")
T5 = {
    "d_model": 26,
    "d_kv": 6,
    "d_ff": 37,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 5,  # of 6 channels each: 30, not 26
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 9,  # so that the texts reach the last bucket
    "layer_norm_epsilon": 1e-2,
    "dropout_rate": 0.15,
    "classifier_dropout": 0.25,
    "num_labels": 4,
    "pad_token_id": 2,
    "decoder_start_token_id": 2,
}
MBART_LM = ("MBartModel", "MBartForConditionalGeneration")
ENCODER_DECODERS: dict[str, Family] = {
    "t5": Family(
        config={**T5, "vocab_size": 57},
        special={"T5ForQuestionAnswering": {"num_labels": 2}},
        variants={
            "1.1": Variant(
                {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
                ("T5ForConditionalGeneration", "T5EncoderModel", "T5ForSequenceClassification"),
            ),
            "gated-silu": Variant({"feed_forward_proj": "gated-silu"}, T5_LM),
            "gelu": Variant({"feed_forward_proj": "gelu"}, ("T5Model",)),
            "gelu_new": Variant({"feed_forward_proj": "gelu_new"}, ("T5EncoderModel",)),
            "tied, unscaled": Variant({"scale_decoder_outputs": False}, ("T5ForConditionalGeneration",)),
            "untied, scaled": Variant(
                {"scale_decoder_outputs": True, "tie_word_embeddings": False}, ("T5ForConditionalGeneration",)
            ),
            "as many layers": Variant({"num_decoder_layers": None}, ("T5Model",)),
            "odd buckets": Variant({"relative_attention_num_buckets": 7}, T5_LM),
            "far": Variant({"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128}, T5_LM),
            "another start": Variant({"decoder_start_token_id": 5}, ("T5ForConditionalGeneration",)),
            "no dropout": Variant({"dropout_rate": 0.0}, T5_LM),
            "regression": Variant({"num_labels": 1}, ("T5ForSequenceClassification",)),
            "several labels": Variant({"problem_type": "multi_label_classification"}, ("T5ForSequenceClassification",)),
        },
    ),
    "mt5": Family(
        config={**T5, "vocab_size": 53, "feed_forward_proj": "gated-gelu"},
        special={"MT5ForQuestionAnswering": {"num_labels": 2}},
        variants={"as published": Variant({"tie_word_embeddings": False}, ("MT5ForConditionalGeneration",))},
    ),
    "marian": Family(
        config={
            "vocab_size": 58,
            "d_model": 30,
            "encoder_layers": 3,
            "decoder_layers": 2,
            "encoder_attention_heads": 5,
            "decoder_attention_heads": 3,
            "encoder_ffn_dim": 43,
            "decoder_ffn_dim": 38,
            "max_position_embeddings": 19,
            "activation_function": "swish",
            "dropout": 0.1,
            "attention_dropout": 0.15,
            "activation_dropout": 0.2,
            "scale_embedding": True,
            "pad_token_id": 57,
            "decoder_start_token_id": 57,
            "num_labels": 3,  # as the published files say
        },
        variants={
            "two vocabularies": Variant(
                {
                    "share_encoder_decoder_embeddings": False,
                    "decoder_vocab_size": 47,
                    "pad_token_id": 46,
                    "decoder_start_token_id": 46,
                },
                MARIAN_LM,
            ),
            "two tables": Variant({"share_encoder_decoder_embeddings": False}),
            "two tables, untied": Variant({"share_encoder_decoder_embeddings": False, "tie_word_embeddings": False}),
            "untied": Variant({"tie_word_embeddings": False}),
            "unscaled": Variant({"scale_embedding": False}),
            "odd width": Variant({"d_model": 15}, MARIAN_LM),  # one sine more than cosines
            "relu": Variant({"activation_function": "relu"}, MARIAN_LM),
            "gelu": Variant({"activation_function": "gelu"}, MARIAN_LM),
            "layers dropped": Variant({"encoder_layerdrop": 0.4, "decoder_layerdrop": 0.3}),
            "another start": Variant({"decoder_start_token_id": 0}, MARIAN_LM),
            "no pad token": Variant({"pad_token_id": None}, ("MarianModel",)),
        },
    ),
    "pegasus": Family(
        config={
            "vocab_size": 55,
            "d_model": 28,
            "encoder_layers": 3,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 7,
            "encoder_ffn_dim": 39,
            "decoder_ffn_dim": 45,
            "max_position_embeddings": 18,
            "activation_function": "relu",
            "dropout": 0.1,
            "attention_dropout": 0.2,
            "activation_dropout": 0.15,
            "scale_embedding": True,
            "num_labels": 3,
        },
        variants={
            "untied": Variant({"tie_word_embeddings": False}),
            "unscaled": Variant({"scale_embedding": False}),
            "odd width": Variant(
                {"d_model": 27, "encoder_attention_heads": 3, "decoder_attention_heads": 9}, PEGASUS_LM
            ),
            "gelu": Variant({"activation_function": "gelu"}, PEGASUS_LM),
            # Not the decoder alone: the reference's cache has as many layers as the encoder that it lacks.
            "a deeper decoder": Variant({"encoder_layers": 1, "decoder_layers": 3}, PEGASUS_LM),
            "layers dropped": Variant({"encoder_layerdrop": 0.4, "decoder_layerdrop": 0.2}),
            "another start": Variant({"decoder_start_token_id": 4}, PEGASUS_LM),
            "no pad token": Variant({"pad_token_id": None}, ("PegasusModel",)),
        },
    ),
    "bart": Family(
        config={
            "vocab_size": 59,
            "d_model": 24,
            "encoder_layers": 3,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 3,
            "encoder_ffn_dim": 37,
            "decoder_ffn_dim": 31,
            "max_position_embeddings": 17,
            "dropout": 0.1,
            "attention_dropout": 0.15,
            "activation_dropout": 0.2,
            "classifier_dropout": 0.25,
            "num_labels": 5,
        },
        variants={
            "scaled embeddings": Variant({"scale_embedding": True}),
            "relu": Variant({"activation_function": "relu"}, BART_LM),
            "gelu_new": Variant({"activation_function": "gelu_new"}, ("BartModel",)),
            "layers dropped": Variant({"encoder_layerdrop": 0.4, "decoder_layerdrop": 0.3}, BART_LM),
            "untied": Variant({"tie_word_embeddings": False}, (*BART_LM, "BartForCausalLM")),
            "another start": Variant({"decoder_start_token_id": 0}, BART_LM),
            "regression": Variant({"num_labels": 1}, ("BartForSequenceClassification",)),
            "several labels": Variant(
                {"problem_type": "multi_label_classification"}, ("BartForSequenceClassification",)
            ),
        },
    ),
    "mbart": Family(
        config={
            "vocab_size": 53,
            "d_model": 24,
            "encoder_layers": 3,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 3,
            "encoder_ffn_dim": 37,
            "decoder_ffn_dim": 31,
            "max_position_embeddings": 17,
            "dropout": 0.1,
            "attention_dropout": 0.15,
            "activation_dropout": 0.2,
            "classifier_dropout": 0.25,
            "num_labels": 5,
        },
        variants={
            "scaled embeddings": Variant({"scale_embedding": True}),
            "relu": Variant({"activation_function": "relu"}, MBART_LM),
            "gelu_new": Variant({"activation_function": "gelu_new"}, ("MBartModel",)),
            "layers dropped": Variant({"encoder_layerdrop": 0.4, "decoder_layerdrop": 0.3}, MBART_LM),
            "untied": Variant({"tie_word_embeddings": False}, (*MBART_LM, "MBartForCausalLM")),
            "regression": Variant({"num_labels": 1}, ("MBartForSequenceClassification",)),
            "several labels": Variant(
                {"problem_type": "multi_label_classification"}, ("MBartForSequenceClassification",)
            ),
        },
    ),
}
