"""The tokenizer families by name, and the one that finds which of them a folder holds.

A family is what its checkpoints take for granted without saying so: special tokens, the names of the outputs, and how
an engine is built where there is only a vocabulary.
"""

from pathlib import Path
from typing import Any

from tokenizers import models

from minihf.checkpoints.files import read_json
from minihf.checkpoints.hub import Source
from minihf.tokenization import engines, folder
from minihf.tokenization.tokenizer import Tokenizer


class BertTokenizer(Tokenizer):
    """WordPiece, `[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`; see `Tokenizer`.

    Options of its own, while loading: `do_lower_case` (True), `tokenize_chinese_chars` (True: each is a word) and
    `strip_accents` (None: if it lower-cases).
    """

    model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    family_tokens = {
        "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]",
    }  # fmt: skip
    algorithm = "WordPiece"
    vocab_files = ("vocab.txt",)
    read = staticmethod(lambda vocab: (models.WordPiece.read_file(vocab), []))
    build = staticmethod(engines.bert_engine)
    template = staticmethod(engines.bert_template)


class GPT2Tokenizer(Tokenizer):
    """Byte-level BPE, text as it is, without special tokens around it; see `Tokenizer`.

    Options of its own, while loading: `add_prefix_space` (False: read the first word as if a space came before it),
    `add_bos_token` and `add_eos_token` (False).
    """

    family_tokens = {"unk_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    algorithm = "BPE"
    vocab_files = ("vocab.json", "merges.txt")
    read = staticmethod(models.BPE.read_file)
    build = staticmethod(engines.gpt2_engine)
    template = staticmethod(engines.gpt2_template)


PreTrainedTokenizerFast = Tokenizer
BertTokenizerFast = BertTokenizer
GPT2TokenizerFast = GPT2Tokenizer

BY_MODEL_TYPE: dict[str, type[Tokenizer]] = {"bert": BertTokenizer, "gpt2": GPT2Tokenizer}
BY_CLASS = {family.__name__: family for family in BY_MODEL_TYPE.values()}
NO_FAMILY = ("PreTrainedTokenizer", "Tokenizer", "TokenizersBackend", "PythonBackend")  # "Fast" at the end left out


class AutoTokenizer:
    """Loads the tokenizer of a folder or a hub name, whichever family it is."""

    def __init__(self):
        raise TypeError("AutoTokenizer is not made but loaded: AutoTokenizer.from_pretrained(name_or_path)")

    @staticmethod
    def from_pretrained(
        name_or_path: str | Path, *, tokenizer_type: str | None = None, config: Any = None, **options: Any
    ) -> Tokenizer:
        """Load a tokenizer.

        Args:
            name_or_path: a folder, or a name such as "bert-base-uncased".
            tokenizer_type: the family, as the `model_type` of its models: "bert", "gpt2". Without it that which
                `tokenizer_config.json` names, or else `config.json`.
            config: the model's config, instead of the one that lies beside the tokenizer.
            options: where to look: `revision`, `subfolder`, `token`, `cache_dir`, `local_files_only`, `force_download`;
                what is to be other than the files say: special tokens (`pad_token="<pad>"`), `model_max_length`,
                `padding_side`, `truncation_side`, `model_input_names`, `clean_up_tokenization_spaces`,
                `split_special_tokens`, `chat_template`, `extra_special_tokens`, and the options of the family.

        Raises:
            FileNotFoundError: no such folder or repository, or no tokenizer in it.
            CheckpointError: files that are broken. ValueError, TypeError: options that are unknown or do not apply.
        """
        source, options = Source.split(name_or_path, options)
        if tokenizer_type is None:
            family = _family(source, config)
        elif tokenizer_type in BY_MODEL_TYPE:
            family = BY_MODEL_TYPE[tokenizer_type]
        else:
            raise ValueError(f"tokenizer_type={tokenizer_type!r} is unknown; known are {', '.join(BY_MODEL_TYPE)}")
        return folder.load(family, source, options)


def _family(source: Source, config: Any) -> type[Tokenizer]:
    """What the files say; where they say nothing, the family whose vocabulary files are there."""
    paths = [source.find(name) for name in (folder.CONFIG, "config.json")]
    stated, model = (read_json(path) if path else {} for path in paths)
    if config is not None:
        model = {name: getattr(config, name, None) for name in ("tokenizer_class", "model_type")}
    name = str(stated.get("tokenizer_class") or model.get("tokenizer_class") or "").removesuffix("Fast")
    kind = str(model.get("model_type") or "")
    family = BY_CLASS.get(name, Tokenizer) if name else BY_MODEL_TYPE.get(kind, Tokenizer)
    if family is not Tokenizer or source.find(folder.FILE):
        return family
    unknown = name if name not in ("", *NO_FAMILY) else kind if kind not in ("", *BY_MODEL_TYPE) else ""
    if unknown:
        raise ValueError(
            f"{source} has no {folder.FILE!r}, and from other files only {' and '.join(BY_CLASS)} are built, no "
            f"{unknown}; save it with the tokenizer.save_pretrained of transformers, which writes that file"
        )
    for candidate in BY_CLASS.values():
        if all(source.find(file) for file in candidate.vocab_files):
            return candidate
    return family
