"""What tokenizers of older releases could also do, and code written for them asks.

Ids that were made apart are framed by the same engine part that frames texts: they are encoded once more by an engine
whose words are the tokens themselves.
"""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer as Engine
from tokenizers import models

from minihf.tokenization.encoding import BatchEncoding, to_lists

if TYPE_CHECKING:
    from minihf.tokenization.tokenizer import Tokenizer


@contextmanager
def as_target_tokenizer(tokenizer: "Tokenizer") -> Iterator[None]:
    """Within it, a call encodes targets: the former way to say `tokenizer(text_target=...)`."""
    tokenizer._reads_targets = True
    try:
        yield
    finally:
        tokenizer._reads_targets = False


def encode_plus(tokenizer: "Tokenizer", text: Any, text_pair: Any = None, **options: Any) -> BatchEncoding:
    """A call with one text or one pair."""
    return tokenizer(text, text_pair, **options)


def batch_encode_plus(tokenizer: "Tokenizer", batch_text_or_text_pairs: Any, **options: Any) -> BatchEncoding:
    """A call with a batch of texts, or of pairs as tuples."""
    if isinstance(batch_text_or_text_pairs, str):
        raise TypeError("batch_encode_plus takes a batch, a list of texts, not one str; tokenizer(text) takes either")
    return tokenizer(batch_text_or_text_pairs, **options)


def prepare_seq2seq_batch(
    tokenizer: "Tokenizer",
    src_texts: Any,
    tgt_texts: Any = None,
    max_length: int | None = None,
    max_target_length: int | None = None,
    padding: bool | str = "longest",
    return_tensors: str | None = None,
    truncation: bool | str = True,
    **options: Any,
) -> BatchEncoding:
    """A call with `text_target`, padded and cut."""
    options |= {"max_length": max_length, "max_target_length": max_target_length, "return_tensors": return_tensors}
    return tokenizer(src_texts, text_target=tgt_texts, padding=padding, truncation=truncation, **options)


def prepare_for_model(
    tokenizer: "Tokenizer",
    ids: Iterable[int],
    pair_ids: Iterable[int] | None = None,
    *,
    return_tensors: str | None = None,
    return_length: bool = False,
    prepend_batch_axis: bool = False,
    **options: Any,
) -> BatchEncoding:
    """Cut, frame and pad ids that were made by `convert_tokens_to_ids(tokenize(text))`, as a call would have done.

    Args:
        ids, pair_ids: one text, and the second of a pair. Lists, arrays or tensors.
        return_tensors: "pt" or "np": of shape (T), or (1, T) with `prepend_batch_axis`.
        return_length: the number of tokens, padding included.
        options: those of a call.

    Raises:
        ValueError: an id that the vocabulary has not.
    """
    words = [None if row is None else _tokens(tokenizer, row) for row in (ids, pair_ids)]
    needed = {*tokenizer.all_special_tokens, *(word for row in words for word in row or ())}
    ids = {token: tokenizer.backend_tokenizer.token_to_id(token) for token in needed}
    vocab = {token: index for token, index in ids.items() if index is not None}
    engine = Engine(models.WordLevel(vocab, unk_token=""))  # of the whole vocabulary it would take a second
    engine.post_processor = tokenizer.backend_tokenizer.post_processor
    framing = copy.copy(tokenizer)
    framing._engine = engine
    made = framing(*words, is_split_into_words=True, **options)
    if return_length:
        made["length"] = len(made["input_ids"])
    return made.convert_to_tensors(return_tensors, prepend_batch_axis)


def build_inputs_with_special_tokens(
    tokenizer: "Tokenizer", token_ids_0: Iterable[int], token_ids_1: Iterable[int] | None = None
) -> list[int]:
    """The ids of one text, or of a pair, with special tokens around."""
    return prepare_for_model(tokenizer, token_ids_0, token_ids_1, verbose=False)["input_ids"]


def create_token_type_ids_from_sequences(
    tokenizer: "Tokenizer", token_ids_0: Iterable[int], token_ids_1: Iterable[int] | None = None
) -> list[int]:
    """The token type ids of what `build_inputs_with_special_tokens` builds."""
    asked = {"return_token_type_ids": True, "verbose": False}
    return prepare_for_model(tokenizer, token_ids_0, token_ids_1, **asked)["token_type_ids"]


def get_special_tokens_mask(
    tokenizer: "Tokenizer",
    token_ids_0: Iterable[int],
    token_ids_1: Iterable[int] | None = None,
    already_has_special_tokens: bool = False,
) -> list[int]:
    """1 for special tokens: of ids that have them, or of what `build_inputs_with_special_tokens` builds from others."""
    if not already_has_special_tokens:
        asked = {"return_special_tokens_mask": True, "verbose": False}
        return prepare_for_model(tokenizer, token_ids_0, token_ids_1, **asked)["special_tokens_mask"]
    if token_ids_1 is not None:
        raise ValueError("ids that have their special tokens are one row; pass them as token_ids_0 alone")
    special = set(tokenizer.all_special_ids)
    return [int(index in special) for index in to_lists(token_ids_0)]


def _tokens(tokenizer: "Tokenizer", ids: Iterable[int]) -> list[str]:
    tokens = tokenizer.convert_ids_to_tokens(ids)
    if None in tokens:
        raise ValueError(f"{to_lists(ids)[tokens.index(None)]} is the id of no token; there are {len(tokenizer)}")
    return tokens
