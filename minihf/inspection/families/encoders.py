"""Architectures in which every token sees every other."""

from minihf.inspection.families.family import Family, Variant

BERT_LM = ("BertModel", "BertLMHeadModel")
ENCODERS: dict[str, Family] = {
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
}
