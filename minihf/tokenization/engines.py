"""Engines of the `tokenizers` library: opened from a file, changed as the caller asks, or built from a vocabulary.

BERT: WordPiece over words cut at spaces and punctuation (Devlin et al. 2018; google-research/bert, `tokenization.py`).
GPT-2: BPE over bytes, so that no text is unknown; a space belongs to the word after it (Radford et al. 2019; openai/gpt-2).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer as Engine
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from minihf.checkpoints.hub import CheckpointError

if TYPE_CHECKING:
    from minihf.tokenization.tokenizer import Tokenizer

# An option that changes an engine -> the part of it, the kind that this part must be, and its attribute.
PARTS = {
    "do_lower_case": ("normalizer", normalizers.BertNormalizer, "lowercase"),
    "strip_accents": ("normalizer", normalizers.BertNormalizer, "strip_accents"),
    "tokenize_chinese_chars": ("normalizer", normalizers.BertNormalizer, "handle_chinese_chars"),
    "add_prefix_space": ("pre_tokenizer", pre_tokenizers.ByteLevel, "add_prefix_space"),
}
ENDS = ("add_bos_token", "add_eos_token")


def open_engine(file: Path) -> Engine:
    """The engine that a `tokenizer.json` describes."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {str(file)!r}")
    try:
        return Engine.from_file(str(file))
    except Exception as error:  # the engine raises nothing more precise
        raise CheckpointError(f"{file} is no tokenizer of the tokenizers library: {error}") from error


def adjust(tokenizer: "Tokenizer", options: Mapping[str, Any]) -> None:
    """Change the tokenizer's engine as the caller asks. ValueError for an option that does not apply to it."""
    engine = tokenizer.backend_tokenizer
    for name in PARTS.keys() & options.keys():
        part, kind, attribute = PARTS[name]
        component = getattr(engine, part)
        if not isinstance(component, kind):
            raise ValueError(
                f"{name}={options[name]!r} does not apply: the {part} of this tokenizer is a {type(component).__name__}, not a "
                f"{kind.__name__}; change tokenizer.backend_tokenizer.{part} yourself"
            )
        setattr(component, attribute, options[name])
        setattr(engine, part, component)
    if any(name in options for name in ENDS):
        engine.post_processor = framed(tokenizer, options)


def bert_engine(vocab: dict[str, int], merges: list, settings: Mapping[str, Any]) -> Engine:
    engine = Engine(models.WordPiece(vocab, unk_token=str(settings.get("unk_token", "[UNK]"))))
    engine.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    engine.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    engine.decoder = decoders.WordPiece(prefix="##")
    return engine


def bert_template(tokenizer: "Tokenizer") -> processors.PostProcessor:
    """`[CLS] A [SEP]`, `[CLS] A [SEP] B [SEP]`."""
    cls, sep = tokenizer.cls_token, tokenizer.sep_token
    return processors.TemplateProcessing(
        single=[f"{cls}:0", "$A:0", f"{sep}:0"],
        pair=[f"{cls}:0", "$A:0", f"{sep}:0", "$B:1", f"{sep}:1"],
        special_tokens=[(cls, tokenizer.cls_token_id), (sep, tokenizer.sep_token_id)],
    )


def gpt2_engine(vocab: dict[str, int], merges: list, settings: Mapping[str, Any]) -> Engine:
    engine = Engine(models.BPE(vocab, merges, continuing_subword_prefix="", end_of_word_suffix=""))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=settings.get("add_prefix_space", False))
    engine.decoder = decoders.ByteLevel()
    return engine


def gpt2_template(tokenizer: "Tokenizer") -> processors.PostProcessor:
    return tokenizer.backend_tokenizer.post_processor or framed(tokenizer, tokenizer.settings)


def framed(tokenizer: "Tokenizer", settings: Mapping[str, Any]) -> processors.PostProcessor:
    """`A`, `A B`, each text between the bos and the eos token if `add_bos_token` and `add_eos_token` say so."""
    bos, eos = (getattr(tokenizer, name.removeprefix("add_")) if settings.get(name) else None for name in ENDS)
    text = [*filter(None, [bos]), "$A", *filter(None, [eos])]
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in dict.fromkeys((bos, eos)) if token]
    first, second = ([f"{piece}:{number}" for piece in text] for number in (0, 1))
    second = ["$B:1" if piece == "$A:1" else piece for piece in second]
    return processors.TemplateProcessing(single=first, pair=first + second, special_tokens=ids)
