"""The families over SentencePiece's unigram model: XLM-R, CamemBERT, ALBERT, T5, Pegasus.

They differ in where their own tokens stand among the file's pieces, and in what they put around a text.
"""

from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, normalizers, processors
from tokenizers import Tokenizer as Engine

from minihf.tokenization.sentencepiece import Pieces, read_pieces, unigram_engine
from minihf.tokenization.tokenizer import Tokenizer

FAIRSEQ_TOKENS = {
    "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>",
    "cls_token": "<s>", "mask_token": "<mask>",
}  # fmt: skip


class UnigramTokenizer(Tokenizer):
    """What these families have in common; see `Tokenizer`."""

    algorithm = "Unigram"
    vocab_files = ("spiece.model",)
    options = ("sp_model_kwargs",)
    spaces_in_offsets = False

    @classmethod
    def read(cls, file: str, settings: Mapping[str, Any]) -> tuple[Pieces, bytes, list[AddedToken]]:
        found = read_pieces(file)
        return cls.arranged(found.pieces, cls.family_tokens | settings), found.charsmap, found.added

    @classmethod
    def arranged(cls, pieces: Pieces, settings: Mapping[str, Any]) -> Pieces:
        """The vocabulary: the file's pieces and the family's tokens, in the order of the model's ids."""
        return pieces

    @classmethod
    def build(cls, vocab: Pieces, charsmap: bytes, settings: Mapping[str, Any]) -> Engine:
        unknown = str((cls.family_tokens | settings)["unk_token"])
        return unigram_engine(vocab, charsmap, unknown, spaced(cls, settings), spaces_in_offsets=cls.spaces_in_offsets)


def spaced(cls: type[Tokenizer], settings: Mapping[str, Any]) -> bool:
    """Whether a text begins as if a space came before it."""
    stated = settings.get("add_prefix_space") if "add_prefix_space" in cls.options else None
    return True if stated is None else bool(stated)


def fairseq_pieces(pieces: Pieces, settings: Mapping[str, Any]) -> Pieces:
    """fairseq's order: four tokens instead of SentencePiece's three, so that every piece's id is one more."""
    first = [str(settings[f"{role}_token"]) for role in ("bos", "pad", "eos", "unk") if settings.get(f"{role}_token")]
    first = first if len(first) == 4 else ["<s>", *first]
    return [*((token, 0.0) for token in first), *pieces[3:], (str(settings["mask_token"]), 0.0)]


def fairseq_template(tokenizer: Tokenizer) -> processors.PostProcessor:
    """`<s> A </s>`, `<s> A </s> </s> B </s>`."""
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    return processors.TemplateProcessing(
        single=[bos, "$A", eos],
        pair=[bos, "$A", eos, eos, "$B:0", eos],
        special_tokens=[(bos, tokenizer.bos_token_id), (eos, tokenizer.eos_token_id)],
    )


class XLMRobertaTokenizer(UnigramTokenizer):
    """SentencePiece, `<s> A </s>` and `<s> A </s> </s> B </s>`; see `Tokenizer`.

    Option of its own, while loading: `add_prefix_space` (True).
    """

    family_tokens = FAIRSEQ_TOKENS
    vocab_files = ("sentencepiece.bpe.model",)
    options = ("add_prefix_space", "sp_model_kwargs")
    mask_takes_space = True
    arranged = staticmethod(fairseq_pieces)
    template = staticmethod(fairseq_template)


class CamembertTokenizer(UnigramTokenizer):
    """As `XLMRobertaTokenizer`, with five tokens before the file's pieces."""

    family_tokens = FAIRSEQ_TOKENS
    vocab_files = ("sentencepiece.bpe.model",)
    options = ("add_prefix_space", "sp_model_kwargs")
    mask_takes_space = True
    template = staticmethod(fairseq_template)

    @staticmethod
    def complete(settings: dict[str, Any]) -> dict[str, Any]:
        unused = ["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"]
        return settings | {"extra_special_tokens": settings["extra_special_tokens"] or unused}

    @classmethod
    def arranged(cls, pieces: Pieces, settings: Mapping[str, Any]) -> Pieces:
        pad, unk, mask = (str(settings[f"{role}_token"]) for role in ("pad", "unk", "mask"))
        first = [("<s>NOTUSED", 0.0), (pad, 0.0), ("</s>NOTUSED", 0.0), (unk, 0.0), ("<unk>NOTUSED", -100.0)]
        return [*first, *pieces[1:], (mask, 0.0)]


class AlbertTokenizer(UnigramTokenizer):
    """SentencePiece, `[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`; see `Tokenizer`.

    Options of its own, while loading: `do_lower_case` (True), `keep_accents` (False) and `add_prefix_space` (True).
    A piece that ends in a digit and a comma is made unlikely, so that "2019," is a number and a comma (google-research/
    albert, `tokenization.py`); the reference does so up to 4.57.
    """

    model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    family_tokens = {
        "bos_token": "[CLS]", "eos_token": "[SEP]", "unk_token": "<unk>", "sep_token": "[SEP]", "pad_token": "<pad>",
        "cls_token": "[CLS]", "mask_token": "[MASK]",
    }  # fmt: skip
    options = ("do_lower_case", "keep_accents", "add_prefix_space", "sp_model_kwargs")
    mask_takes_space = True

    @classmethod
    def arranged(cls, pieces: Pieces, settings: Mapping[str, Any]) -> Pieces:
        numbers = [piece[-1:] == "," and piece[-2:-1].isdigit() for piece, _ in pieces]
        return [(piece, score - 100 * number) for (piece, score), number in zip(pieces, numbers, strict=True)]

    @classmethod
    def build(cls, vocab: Pieces, charsmap: bytes, settings: Mapping[str, Any]) -> Engine:
        steps = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
        if not settings.get("keep_accents", False):
            steps += [normalizers.NFKD(), normalizers.StripAccents()]
        if settings.get("do_lower_case", True):
            steps.append(normalizers.Lowercase())
        unknown = str((cls.family_tokens | settings)["unk_token"])
        return unigram_engine(vocab, charsmap, unknown, spaced(cls, settings), tuple(steps))

    @staticmethod
    def template(tokenizer: Tokenizer) -> processors.PostProcessor:
        cls, sep = tokenizer.cls_token, tokenizer.sep_token
        return processors.TemplateProcessing(
            single=[f"{cls}:0", "$A:0", f"{sep}:0"],
            pair=[f"{cls}:0", "$A:0", f"{sep}:0", "$B:1", f"{sep}:1"],
            special_tokens=[(cls, tokenizer.cls_token_id), (sep, tokenizer.sep_token_id)],
        )


class T5Tokenizer(UnigramTokenizer):
    """SentencePiece, `A </s>` and `A </s> B </s>`; see `Tokenizer`.

    Option of its own, while loading: `extra_ids` (100), how many sentinels there are: `<extra_id_0>` has the last id.
    """

    family_tokens = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    options = ("extra_ids", "sp_model_kwargs")
    idle = ("legacy",)

    @staticmethod
    def complete(settings: dict[str, Any]) -> dict[str, Any]:
        extra, count = settings["extra_special_tokens"], settings.get("extra_ids", 100)
        stated = sum("<extra_id_" in str(token) for token in extra)
        if stated and count and stated != count:
            raise ValueError(f"extra_ids={count}, and {stated} sentinels are among the extra special tokens; pass one")
        sentinels = [] if stated else [f"<extra_id_{index}>" for index in range(count)]
        return settings | {"extra_special_tokens": [*extra, *sentinels]}

    @classmethod
    def arranged(cls, pieces: Pieces, settings: Mapping[str, Any]) -> Pieces:
        return pieces + [(f"<extra_id_{index}>", 0.0) for index in reversed(range(settings.get("extra_ids", 100)))]

    @staticmethod
    def template(tokenizer: Tokenizer) -> processors.PostProcessor:
        eos = tokenizer.eos_token
        return processors.TemplateProcessing(
            single=["$A", eos], pair=["$A", eos, "$B:0", eos], special_tokens=[(eos, tokenizer.eos_token_id)]
        )

    def get_sentinel_tokens(self) -> list[str]:
        """The tokens that stand for what a model is to fill in."""
        return [token for token in self.extra_special_tokens if token.startswith("<extra_id_")]

    def get_sentinel_token_ids(self) -> list[int]:
        """Their ids."""
        return self.convert_tokens_to_ids(self.get_sentinel_tokens())


class PegasusTokenizer(UnigramTokenizer):
    """SentencePiece, `A </s>` and `A B </s>`; see `Tokenizer`.

    Options of its own, while loading: `mask_token_sent` ("<mask_1>", which hides a sentence) and `offset` (103): that
    many ids are before those of the file's pieces from the third on. `<unk_2>`, `<unk_3>`, … fill them up.
    """

    family_tokens = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask_2>"}
    options = ("mask_token_sent", "offset", "sp_model_kwargs")
    spaces_in_offsets = True
    rebuilt_alike = False

    @staticmethod
    def complete(settings: dict[str, Any]) -> dict[str, Any]:
        sentence = settings.get("mask_token_sent", "<mask_1>")
        own = [*([sentence] if sentence else []), *(f"<unk_{i}>" for i in range(2, settings.get("offset", 103)))]
        extra = settings["extra_special_tokens"]
        stated = set(map(str, extra))
        return settings | {"extra_special_tokens": [*extra, *(token for token in own if token not in stated)]}

    @classmethod
    def arranged(cls, pieces: Pieces, settings: Mapping[str, Any]) -> Pieces:
        first = [settings["pad_token"], settings["eos_token"]]
        first += filter(None, (settings.get("mask_token_sent", "<mask_1>"), settings["mask_token"]))
        unused = [(f"<unk_{index}>", -100.0) for index in range(2, settings.get("offset", 103))]
        return [*((str(token), 0.0) for token in first), *unused, *pieces[2:]]

    @staticmethod
    def template(tokenizer: Tokenizer) -> processors.PostProcessor:
        eos = tokenizer.eos_token
        return processors.TemplateProcessing(
            single=["$A", eos], pair=["$A", "$B:0", eos], special_tokens=[(eos, tokenizer.eos_token_id)]
        )
