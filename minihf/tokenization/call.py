"""A call, `tokenizer(...)`: texts in, ids and masks out."""

import warnings
from typing import TYPE_CHECKING, Any

from minihf.tokenization.encoding import BatchEncoding
from minihf.tokenization.inputs import to_rows
from minihf.tokenization.options import padding_settings, truncation_settings

if TYPE_CHECKING:
    from minihf.tokenization.tokenizer import Tokenizer


def call(
    tokenizer: "Tokenizer",
    /,
    text: Any = None,
    text_pair: Any = None,
    text_target: Any = None,
    text_pair_target: Any = None,
    *,
    add_special_tokens: bool = True,
    padding: bool | str = False,
    truncation: bool | str | None = None,
    max_length: int | None = None,
    max_target_length: int | None = None,
    stride: int = 0,
    is_split_into_words: bool = False,
    pad_to_multiple_of: int | None = None,
    padding_side: str | None = None,
    return_tensors: str | None = None,
    return_token_type_ids: bool | None = None,
    return_attention_mask: bool | None = None,
    return_overflowing_tokens: bool = False,
    return_special_tokens_mask: bool = False,
    return_offsets_mapping: bool = False,
    return_length: bool = False,
    split_special_tokens: bool | None = None,
    verbose: bool = True,
) -> BatchEncoding:
    """Encode a text, a pair of texts, or a batch of either.

    Args:
        text: a str, or any sequence of them: a batch. A batch may also hold pairs, as tuples of two.
        text_pair: the second text of a pair, or of each pair of the batch.
        text_target: what the model is to write: encoded as its target. With `text` beside it, as `labels`.
        text_pair_target: the second text of a target.
        add_special_tokens: put the model's special tokens around each text.
        padding: True or "longest" (fill to the longest row), "max_length" (fill to that), False or "do_not_pad".
        truncation: True or "longest_first" (cut the longer text of a pair first), "only_first", "only_second",
            False or "do_not_truncate". None truncates if `max_length` is given and nothing is padded.
        max_length: in tokens, special ones included; without it the tokenizer's `model_max_length`.
        max_target_length: instead of `max_length` for the targets.
        stride: how many tokens two consecutive parts of a truncated text share.
        is_split_into_words: each text is a list of words.
        pad_to_multiple_of: pad to the next multiple of this.
        padding_side: "right" or "left" instead of the tokenizer's own.
        return_tensors: "pt" (torch), "np" (NumPy), or None for lists.
        return_token_type_ids, return_attention_mask: None returns them if they are in `model_input_names`.
        return_overflowing_tokens: what truncation cuts off makes further rows; `overflow_to_sample_mapping` tells
            from which text each row is.
        return_special_tokens_mask: 1 for special tokens.
        return_offsets_mapping: each token's (start, end) in its text, in characters.
        return_length: each row's number of tokens, padding included.
        split_special_tokens: read special tokens in the texts as ordinary characters; None as the tokenizer says.
        verbose: False warns of nothing.

    Returns:
        `input_ids`, and `token_type_ids` and `attention_mask` as asked: lists (T), or (B, T) for a batch, for
        tensors, and with `return_overflowing_tokens`.

    Raises:
        TypeError: what is no text; it says which. ValueError: options that are unknown or cannot be met.
    """
    if text is None and text_target is None:
        raise TypeError("text is None; pass a str or a sequence of them, as text or, for labels, as text_target")
    jobs = []
    for first, second, target in ((text, text_pair, False), (text_target, text_pair_target, True)):
        end = "_target" if target else ""
        if first is not None:
            jobs.append((first, second, ("text" + end, "text_pair" + end), target or tokenizer._reads_targets))
        elif second is not None:
            raise TypeError(f"text_pair{end} is the second text of a pair whose first, text{end}, is None; pass both")

    made = []
    for first, second, names, target in jobs:
        side = tokenizer._for_targets() if target else tokenizer
        limit = max_length if max_target_length is None or names[0] == "text" else max_target_length
        rows, batched = to_rows(first, second, is_split_into_words, names)
        cutting = limit is not None and padding is False if truncation is None else truncation
        cut = truncation_settings(side, cutting, limit, stride, rows, add_special_tokens, verbose)
        fill = padding_settings(side, padding, limit, pad_to_multiple_of, padding_side, cut, verbose)
        encodings = side._encode(rows, split_special_tokens, add_special_tokens, is_split_into_words, cut, fill)
        if verbose and cut is None and max(map(len, encodings)) > side.model_max_length:
            # the same words each time, so that Python says them once
            warnings.warn(
                f"a text has more than the {side.model_max_length} tokens that the model takes: pass truncation=True, "
                "or cut it before it reaches the model",
                stacklevel=2,
            )
        samples = range(len(encodings))
        if return_overflowing_tokens:
            samples = [i for i, encoding in enumerate(encodings) for _ in (encoding, *encoding.overflowing)]
            encodings = [part for encoding in encodings for part in (encoding, *encoding.overflowing)]

        asked = {
            "input_ids": ("ids", True),
            "token_type_ids": ("type_ids", return_token_type_ids),
            "attention_mask": ("attention_mask", return_attention_mask),
            "special_tokens_mask": ("special_tokens_mask", return_special_tokens_mask),
            "offset_mapping": ("offsets", return_offsets_mapping),
        }
        data: dict[str, Any] = {
            name: [getattr(encoding, attribute) for encoding in encodings]
            for name, (attribute, wanted) in asked.items()
            if (name in side.model_input_names if wanted is None else wanted)
        }
        if not (batched or return_tensors or return_overflowing_tokens):
            data = {name: value[0] for name, value in data.items()}
        if return_length:
            data["length"] = [len(encoding) for encoding in encodings]
        if return_overflowing_tokens:
            data["overflow_to_sample_mapping"] = samples
        made.append(BatchEncoding(data, encodings, tensor_type=return_tensors))
    if len(made) == 2:
        made[0]["labels"] = made[1]["input_ids"]
    return made[0]


def encode(tokenizer: "Tokenizer", text: Any, text_pair: Any = None, add_special_tokens: bool = True, **options: Any):
    """The `input_ids` alone; the options are those of a call."""
    return tokenizer(text, text_pair, add_special_tokens=add_special_tokens, **options)["input_ids"]


def tokenize(
    tokenizer: "Tokenizer", text: Any, pair: Any = None, add_special_tokens: bool = False, **options: Any
) -> list[str]:
    """The tokens of a text, or of a pair; the options are those of a call."""
    _, batched = to_rows(text, pair, options.get("is_split_into_words", False), ("text", "pair"))
    if batched:
        raise TypeError("tokenize takes one text; for a batch there is tokenizer(texts).tokens(i)")
    return tokenizer(text, pair, add_special_tokens=add_special_tokens, **{"verbose": False, **options}).tokens()
