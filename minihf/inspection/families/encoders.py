"""Architectures in which every token sees every other."""

from minihf.inspection.families.family import Family, Variant

BERT_LM = ("BertModel", "BertLMHeadModel")
ROBERTA = {
    "vocab_size": 61,
    "hidden_size": 28,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "max_position_embeddings": 19,
    "type_vocab_size": 3,
    "layer_norm_eps": 1e-3,
    "num_labels": 5,
    "pad_token_id": 2,  # so that positions begin at 3
}
ROBERTA_LM = ("RobertaModel", "RobertaForCausalLM")
ELECTRA_LM = ("ElectraModel", "ElectraForCausalLM")
ELECTRA_CHOICE = ("ElectraForMultipleChoice",)
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
    "distilbert": Family(
        config={
            "vocab_size": 53,
            "dim": 20,
            "n_layers": 3,
            "n_heads": 5,
            "hidden_dim": 31,
            "max_position_embeddings": 17,
            "dropout": 0.15,
            "qa_dropout": 0.25,
            "num_labels": 6,
            "pad_token_id": 2,
        },
        special={"DistilBertForQuestionAnswering": {"num_labels": 2}},
        variants={
            "relu": Variant({"activation": "relu"}, ("DistilBertForMaskedLM",)),
            "gelu_new": Variant({"activation": "gelu_new"}, ("DistilBertForMaskedLM",)),
            "silu": Variant({"activation": "silu"}, ("DistilBertModel",)),
            "sinusoidal": Variant({"sinusoidal_pos_embds": True}, ("DistilBertModel", "DistilBertForMaskedLM")),
            "untied": Variant({"tie_word_embeddings": False}, ("DistilBertForMaskedLM",)),
            "no pad token": Variant({"pad_token_id": None}, ("DistilBertModel",)),
            "regression": Variant({"num_labels": 1}, ("DistilBertForSequenceClassification",)),
            "several labels": Variant(
                {"problem_type": "multi_label_classification"}, ("DistilBertForSequenceClassification",)
            ),
        },
    ),
    "albert": Family(
        config={
            "vocab_size": 47,
            "embedding_size": 9,
            "hidden_size": 28,
            "num_hidden_layers": 3,
            "num_hidden_groups": 2,  # which serve layers 0 and 1, and layer 2
            "num_attention_heads": 4,
            "intermediate_size": 33,
            "inner_group_num": 2,
            "hidden_act": "gelu",  # in float32, six layers make much of how our fused gelu_new rounds
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.15,
            "classifier_dropout_prob": 0.25,
            "max_position_embeddings": 19,
            "type_vocab_size": 3,
            "layer_norm_eps": 1e-3,
            "num_labels": 5,
            "pad_token_id": 2,
            "bos_token_id": 1,
            "eos_token_id": 1,
        },
        special={"AlbertForPreTraining": {"num_labels": 2}, "AlbertForQuestionAnswering": {"num_labels": 2}},
        variants={
            "as published": Variant({"hidden_act": "gelu_new", "num_hidden_groups": 1, "inner_group_num": 1}),
            "a group a layer": Variant({"num_hidden_groups": 3, "inner_group_num": 1}, ("AlbertModel",)),
            "three inner layers": Variant({"num_hidden_groups": 1, "inner_group_num": 3}, ("AlbertModel",)),
            "wide embeddings": Variant({"embedding_size": 28}, ("AlbertForMaskedLM",)),
            "relu": Variant({"hidden_act": "relu"}, ("AlbertForMaskedLM",)),
            "untied": Variant({"tie_word_embeddings": False}, ("AlbertForMaskedLM", "AlbertForPreTraining")),
            "no pad token": Variant({"pad_token_id": None}, ("AlbertModel",)),
            "no dropout": Variant(
                # In float32, six layers make 140 times as much of how the loss in chunks rounds.
                {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "inner_group_num": 1},
                ("AlbertForPreTraining",),
            ),
            "regression": Variant({"num_labels": 1}, ("AlbertForSequenceClassification",)),
            "several labels": Variant(
                {"problem_type": "multi_label_classification"}, ("AlbertForSequenceClassification",)
            ),
        },
    ),
    "roberta": Family(
        config=ROBERTA,
        special={"RobertaForCausalLM": {"is_decoder": True}, "RobertaForQuestionAnswering": {"num_labels": 2}},
        variants={
            "relu": Variant({"hidden_act": "relu"}, ("RobertaForMaskedLM",)),  # in the layers, not in the head
            "gelu_new": Variant({"hidden_act": "gelu_new"}, ("RobertaModel",)),
            "decoder": Variant({"is_decoder": True}, ("RobertaModel",)),
            "cross-attention": Variant({"is_decoder": True, "add_cross_attention": True}, ROBERTA_LM),
            "untied": Variant({"tie_word_embeddings": False}, ("RobertaForMaskedLM", "RobertaForCausalLM")),
            "as published": Variant({"pad_token_id": 1, "type_vocab_size": 1}, ("RobertaModel",)),
            "pad token 0": Variant({"pad_token_id": 0}, ("RobertaModel", "RobertaForMultipleChoice")),
            "classifier dropout": Variant(
                {"classifier_dropout": 0.4},
                ("RobertaForSequenceClassification", "RobertaForTokenClassification", "RobertaForMultipleChoice"),
            ),
            "regression": Variant({"num_labels": 1}, ("RobertaForSequenceClassification",)),
            "several labels": Variant(
                {"problem_type": "multi_label_classification"}, ("RobertaForSequenceClassification",)
            ),
        },
    ),
    "camembert": Family(
        config={**ROBERTA, "vocab_size": 43},
        special={"CamembertForCausalLM": {"is_decoder": True}, "CamembertForQuestionAnswering": {"num_labels": 2}},
        variants={"as published": Variant({"pad_token_id": 1, "type_vocab_size": 1}, ("CamembertForMaskedLM",))},
    ),
    "xlm-roberta": Family(
        config={**ROBERTA, "vocab_size": 67},
        special={"XLMRobertaForCausalLM": {"is_decoder": True}, "XLMRobertaForQuestionAnswering": {"num_labels": 2}},
        variants={"as published": Variant({"pad_token_id": 1, "type_vocab_size": 1}, ("XLMRobertaForMaskedLM",))},
    ),
    "electra": Family(
        config={
            "vocab_size": 61,
            "embedding_size": 23,
            "hidden_size": 28,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 37,
            "max_position_embeddings": 19,
            "type_vocab_size": 3,
            "layer_norm_eps": 1e-3,
            "num_labels": 5,
            "pad_token_id": 2,
        },
        special={"ElectraForCausalLM": {"is_decoder": True}, "ElectraForQuestionAnswering": {"num_labels": 2}},
        variants={
            "wide embeddings": Variant(
                {"embedding_size": 28}, ("ElectraModel", "ElectraForPreTraining", "ElectraForMaskedLM")
            ),
            "relu": Variant({"hidden_act": "relu"}, ("ElectraForPreTraining", "ElectraForMaskedLM")),
            "gelu_new": Variant({"hidden_act": "gelu_new"}, ("ElectraModel",)),
            "decoder": Variant({"is_decoder": True}, ("ElectraModel",)),
            "cross-attention": Variant({"is_decoder": True, "add_cross_attention": True}, ELECTRA_LM),
            "untied": Variant({"tie_word_embeddings": False}, ("ElectraForMaskedLM", "ElectraForCausalLM")),
            "no pad token": Variant({"pad_token_id": None}, ("ElectraModel",)),
            "classifier dropout": Variant(
                {"classifier_dropout": 0.4}, ("ElectraForSequenceClassification", "ElectraForTokenClassification")
            ),
            "regression": Variant({"num_labels": 1}, ("ElectraForSequenceClassification",)),
            "several labels": Variant(
                {"problem_type": "multi_label_classification"}, ("ElectraForSequenceClassification",)
            ),
            "summary of the last": Variant({"summary_type": "last", "summary_activation": "tanh"}, ELECTRA_CHOICE),
            "summary at an index": Variant({"summary_type": "cls_index", "summary_last_dropout": 0}, ELECTRA_CHOICE),
            "summary of all": Variant({"summary_type": "mean", "summary_last_dropout": 0.4}, ELECTRA_CHOICE),
            "plain summary": Variant({"summary_use_proj": False, "summary_activation": ""}, ELECTRA_CHOICE),
        },
    ),
}
