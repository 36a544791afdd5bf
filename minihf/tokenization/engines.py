"""Engines of the `tokenizers` library: opened from a file or built from a vocabulary, changed, and put to work.

BERT: WordPiece over words cut at spaces and punctuation (Devlin et al. 2018; google-research/bert, `tokenization.py`).
OpenAI GPT: BPE over such words in lower case (Radford et al. 2018; openai/finetune-transformer-lm, `text_utils.py`).
GPT-2: BPE over bytes, so that no text is unknown; a space is part of the word after it (Radford et al. 2019;
openai/gpt-2, `encoder.py`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Encoding, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Engine

from minihf.checkpoints.hub import CheckpointError
from minihf.tokenization.inputs import Row, refuse_surrogates

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


def encode(
    engine: Engine, rows: list[Row], special: bool, words: bool, truncation: dict | None, padding: dict | None
) -> list[Encoding]:
    """Encode rows under settings that the engine is lent for this: it has its own again afterwards.

    Raises:
        ValueError: a text that is no Unicode, or that cannot be truncated so.
    """
    own = engine.truncation, engine.padding
    try:
        _set(engine, truncation, padding)
        return engine.encode_batch(rows, is_pretokenized=words, add_special_tokens=special)
    except TypeError:
        refuse_surrogates(rows)
        raise
    except BaseException as error:  # the engine's panics derive from nothing narrower
        if truncation is None or isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise ValueError(f"the texts cannot be truncated with {truncation}: {error}") from error
    finally:
        _set(engine, *own)


def _set(engine: Engine, truncation: dict | None, padding: dict | None) -> None:
    engine.enable_truncation(**truncation) if truncation else engine.no_truncation()
    engine.enable_padding(**padding) if padding else engine.no_padding()


def adjust(tokenizer: "Tokenizer", options: Mapping[str, Any]) -> None:
    """Change the tokenizer's engine as the caller asks. ValueError for an option that does not apply to it."""
    engine = tokenizer.backend_tokenizer
    for name in PARTS.keys() & options.keys():
        part, kind, attribute = PARTS[name]
        component = getattr(engine, part)
        if not isinstance(component, kind):
            raise ValueError(
                f"{name}={options[name]!r} does not apply: the {part} of this tokenizer is no {kind.__name__} but a "
                f"{type(component).__name__}; change tokenizer.backend_tokenizer.{part} yourself"
            )
        setattr(component, attribute, options[name])
        setattr(engine, part, component)
    if any(name in options for name in ENDS):
        engine.post_processor = framed(tokenizer, tokenizer.ends | tokenizer.settings)


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


def openai_gpt_engine(vocab: dict[str, int], merges: list, settings: Mapping[str, Any]) -> Engine:
    unknown = str(settings.get("unk_token", "<unk>"))
    affixes = {"continuing_subword_prefix": "", "end_of_word_suffix": "</w>"}
    engine = Engine(models.BPE(vocab, merges, unk_token=unknown, **affixes))
    engine.normalizer = normalizers.BertNormalizer(lowercase=True)
    engine.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    engine.decoder = decoders.BPEDecoder(suffix="</w>")
    return engine


def framed(tokenizer: "Tokenizer", settings: Mapping[str, Any]) -> processors.PostProcessor:
    """`A`, `A B`, each text between the bos and the eos token if `add_bos_token` and `add_eos_token` say so."""
    bos, eos = (getattr(tokenizer, name.removeprefix("add_")) if settings.get(name) else None for name in ENDS)
    first = [f"{piece}:0" for piece in (bos, "$A", eos) if piece]
    second = [f"{piece}:1" for piece in (bos, "$B", eos) if piece]
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in dict.fromkeys((bos, eos)) if token]
    return processors.TemplateProcessing(single=first, pair=first + second, special_tokens=ids)
