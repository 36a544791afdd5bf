"""Text to ids and back, over the engines of the `tokenizers` library."""

from minihf.tokenization.auto import (
    AutoTokenizer,
    BertTokenizer,
    BertTokenizerFast,
    GPT2Tokenizer,
    GPT2TokenizerFast,
    PreTrainedTokenizerFast,
)
from minihf.tokenization.encoding import BatchEncoding
from minihf.tokenization.tokenizer import Tokenizer

__all__ = [
    "AutoTokenizer",
    "BatchEncoding",
    "BertTokenizer",
    "BertTokenizerFast",
    "GPT2Tokenizer",
    "GPT2TokenizerFast",
    "PreTrainedTokenizerFast",
    "Tokenizer",
]
