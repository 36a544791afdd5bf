"""The families over words, bytes and characters: BERT's, GPT's, RoBERTa's and Llama's.

A family is what its checkpoints take for granted without saying so: special tokens, the names of the outputs, and how
an engine is built where there is only a vocabulary. Those over SentencePiece's unigram model are in unigram.py.
"""

from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, models, processors
from tokenizers import Tokenizer as Engine

from minihf.tokenization import engines
from minihf.tokenization.sentencepiece import BPE, bpe_engine, merges_of, read_pieces
from minihf.tokenization.tokenizer import Tokenizer
from minihf.tokenization.unigram import FAIRSEQ_TOKENS, spaced


def read_words(vocab: str, settings: Mapping[str, Any]) -> tuple[dict[str, int], list, list]:
    """A `vocab.txt`."""
    return models.WordPiece.read_file(vocab), [], []


def read_merges(vocab: str, merges: str, settings: Mapping[str, Any]) -> tuple[dict[str, int], list, list]:
    """A `vocab.json` and a `merges.txt`."""
    return *models.BPE.read_file(vocab, merges), []


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
    options = ("do_lower_case", "tokenize_chinese_chars", "strip_accents")
    read = staticmethod(read_words)
    build = staticmethod(engines.bert_engine)
    template = staticmethod(engines.bert_template)


class DistilBertTokenizer(BertTokenizer):
    """BERT's, for a model that knows no token types."""

    model_input_names = ["input_ids", "attention_mask"]


class GPT2Tokenizer(Tokenizer):
    """Byte-level BPE, text as it is, without special tokens around it; see `Tokenizer`.

    Options of its own, while loading: `add_prefix_space` (False: read the first word as if a space came before it),
    `add_bos_token` and `add_eos_token` (False).
    """

    family_tokens = {"unk_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    algorithm = "BPE"
    vocab_files = ("vocab.json", "merges.txt")
    options = ("add_prefix_space", "add_bos_token", "add_eos_token")
    read = staticmethod(read_merges)
    build = staticmethod(engines.gpt2_engine)
    template = staticmethod(engines.gpt2_template)


class RobertaTokenizer(Tokenizer):
    """GPT-2's byte-level BPE, `<s> A </s>` and `<s> A </s> </s> B </s>`; BART's too; see `Tokenizer`.

    Options of its own, while loading: `add_prefix_space` (False) and `trim_offsets` (True: a token's offsets leave out
    the space before it).
    """

    family_tokens = FAIRSEQ_TOKENS
    algorithm = "BPE"
    vocab_files = ("vocab.json", "merges.txt")
    options = ("add_prefix_space", "trim_offsets")
    mask_takes_space = True
    read = staticmethod(read_merges)
    build = staticmethod(engines.gpt2_engine)

    @staticmethod
    def template(tokenizer: Tokenizer) -> processors.PostProcessor:
        return processors.RobertaProcessing(
            (tokenizer.sep_token, tokenizer.sep_token_id),
            (tokenizer.cls_token, tokenizer.cls_token_id),
            trim_offsets=tokenizer.settings.get("trim_offsets", True),
            add_prefix_space=tokenizer.settings.get("add_prefix_space", False),
        )


class OpenAIGPTTokenizer(Tokenizer):
    """BPE over BERT's lower-cased words, "</w>" at the end of each, nothing around a text; see `Tokenizer`."""

    family_tokens = {"unk_token": "<unk>"}
    algorithm = "BPE"
    vocab_files = ("vocab.json", "merges.txt")
    read = staticmethod(read_merges)
    build = staticmethod(engines.openai_gpt_engine)

    @staticmethod
    def template(tokenizer: Tokenizer) -> processors.PostProcessor:
        return engines.framed(tokenizer, {})


class LlamaTokenizer(Tokenizer):
    """SentencePiece's BPE over text as it is, bytes for what it does not know, `<s> A`; Mistral's too; see `Tokenizer`.

    Options of its own, while loading: `legacy` (False; True reads each stretch of text between special tokens as if a
    space came before it), `add_prefix_space` (True: the first), `add_bos_token` (True), `add_eos_token` (False).
    """

    family_tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    algorithm = "BPE"
    vocab_files = ("tokenizer.model",)
    options = ("legacy", "add_prefix_space", "add_bos_token", "add_eos_token", "sp_model_kwargs")
    ends = {"add_bos_token": True}
    padding_side = "left"

    @staticmethod
    def read(file: str, settings: Mapping[str, Any]) -> tuple[dict[str, int], list, list[AddedToken]]:
        found = read_pieces(file, BPE)
        vocab = {piece: index for index, (piece, _) in enumerate(found.pieces)}
        return vocab, merges_of(vocab), found.added

    @classmethod
    def build(cls, vocab: dict[str, int], merges: list, settings: Mapping[str, Any]) -> Engine:
        unknown = str(settings.get("unk_token", "<unk>"))
        return bpe_engine(vocab, merges, unknown, spaced(cls, settings), bool(settings.get("legacy")))

    @staticmethod
    def template(tokenizer: Tokenizer) -> processors.PostProcessor:
        return engines.framed(tokenizer, tokenizer.ends | tokenizer.settings)
