"""Tiny checkpoints whose every number comes from a formula, so that a stored answer of an old release can be checked
anywhere: the maker of the fixtures writes them to disk and the tests do, and both get the same bytes."""

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

import minihf

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'()-"
PIECES = "angela mer ##kel vis ##ited paris and emmanuel mac ##ron lives there in the who does what where is this"
LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC"]
NLI = ["contradiction", "neutral", "entailment"]
TEXTS = [
    "Angela Merkel visited Paris, and Emmanuel Macron lives there.",
    "",
    "a",
    "   ",
    "你好 Paris café 👍 naïve",
    "[CLS] tokens [SEP] in the text",
    "tabs\tand\nnewlines   and    spaces ",
    "don't!!! (who?) where's what",
    "BERLIN berlin BeRlIn",
    "unbreakablewordsthatarelong and 1234567890",
]
LONG = "Angela Merkel lives in Berlin, and Emmanuel Macron visited Paris. " * 6  # more than the 48 tokens of the models
SIZES = {
    "vocab_size": 120,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 48,
}
BYTES = SIZES | {"vocab_size": 270, "max_position_embeddings": 200, "pad_token_id": 1}
DISTIL = {"vocab_size": 120, "dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 40, "max_position_embeddings": 48}
DECODER = {"vocab_size": 270, "bos_token_id": 0, "eos_token_id": 2}
GPT2 = DECODER | {"n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 320}
LLAMA = DECODER | {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 320,
}
BOTH = {"d_model": 24, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40}
BOTH |= {"encoder_attention_heads": 3, "decoder_attention_heads": 3, "max_position_embeddings": 300}
BART = BOTH | DECODER | {"pad_token_id": 1, "decoder_start_token_id": 2}
CHECKPOINTS = {
    "ner": ("BertForTokenClassification", "wordpiece", SIZES | {"id2label": dict(enumerate(LABELS))}),
    "ner-distilbert": ("DistilBertForTokenClassification", "plain", DISTIL | {"id2label": dict(enumerate(LABELS))}),
    "ner-roberta": (
        "RobertaForTokenClassification",
        "bytes",
        BYTES | {"id2label": dict(enumerate(LABELS))},
    ),
    "classes": ("BertForSequenceClassification", "wordpiece", SIZES | {"id2label": dict(enumerate(NLI))}),
    "classes-distilbert": ("DistilBertForSequenceClassification", "plain", DISTIL),
    "classes-roberta": (
        "RobertaForSequenceClassification",
        "bytes",
        BYTES | {"num_labels": 4},
    ),
    "classes-bart": ("BartForSequenceClassification", "bytes", BART | {"id2label": dict(enumerate(NLI))}),
    # No pad token at all, and one that the tokenizer has and the model does not know.
    "classes-gpt2": ("GPT2ForSequenceClassification", "open", GPT2 | {"id2label": dict(enumerate(NLI))}),
    "classes-llama": ("LlamaForSequenceClassification", "padded", LLAMA | {"id2label": dict(enumerate(NLI))}),
    "one-class": ("BertForSequenceClassification", "wordpiece", SIZES | {"num_labels": 1}),
    "many-classes": (
        "BertForSequenceClassification",
        "wordpiece",
        SIZES | {"num_labels": 3, "problem_type": "multi_label_classification"},
    ),
    "regression": (
        "BertForSequenceClassification",
        "wordpiece",
        SIZES | {"num_labels": 2, "problem_type": "regression"},
    ),
    "masks": ("BertForMaskedLM", "wordpiece", SIZES),
    "masks-distilbert": ("DistilBertForMaskedLM", "plain", DISTIL),
    "masks-roberta": ("RobertaForMaskedLM", "bytes", BYTES),
    "states": ("BertModel", "wordpiece", SIZES),
    "states-roberta": ("RobertaModel", "bytes", BYTES),
    "questions": ("BertForQuestionAnswering", "wordpiece", SIZES),
    "questions-distilbert": ("DistilBertForQuestionAnswering", "plain", DISTIL),
    "questions-roberta": ("RobertaForQuestionAnswering", "bytes", BYTES),
}


def write_checkpoint(name: str, folder: Path) -> Path:
    """Model and tokenizer of that name, in a folder that both libraries open."""
    class_name, kind, sizes = CHECKPOINTS[name]
    cls = getattr(minihf, class_name)
    model = cls(cls.config_class(**sizes)).eval()
    random = np.random.RandomState(7)
    with torch.no_grad():
        for key, parameter in sorted(model.named_parameters()):
            values = torch.from_numpy(random.standard_normal(parameter.shape)).float()
            norm = "norm" in key.lower() or "ln_" in key
            parameter.copy_(1 + 0.2 * values if norm and key.endswith("weight") else 0.3 * values)
    model.save_pretrained(folder)
    write_tokenizer(kind, folder)
    return folder


def write_tokenizer(kind: str, folder: Path) -> None:
    """Of RoBERTa's make ("bytes"), of GPT-2's without a pad token ("open") or with one ("padded"), or BERT's."""
    if kind in ("open", "padded"):
        roles = {"bos": "<s>", "eos": "</s>", "unk": "<unk>"} | ({"pad": "<pad>"} if kind == "padded" else {})
        engine, limit = open_engine(), 60
    elif kind == "bytes":
        roles = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
        engine, limit = bytes_engine(), 64
    else:
        roles = dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIAL, strict=True))
        engine, limit = wordpiece_engine(), 48
    roles = {f"{role}_token": token for role, token in roles.items()}
    own = minihf.BertTokenizer if kind == "wordpiece" else minihf.PreTrainedTokenizerFast
    own(engine, model_max_length=limit, **roles).save_pretrained(folder)


def wordpiece_engine() -> Tokenizer:
    tokens = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS[:36]), *PIECES.split()]
    engine = Tokenizer(models.WordPiece(dict(zip(tokens, range(len(tokens)), strict=True)), unk_token="[UNK]"))
    engine.normalizer = normalizers.BertNormalizer()
    engine.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    engine.decoder = decoders.WordPiece(prefix="##")
    engine.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return engine


def bytes_engine() -> Tokenizer:
    """RoBERTa's make: bytes, few merges, and two ends between the texts of a pair."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "in", "th", "the", "Ġa"]
    tokens += ["an", "is", "<mask>"]
    merges = [("i", "n"), ("t", "h"), ("th", "e"), ("Ġ", "a"), ("a", "n"), ("i", "s")]
    engine = Tokenizer(models.BPE(dict(zip(tokens, range(len(tokens)), strict=True)), merges, unk_token="<unk>"))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    engine.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return engine


def open_engine() -> Tokenizer:
    """Bytes, and nothing put around a text."""
    engine = bytes_engine()
    engine.post_processor = processors.ByteLevel(trim_offsets=False)
    return engine
